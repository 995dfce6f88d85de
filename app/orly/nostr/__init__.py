"""The Nostr protocol as pure functions and frozen data: no I/O, no clock, no sockets."""
