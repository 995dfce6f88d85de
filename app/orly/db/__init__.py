"""`orly-db`: the event store as a service."""
