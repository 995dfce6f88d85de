"""A Nostr relay split into small services; this package is all of them."""

__version__ = "0.1.0"
