"""Every program of the project: its port, its place in the start order and its time budgets, once.

The settings' defaults, the health check and the stop budget derive from this table. A further program is one more
row; a test holds the rows to the rule that what a program needs starts before it.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One program.

    Attributes:
        name: the program's name: console script, log prefix.
        port: the TCP port it listens on by default.
        priority: lower starts earlier and stops later.
        needs: names of the programs it cannot work without.
        ready_budget_s: how long it may take from start until it can work.
        stop_budget_s: how long it may take from SIGTERM until it is gone.
        switched_on_by: the setting that makes it run; None means it always runs.
    """

    name: str
    port: int
    priority: int
    needs: tuple[str, ...] = ()
    ready_budget_s: float
    stop_budget_s: float
    switched_on_by: str | None = None


RELAY: Final = Service(name="orly", port=3334, priority=40, ready_budget_s=30, stop_budget_s=10)

SERVICES: Final = (RELAY,)
