"""Tests that are coroutines, and what keeps the loop of one."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Generic, ParamSpec, TypeVar

from tests.transport import run_async

__all__ = ["Stretches", "async_test"]

P = ParamSpec("P")
T = TypeVar("T")


def async_test(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Makes a test of a coroutine function, on the loop that the programs use."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        run_async(test(*args, **kwargs))

    return run


class Stretches(Generic[P, T]):
    """Stands for a function, and counts its calls: all, and the most in one turn of the loop."""

    def __init__(self, inner: Callable[P, T]) -> None:
        self._inner = inner
        self._n_now = 0
        self.n_all = 0
        self.n_most = 0

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        if not self._n_now:
            asyncio.get_running_loop().call_soon(self._end)
        self._n_now += 1
        self.n_all += 1
        self.n_most = max(self.n_most, self._n_now)
        return self._inner(*args, **kwargs)

    def _end(self) -> None:
        self._n_now = 0
