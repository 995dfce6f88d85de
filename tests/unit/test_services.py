from collections.abc import Sequence

import pytest

from orly.services import RELAY, SERVICES, Service
from orly.settings import SETTINGS


def faults(services: Sequence[Service]) -> list[str]:
    """What breaks the rules of the table."""
    by_name = {service.name: service for service in services}
    found = [f"{name} appears twice" for name in by_name if [s.name for s in services].count(name) > 1]
    ports = [service.port for service in services]
    found += [f"port {port} is used twice" for port in sorted(set(ports)) if ports.count(port) > 1]
    for service in services:
        for need in service.needs:
            if need not in by_name:
                found.append(f"{service.name} needs {need}, which does not exist")
            elif by_name[need].priority >= service.priority:
                found.append(f"{service.name} starts no later than {need}, which it needs")
        if min(service.ready_budget_s, service.stop_budget_s) <= 0:
            found.append(f"{service.name} has no time")
    return found


def service(name: str, priority: int, needs: tuple[str, ...] = (), port: int = 1, budget_s: float = 1) -> Service:
    """A row for the tests below."""
    return Service(
        name=name, port=port, priority=priority, needs=needs, ready_budget_s=budget_s, stop_budget_s=budget_s
    )


def test_the_table_keeps_its_rules() -> None:
    assert faults(SERVICES) == []


@pytest.mark.parametrize(
    ("services", "fault"),
    [
        ([service("a", 10, port=1), service("b", 10, ("a",), port=2)], "b starts no later than a, which it needs"),
        ([service("a", 20, port=1), service("b", 10, ("a",), port=2)], "b starts no later than a, which it needs"),
        ([service("b", 10, ("a",))], "b needs a, which does not exist"),
        ([service("a", 10, port=1), service("b", 20, port=1)], "port 1 is used twice"),
        ([service("a", 10, port=1), service("a", 20, port=2)], "a appears twice"),
        ([service("a", 10, budget_s=0)], "a has no time"),
    ],
)
def test_a_broken_rule_is_noticed(services: list[Service], fault: str) -> None:
    assert faults(services) == [fault]


def test_what_is_needed_may_start_earlier() -> None:
    assert faults([service("b", 20, ("a",), port=2), service("a", 10, port=1)]) == []


def test_switches_are_settings() -> None:
    known = {row.env for row in SETTINGS}
    assert [s.name for s in SERVICES if s.switched_on_by is not None and s.switched_on_by not in known] == []


def test_the_relay_always_runs() -> None:
    assert RELAY in SERVICES
    assert RELAY.switched_on_by is None
