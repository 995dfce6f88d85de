"""Access control in a relay's own process."""

from contextlib import AsyncExitStack

from orly import clock
from orly.acl.engine import AclEngine
from orly.acl.rules import rules_from_settings
from orly.intake.verify import Verifier
from orly.settings import Settings
from orly.store.base import EventStore

__all__ = ["local_access"]


async def local_access(settings: Settings, store: EventStore, stack: AsyncExitStack) -> AclEngine:
    """The lists of this process's own store, loaded.

    Raises:
        StoreError: They cannot be read.
    """
    engine = AclEngine(store, rules_from_settings(settings), now_s=clock.now_s)
    stack.push_async_callback(engine.aclose)
    await engine.start()
    if settings.acl_mode == "follows":
        from orly.acl.fetch import fetcher_from_settings  # the client of other relays is for those who need it

        verifier = Verifier(share=False)
        stack.callback(verifier.close)
        if (fetcher := fetcher_from_settings(settings, store, verifier)) is not None:
            fetcher.start()
            stack.push_async_callback(fetcher.close)
    return engine
