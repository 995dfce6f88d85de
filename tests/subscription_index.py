"""What tests ask of a subscription index that nothing else needs to know."""

from typing import Any

from orly.relay.subscriptions import SubscriptionIndex

__all__ = ["index_is_empty"]


def index_is_empty(index: SubscriptionIndex[Any]) -> bool:
    """Whether the index holds nothing, empty containers included."""
    return not any(getattr(index, name) for name in vars(index) if name != "_stamp")
