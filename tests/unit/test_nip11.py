import json
from typing import Any

import pytest

from orly.nostr.nip11 import MAX_SUBID_LENGTH, Limitation, RelayInfo, encode, supported_nips

LIMITATION: dict[str, Any] = {
    "max_message_length": 1_048_576,
    "max_subscriptions": 200,
    "max_filters": 100,
    "max_limit": 5000,
    "default_limit": 500,
    "max_event_tags": 5000,
    "max_content_length": 262_144,
    "min_pow_difficulty": 0,
    "auth_required": False,
    "restricted_writes": False,
    "created_at_upper_limit": 900,
}
REQUIRED: dict[str, Any] = {"supported_nips": (1, 11), "software": "https://example.com/relay", "version": "1.0"}


def document(limitation: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    info = RelayInfo(**REQUIRED, limitation=Limitation(**LIMITATION | (limitation or {})), **fields)
    parsed = json.loads(encode(info))
    assert isinstance(parsed, dict)
    return parsed


def test_every_field_has_its_name_of_nip_11() -> None:
    texts: dict[str, Any] = {
        name: f"the {name}"
        for name in (
            "name",
            "description",
            "banner",
            "icon",
            "pubkey",
            "contact",
            "posting_policy",
            "privacy_policy",
            "terms_of_service",
        )
    }
    lists: dict[str, Any] = {"relay_countries": ("CH", "DE"), "language_tags": ("de",), "tags": ("sfw-only",)}
    parsed = document(own_pubkey="ab" * 32, **texts, **lists)
    assert {name: parsed[name] for name in texts} == texts
    assert {name: tuple(parsed[name]) for name in lists} == lists
    assert parsed["self"] == "ab" * 32
    assert "own_pubkey" not in parsed
    assert parsed["supported_nips"] == [1, 11]


def test_empty_fields_are_left_out() -> None:
    assert set(document()) == {"supported_nips", "software", "version", "limitation"}


def test_limits_are_always_there_also_when_they_are_zero_or_false() -> None:
    expected = LIMITATION | {"max_subid_length": MAX_SUBID_LENGTH, "payment_required": False}
    assert document()["limitation"] == expected


def test_a_lower_limit_for_created_at_only_when_it_is_set() -> None:
    assert "created_at_lower_limit" not in document()["limitation"]
    assert document({"created_at_lower_limit": 86_400})["limitation"]["created_at_lower_limit"] == 86_400


@pytest.mark.parametrize(
    ("difficulty", "others", "nips"),
    [
        (0, (), (1, 9, 11, 40, 42, 45, 62, 70)),
        (1, (), (1, 9, 11, 13, 40, 42, 45, 62, 70)),
        (0, (77, 1, 2), (1, 2, 9, 11, 40, 42, 45, 62, 70, 77)),
    ],
)
def test_only_what_is_active_is_announced(difficulty: int, others: tuple[int, ...], nips: tuple[int, ...]) -> None:
    assert supported_nips(min_pow_difficulty=difficulty, others=others) == nips


def test_negentropy_is_announced_when_it_is_on() -> None:
    assert supported_nips(min_pow_difficulty=0, has_negentropy=True) == (1, 9, 11, 40, 42, 45, 62, 70, 77)
    assert document(negentropy=1)["negentropy"] == 1
    assert "negentropy" not in document()
