"""Opening the store that the settings name: in this process, or that of a service."""
