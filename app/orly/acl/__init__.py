"""Access control: the service that keeps the lists, and the client by which other processes follow it."""
