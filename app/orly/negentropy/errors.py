"""The one error of this package."""

__all__ = ["NegentropyError"]


class NegentropyError(ValueError):
    """Input that is not what it should be; the text says what was wrong, and in a message at which byte."""
