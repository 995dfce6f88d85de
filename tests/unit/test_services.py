from collections.abc import Sequence

import pytest
from tests.settings_environment import load_with

from orly.services import (
    ACL,
    DB,
    RELAY,
    SERVICES,
    SYNC_NEGENTROPY,
    Service,
    enabled,
    process_count,
    start_s,
    stop_budget_s,
    stop_grace_s,
)
from orly.settings import SETTINGS, Settings


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


def test_what_names_a_setting_names_one() -> None:
    known = {row.attr for row in SETTINGS}
    fields = [field for field in Service.__dataclass_fields__ if field.endswith("_attr")]
    assert len(fields) == 6
    named = {f"{s.name}.{field}": getattr(s, field) for s in SERVICES for field in fields}
    assert [place for place, attr in named.items() if attr and attr not in known] == []


def test_every_program_has_an_address() -> None:
    assert [s.name for s in SERVICES if not s.listen_attr] == []
    assert [s.name for s in SERVICES if s.probe == "http" and not s.port_attr] == []


def test_programs_are_in_the_order_of_their_start() -> None:
    assert enabled(Settings()) == (DB, RELAY)
    assert enabled(Settings(launcher_sync_negentropy_enabled=True)) == (DB, SYNC_NEGENTROPY, RELAY)


@pytest.mark.parametrize(
    ("workers", "cores", "count"), [(0, 1, 1), (0, 3, 3), (0, 4, 4), (0, 5, 4), (0, 0, 1), (7, 2, 7)]
)
def test_one_worker_for_each_core_up_to_four(workers: int, cores: int, count: int) -> None:
    settings = load_with(ORLY_RELAY_WORKERS=str(workers)).settings
    assert process_count(RELAY, settings, cores=cores) == count
    assert process_count(DB, settings, cores=cores) == 1


def test_a_start_lasts_longer_than_the_wait_for_others() -> None:
    settings = load_with(ORLY_LAUNCHER_DB_READY_TIMEOUT="2500ms", ORLY_LAUNCHER_ACL_READY_TIMEOUT="3s").settings
    assert start_s(RELAY, SERVICES, settings) == 8
    assert start_s(RELAY, (DB, RELAY), settings) == 5
    assert start_s(DB, SERVICES, settings) == 1
    assert start_s(ACL, SERVICES, settings) == 5
    assert start_s(SYNC_NEGENTROPY, SERVICES, settings) == 8


def test_nobody_waits_for_a_sync_service() -> None:
    assert [service.name for service in SERVICES if SYNC_NEGENTROPY.name in service.needs] == []


def test_stop_budgets_follow_the_settings() -> None:
    settings = load_with(ORLY_LAUNCHER_STOP_TIMEOUT="7s", ORLY_STOP_TIMEOUT="1500ms").settings
    assert stop_budget_s(DB, settings) == 7
    assert stop_budget_s(RELAY, settings) == 4  # the relay's own bound, two seconds more, rounded up


def test_the_grace_of_the_whole_covers_every_step() -> None:
    settings = load_with(ORLY_LAUNCHER_STOP_TIMEOUT="7s", ORLY_STOP_TIMEOUT="3s").settings
    assert stop_grace_s(settings) == (7 + 1) + (5 + 1) + 2
    assert stop_grace_s(Settings()) == 46
    assert stop_grace_s(Settings(launcher_sync_negentropy_enabled=True)) == 77
    assert stop_grace_s(Settings(launcher_acl_enabled=True, launcher_sync_negentropy_enabled=True)) == 108
