"""The one error of the benchmark."""

__all__ = ["BenchError"]


class BenchError(Exception):
    """A relay did something that makes its figures meaningless, or cannot be measured; the text says what."""
