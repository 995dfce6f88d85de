"""The event store: one interface (`base`) and its implementations."""
