"""Every limit of the write policy at its edge, and the rules about who may publish what."""

import json
from typing import Any

import pytest
from tests.factory import FAKE_SIG, KEYS, NOW_S, event_fields, fake_event, mined_event, vanish_event
from tests.settings_environment import load_with

from orly.intake.policy import WritePolicy, policy_from_settings
from orly.nostr.event import EncodedEvent
from orly.nostr.reason import Prefix, Refusal

PROTECTED = (("-",),)


def policy(**changes: Any) -> WritePolicy:
    open_to_all: dict[str, Any] = {
        "max_event_bytes": 100_000,
        "max_event_tags": 1000,
        "max_created_at_past_s": 0,
        "max_created_at_future_s": 900,
    }
    return WritePolicy(**(open_to_all | changes))


def check(event: EncodedEvent, *keys: str, now_s: int = NOW_S, **changes: Any) -> Refusal | None:
    return policy(**changes).check(event, now_s=now_s, authenticated=frozenset(keys))


def refused(event: EncodedEvent, *keys: str, **changes: Any) -> tuple[Prefix, str]:
    refusal = check(event, *keys, **changes)
    assert refusal is not None
    return refusal.prefix, refusal.detail


def test_plain_event_passes() -> None:
    assert check(fake_event()) is None


def test_size_is_that_of_the_canonical_json_in_bytes() -> None:
    event = fake_event(content="é" * 50)
    size = len(event.raw)
    assert check(event, max_event_bytes=size) is None
    assert refused(event, max_event_bytes=size - 1) == (
        Prefix.INVALID,
        f"event has {size} bytes, the maximum is {size - 1}",
    )


def test_tags() -> None:
    event = fake_event(tags=[["t", str(n)] for n in range(4)])
    assert check(event, max_event_tags=4) is None
    assert refused(event, max_event_tags=3) == (Prefix.INVALID, "event has 4 tags, the maximum is 3")
    assert check(fake_event(), max_event_tags=0) is None


def test_future() -> None:
    assert check(fake_event(created_at=NOW_S + 900)) is None
    prefix, detail = refused(fake_event(created_at=NOW_S + 901))
    assert prefix is Prefix.INVALID
    assert detail == "created_at is more than 900 s in the future"
    assert check(fake_event(created_at=NOW_S), max_created_at_future_s=0) is None
    assert check(fake_event(created_at=NOW_S + 1), max_created_at_future_s=0) is not None
    assert check(fake_event(created_at=2**63 - 1)) is not None


def test_past() -> None:
    assert check(fake_event(created_at=NOW_S - 60), max_created_at_past_s=60) is None
    prefix, detail = refused(fake_event(created_at=NOW_S - 61), max_created_at_past_s=60)
    assert prefix is Prefix.INVALID
    assert detail == "created_at is more than 60 s in the past"
    assert check(fake_event(created_at=0)) is None, "0 means any age"


def test_fraction_of_a_second_counts() -> None:
    assert check(fake_event(created_at=NOW_S + 1), max_created_at_future_s=0.5) is not None
    assert check(fake_event(created_at=NOW_S - 1), max_created_at_past_s=1.5) is None
    assert check(fake_event(created_at=NOW_S - 2), max_created_at_past_s=1.5) is not None


@pytest.mark.parametrize("kind", [22_242, 27_235])
def test_credentials_are_not_published(kind: int) -> None:
    assert refused(fake_event(kind=kind), KEYS[0]) == (
        Prefix.INVALID,
        f"kind {kind} is a credential and is not published",
    )
    assert check(fake_event(kind=kind - 1)) is None
    assert check(fake_event(kind=kind + 1)) is None


def test_work() -> None:
    assert check(mined_event(8), min_pow_difficulty=8) is None
    assert refused(mined_event(8), min_pow_difficulty=9) == (Prefix.POW, "difficulty 8 is less than 9")
    assert check(mined_event(8, target=7), min_pow_difficulty=8) is not None, "it aimed lower than was asked for"
    assert check(mined_event(0)) is None


def test_request_to_vanish_names_a_relay() -> None:
    assert check(vanish_event()) is None
    assert check(vanish_event("wss://relay.example.com")) is None
    for tags in ([], [["relay"]], [["relay", ""]], [["p", "ALL_RELAYS"]]):
        assert refused(fake_event(kind=62, tags=tags)) == (Prefix.INVALID, "a request to vanish must name a relay")
    assert check(fake_event(kind=62, tags=[["relay"], ["relay", "ALL_RELAYS"]])) is None


