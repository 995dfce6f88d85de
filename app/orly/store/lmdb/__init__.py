"""The event store on LMDB; nothing outside this package imports `lmdb`."""
