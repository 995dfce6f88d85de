"""Sync with other relays: a client of them, and what it keeps equal on both sides."""
