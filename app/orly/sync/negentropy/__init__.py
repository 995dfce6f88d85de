"""Syncing with other relays by negentropy (NIP-77): one run with a peer, the sets kept for it, and its service."""