def test_authentication_to_write() -> None:
    assert refused(fake_event(), auth_to_write=True) == (
        Prefix.AUTH_REQUIRED,
        "this relay takes events from authenticated clients only",
    )
    assert check(fake_event(key=0), KEYS[1], auth_to_write=True) is None, "any key will do"


def test_remote_signing_passes_without_authentication_when_told() -> None:
    signing = fake_event(kind=24_133)
    assert refused(signing, auth_to_write=True)[0] is Prefix.AUTH_REQUIRED
    assert check(signing, auth_to_write=True, nip46_bypass_auth=True) is None
    for kind in (24_132, 24_134, 1):
        assert check(fake_event(kind=kind), auth_to_write=True, nip46_bypass_auth=True) is not None


def test_remote_signing_does_not_bypass_protection() -> None:
    event = fake_event(kind=24_133, tags=PROTECTED)
    assert refused(event, auth_to_write=True, nip46_bypass_auth=True)[0] is Prefix.AUTH_REQUIRED


def test_protected_event_is_taken_from_its_author_only() -> None:
    event = fake_event(key=0, tags=PROTECTED)
    detail = "a protected event is taken from its author only"
    assert refused(event) == (Prefix.AUTH_REQUIRED, detail)
    assert refused(event, KEYS[1]) == (Prefix.RESTRICTED, detail)
    assert check(event, KEYS[0]) is None
    assert check(event, KEYS[1], KEYS[0]) is None


def test_protection_may_stand_anywhere_and_have_values() -> None:
    assert check(fake_event(tags=[["t", "x"], ["-", "value"]])) is not None
    assert check(fake_event(tags=[["t", "-"], ["--"]])) is None


def repost(content: str, kind: int = 6) -> EncodedEvent:
    return fake_event(key=1, kind=kind, content=content)


@pytest.mark.parametrize("kind", [6, 16])
def test_repost_must_not_embed_a_protected_event(kind: int) -> None:
    protected = fake_event(key=0, tags=PROTECTED).raw.decode()
    assert refused(repost(protected, kind), KEYS[1]) == (
        Prefix.BLOCKED,
        "a repost must not embed a protected event",
    )
    assert check(repost(protected, 1)) is None, "an ordinary note may quote what it likes"


@pytest.mark.parametrize("dash", ["-", "\\u002d", "\\u002D"])
def test_repost_cannot_hide_protection_behind_spelling(dash: str) -> None:
    fields = event_fields(fake_event(key=0, tags=PROTECTED))
    spelled = json.dumps(fields, indent=1).replace('"-"', f'"{dash}"')
    assert dash in spelled
    assert refused(repost(spelled))[0] is Prefix.BLOCKED


@pytest.mark.parametrize(
    "content",
    ["", "no JSON", '"-"', '["-"]', '{"tags":[["-"]]}', fake_event(tags=[["t", "-"]]).raw.decode(), "[" * 5000 + '"-"'],
    ids=["empty", "text", "string", "array", "no event", "a tag's value", "deep"],
)
def test_repost_of_anything_else_passes(content: str) -> None:
    assert check(repost(content)) is None


def test_signature_is_not_this_policys_concern() -> None:
    assert fake_event().event.sig == FAKE_SIG
    assert check(fake_event()) is None


def test_configurations_of_those_who_curate_must_be_readable() -> None:
    def config(limit: str, key: int = 0) -> EncodedEvent:
        return fake_event(key, kind=30_078, tags=[("d", "curating-config"), ("daily_limit", limit)])

    curators = frozenset({KEYS[0]})
    assert refused(config("2o"), curators=curators) == (
        Prefix.INVALID,
        "daily_limit must be a whole number, not '2o'",
    )
    for event in (config("20"), config("2o", key=1), fake_event(kind=30_078, tags=[("daily_limit", "2o")])):
        assert check(event, curators=curators) is None
    assert check(config("2o")) is None


@pytest.mark.parametrize(("mode", "expected"), [("curating", {KEYS[0], KEYS[1]}), ("managed", set())])
def test_who_curates_is_an_owner_or_admin_in_that_mode(mode: str, expected: set[str]) -> None:
    given = {"ORLY_ACL_MODE": mode, "ORLY_OWNERS": KEYS[0], "ORLY_ADMINS": KEYS[1]}
    assert policy_from_settings(load_with(**given).settings).curators == expected
