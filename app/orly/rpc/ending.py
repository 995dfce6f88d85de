"""How a call that is written to has ended.

When the other side ends such a call while a message is on its way there, `grpc.aio` may put a status of its own
over the one that came: INTERNAL, with a text that names nothing.
"""

from collections.abc import Coroutine
from typing import Any, Final

import grpc

__all__ = ["CallEnding"]

_OVERWRITTEN: Final = "Internal error from Core"


class CallEnding:
    """The status that came, whatever was put over it.

    Args:
        call: A call of `grpc.aio` with a stream of requests, which has just been made.
    """

    def __init__(self, call: Any) -> None:
        self._came: tuple[grpc.StatusCode, str] | None = None
        call.add_done_callback(self._keep)

    def _keep(self, call: Any) -> None:
        self._came = (_at_once(call.code()), _at_once(call.details()))

    def status(self, error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str]:
        """The code and its text, for the error that the call raised; UNAVAILABLE if what came is not known."""
        raised = error.code(), error.details()
        for code, text in (self._came or raised, raised):
            if not (code is grpc.StatusCode.INTERNAL and text == _OVERWRITTEN):
                return code, text or code.name
        return grpc.StatusCode.UNAVAILABLE, "it ended the call"


def _at_once(result: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns that has nothing to wait for."""
    try:
        result.send(None)
    except StopIteration as stop:
        return stop.value
    result.close()
    raise RuntimeError("a call that is over has no status")
