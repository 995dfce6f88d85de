"""The client-facing process: sockets, sessions, subscriptions, and the way of an event to the store and back."""
