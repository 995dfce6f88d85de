"""gRPC between the services: servers, channels, health, TLS, tokens, messages."""
