"""What `orly sync` makes of its options, and how it shows numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.settings_environment import NSEC, SECRET

from orly import clock
from orly.cli import sync_report
from orly.cli.json_lines import JsonLines
from orly.cli.sync_options import OptionError, SyncOptions
from orly.cli.sync_report import amount
from orly.cli.sync_request import MAX_FRAME_BYTES, read_request
from orly.cli.sync_times import parse_age, parse_range, parse_time
from orly.nostr.event import MAX_CREATED_AT
from orly.nostr.filter import Filter
from orly.settings import load
from orly.sync.negentropy.request import MAX_BATCH_EVENTS, MIN_FRAME_BYTES, Direction, Phase, SyncProgress, SyncRequest

NOW_S = 1_700_000_000
DAY_S = 86_400
URL = "wss://relay.example.com"


def requested(tmp_path: Path, *, variables: dict[str, str] | None = None, **options: Any) -> SyncRequest:
    settings = load({"HOME": str(tmp_path), **(variables or {})}).settings
    return read_request(SyncOptions(**{"url": URL, **options}), settings, NOW_S)


def refusal(tmp_path: Path, **options: Any) -> str:
    with pytest.raises(OptionError) as caught:
        requested(tmp_path, **options)
    return str(caught.value)


# Times


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0),
        ("90s", 90),
        ("5m", 300),
        ("12h", 12 * 3600),
        ("1d", DAY_S),
        ("3w", 21 * DAY_S),
        ("2M", 61 * DAY_S),
        ("1Y", 31_556_952),
        ("1.5d", 129_600),
        (".5h", 1800),
        ("2.h", 7200),
        ("0.1s", 0),
    ],
)
def test_an_age_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert parse_age(text, NOW_S) == NOW_S - seconds
    assert parse_time(text, NOW_S) == NOW_S - seconds


def test_nothing_is_older_than_1970() -> None:
    assert parse_age("1700000000s", NOW_S) == 0
    assert parse_age("1700000001s", NOW_S) == 0
    assert parse_age("1699999999s", NOW_S) == 1
    assert parse_age("999999999999999999Y", NOW_S) == 0


@pytest.mark.parametrize("text", ["", "d", "1", "1D", "-1d", "1 d", "1d2h", "1e3s", ".d", "1d\n", "١d", "1" * 19 + "s"])
def test_what_is_no_age_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an age: write a number with"):
        parse_age(text, NOW_S)


def test_a_time_may_be_seconds_since_1970() -> None:
    assert parse_time("0", NOW_S) == 0
    assert parse_time("1600000000", NOW_S) == 1_600_000_000
    assert parse_time("9" * 18, NOW_S) == 10**18 - 1
    for text in ("9" * 19, "-1", "1.5", "yesterday", ""):
        with pytest.raises(ValueError, match="is not a time: write seconds since 1970, or how long ago"):
            parse_time(text, NOW_S)


@given(st.text(max_size=12) | st.from_regex(r"[0-9.]{1,25}[smhdwMYx]", fullmatch=True), st.integers(0, 2**40))
def test_any_text_is_a_time_of_the_past_or_refused(text: str, now_s: int) -> None:
    try:
        found = parse_age(text, now_s)
    except ValueError as error:
        assert str(error).startswith(repr(text))  # noqa: PT017
    else:
        assert 0 <= found <= now_s


@pytest.mark.parametrize(
    ("text", "since", "until"),
    [
        ("2M-", NOW_S - 61 * DAY_S, None),
        ("-3w", None, NOW_S - 21 * DAY_S),
        ("1Y-3w", NOW_S - 31_556_952, NOW_S - 21 * DAY_S),
        ("1d-1d", NOW_S - DAY_S, NOW_S - DAY_S),
        ("-", None, None),
    ],
)
def test_a_range_has_two_ages_each_of_which_may_be_left_out(text: str, since: int | None, until: int | None) -> None:
    assert parse_range(text, NOW_S) == (since, until)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("2M", "has no dash"),
        ("", "has no dash"),
        ("1d-2d", "ends before it starts"),
        ("1-2", "'1' is not an age"),
        ("1d-2d-3d", "'2d-3d' is not an age"),
    ],
)
def test_what_is_no_range_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_range(text, NOW_S)


# The request


def test_without_options_everything_comes_down(tmp_path: Path) -> None:
    assert requested(tmp_path) == SyncRequest(url=URL, filter=Filter(), direction=Direction.DOWN, timeout_s=60)


@pytest.mark.parametrize("word", ["down", "up", "both", "none"])
def test_a_direction_is_kept(tmp_path: Path, word: str) -> None:
    assert requested(tmp_path, direction=word).direction is Direction(word)
    assert requested(tmp_path, direction=word, dry_run=True).direction is Direction.NONE


def test_printing_ids_transfers_nothing(tmp_path: Path) -> None:
    for options in ({}, {"direction": "none"}, {"dry_run": True}):
        request = requested(tmp_path, print_missing=True, **options)
        assert (request.direction, request.list_ids) == (Direction.NONE, True)
    assert "leave --dir out" in refusal(tmp_path, print_missing=True, direction="down")
    assert not requested(tmp_path, dry_run=True).list_ids


def test_a_wrong_direction_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, direction="sideways") == "--dir sideways: write down, up, both or none"
    assert refusal(tmp_path, direction="DOWN") == "--dir DOWN: write down, up, both or none"


@pytest.mark.parametrize("option", ["direction", "filter_json", "since", "until", "span", "timeout", "url"])
def test_an_option_that_is_empty_is_not_taken_for_none(tmp_path: Path, option: str) -> None:
    assert refusal(tmp_path, **{option: ""})


@pytest.mark.parametrize("url", ["", "relay.example.com", "ftp://x", "ws://", "wss://a b", "wss://x:0", "wss://u@x"])
def test_a_wrong_url_is_refused(tmp_path: Path, url: str) -> None:
    assert refusal(tmp_path, url=url)


def test_a_web_address_is_that_of_its_relay(tmp_path: Path) -> None:
    assert requested(tmp_path, url="https://Relay.example.com:443/").url == URL
    assert requested(tmp_path, url="http://127.0.0.1:80/x/").url == "ws://127.0.0.1/x"


def test_the_whole_filter_counts(tmp_path: Path) -> None:
    text = '{"kinds": [0, 3, 1984], "#t": ["x"], "since": 5, "until": 9, "limit": 7}'
    wanted = requested(tmp_path, filter_json=text).filter
    assert wanted == Filter(kinds=frozenset({0, 3, 1984}), tags={"t": frozenset({"x"})}, since=5, until=9, limit=7)


@pytest.mark.parametrize("text", ["", "{", "[]", "[{}]", '{"kinds": 1}', '{"search": "x"}', '{"authors": ["ab"]}', "1"])
def test_a_bad_filter_is_refused_and_nothing_is_synced_instead(tmp_path: Path, text: str) -> None:
    assert refusal(tmp_path, filter_json=text).startswith("--filter: ")


def test_times_tighten_those_of_the_filter(tmp_path: Path) -> None:
    def times(**options: Any) -> tuple[int, int]:
        wanted = requested(tmp_path, **options).filter
        return wanted.since, wanted.until

    assert times() == (0, MAX_CREATED_AT)
    assert times(since="10", until="20") == (10, 20)
    assert times(since="10", until="10") == (10, 10)
    assert times(since="1d") == (NOW_S - DAY_S, MAX_CREATED_AT)
    assert times(filter_json='{"since": 15, "until": 16}', since="10", until="20") == (15, 16)
    assert times(filter_json='{"since": 5, "until": 30}', since="10", until="20") == (10, 20)
    assert times(span="2d-1d") == (NOW_S - 2 * DAY_S, NOW_S - DAY_S)
    assert times(span="-1d") == (0, NOW_S - DAY_S)
    assert "nothing can be from 10 on and up to 9" in refusal(tmp_path, since="10", until="9")
    assert refusal(tmp_path, since="x").startswith("--since: 'x' is not a time")
    assert refusal(tmp_path, until="x").startswith("--until: 'x' is not a time")
    assert refusal(tmp_path, span="x").startswith("--range: 'x' has no dash")


@pytest.mark.parametrize(
    "other", [{"since": "1"}, {"until": "1"}, {"filter_json": '{"since": 1}'}, {"filter_json": '{"until": 1}'}]
)
def test_a_range_excludes_other_times(tmp_path: Path, other: dict[str, str]) -> None:
    assert refusal(tmp_path, span="2M-", **other).startswith("--range excludes ")


def test_every_limit_holds_at_its_edge(tmp_path: Path) -> None:
    assert requested(tmp_path, frame_bytes=0).frame_bytes == 0
    assert requested(tmp_path, frame_bytes=MIN_FRAME_BYTES).frame_bytes == MIN_FRAME_BYTES
    assert requested(tmp_path, frame_bytes=MAX_FRAME_BYTES).frame_bytes == MAX_FRAME_BYTES
    for bad in (-1, 1, MIN_FRAME_BYTES - 1, MAX_FRAME_BYTES + 1):
        assert refusal(tmp_path, frame_bytes=bad).startswith(f"--frame-size-limit {bad}: ")
    assert requested(tmp_path, batch=1).batch_events == 1
    assert requested(tmp_path, batch=MAX_BATCH_EVENTS).batch_events == MAX_BATCH_EVENTS
    for bad in (0, MAX_BATCH_EVENTS + 1):
        assert refusal(tmp_path, batch=bad).startswith(f"--batch {bad}: ")
    assert requested(tmp_path, timeout="1").timeout_s == 1
    assert requested(tmp_path, timeout="24h").timeout_s == DAY_S
    for text in ("0", "999ms", "24h1s", "-1s", "soon"):
        assert refusal(tmp_path, timeout=text).startswith(f"--timeout {text}: ")


def test_settings_count_where_an_option_is_left_out(tmp_path: Path) -> None:
    variables = {
        "ORLY_SYNC_NEGENTROPY_PEER_TIMEOUT": "7s",
        "ORLY_SYNC_NEGENTROPY_PRIVATE_KINDS": "true",
        "ORLY_RELAY_SECRET_KEY": NSEC,
    }
    request = requested(tmp_path, variables=variables)
    assert (request.timeout_s, request.private_kinds) == (7, True)
    assert request.auth_key == bytes.fromhex(SECRET)
    own = {**variables, "ORLY_SYNC_NEGENTROPY_SECRET_KEY": "11" * 32}
    assert requested(tmp_path, variables=own).auth_key == bytes([0x11] * 32)
    assert requested(tmp_path, variables=own, timeout="8s").timeout_s == 8
    assert requested(tmp_path, private_kinds=True).private_kinds
    assert requested(tmp_path).auth_key is None


def test_a_key_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    for text in (NSEC, SECRET, f"  {NSEC}\n", f"{NSEC}\r\n"):
        file.write_text(text)
        assert requested(tmp_path, auth_key_file=file).auth_key == bytes.fromhex(SECRET)
    assert "has no effect with --server" in refusal(tmp_path, auth_key_file=file, server="127.0.0.1:1")


@pytest.mark.parametrize("data", [b"", b" \n", SECRET.encode()[:-1], b"\xff" * 64, SECRET.encode() + b" " * 9_000])
def test_a_file_without_a_key_is_refused_and_never_repeated(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(data)
    said = refusal(tmp_path, auth_key_file=file)
    assert said.startswith(f"--auth-key-file {file}")
    assert SECRET[:10] not in said
    file.unlink()
    assert refusal(tmp_path, auth_key_file=file).endswith("cannot be read: No such file or directory")


# Numbers


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_499, "999.5 kB"),
        (999_500, "1.0 MB"),
        (1_234_567, "1.2 MB"),
        (12 * 10**9, "12.0 GB"),
        (5 * 10**12, "5000.0 GB"),
    ],
)
def test_amounts_are_short(n_bytes: int, text: str) -> None:
    assert amount(n_bytes) == text


def test_a_line_is_written_only_when_there_is_something_new(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s)
    with sync_report.sync_report(Direction.BOTH, None) as report:
        report.tick()
        report.progress(SyncProgress(phase=Phase.RECONCILING, round=2, need=9, have=3, fetched=1, bytes_received=2000))
        report.progress(SyncProgress(phase=Phase.RECONCILING, round=3, need=9, have=3, fetched=4, bytes_received=3000))
        assert capsys.readouterr().err == ""
        now_s += 2
        report.tick()
        report.tick()
        now_s += 1
        report.progress(SyncProgress(phase=Phase.TRANSFERRING, round=3, need=9, have=3, fetched=9, sent=3))
        report.tick()
    assert capsys.readouterr() == (
        "",
        "comparing, round 3: 9 missing here, 3 missing there; 4 fetched (2/s), 0 sent (0/s); 3.0 kB in, 0 B out\n"
        "transferring: 9 missing here, 3 missing there; 9 fetched (5/s), 3 sent (3/s); 0 B in, 0 B out\n",
    )


def test_json_has_a_line_for_each_phase_and_one_a_second(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 5.0
    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s)
    with sync_report.sync_report(Direction.DOWN, JsonLines()) as report:
        report.tick()
        report.progress(SyncProgress())
        report.progress(SyncProgress(phase=Phase.RECONCILING, round=1))
        report.progress(SyncProgress(phase=Phase.RECONCILING, round=2, need=7))
        now_s += 1.25
        report.tick()
        report.tick()
        report.say("aside")
    out, err = capfd.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["phase"], line["round"], line["need"], line["elapsed_s"]) for line in lines] == [
        ("connecting", 0, 0, 0.0),
        ("reconciling", 1, 0, 0.0),
        ("reconciling", 2, 7, 1.25),
    ]
    assert {line["type"] for line in lines} == {"progress"}
    assert err == "aside\n"
