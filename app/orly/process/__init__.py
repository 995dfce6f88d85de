"""What every program of the project does at its start and its end: streams, signals, logs, exit status."""
