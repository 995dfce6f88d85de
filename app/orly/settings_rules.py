"""The rules between settings, in one place; bounds of a single value are in the table."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from orly.settings_access import acl_server
from orly.settings_load import Setting
from orly.settings_service_types import is_local

if TYPE_CHECKING:
    from orly.settings import Settings

CEILINGS: Final = (
    ("default_limit", "max_limit"),
    ("max_event_bytes", "max_message_bytes"),
    ("max_subscriptions_per_connection", "max_subscriptions"),
    ("max_send_backlog_bytes", "max_total_send_backlog_bytes"),
)
"""Attributes that must not exceed another. A default that would is lowered; a value that was given is refused."""

_ANSWERS_IN_BACKLOG: Final = 4
"""What may wait for a reader holds two of the longest negentropy answers, which are sent as hex."""


def lower_defaults(
    settings: "Settings", rows: Sequence[Setting], sources: Mapping[str, str]
) -> tuple["Settings", dict[str, str]]:
    """Lower defaults to ceilings that were given, so that setting one limit does not demand setting another.

    Returns:
        The settings, and the new sources of those that were lowered.
    """
    env = {row.attr: row.env for row in rows}
    lowered = {
        attr: ceiling
        for attr, ceiling in CEILINGS
        if sources[env[attr]] == "default" and getattr(settings, attr) > getattr(settings, ceiling)
    }
    values = {attr: getattr(settings, ceiling) for attr, ceiling in lowered.items()}
    answer, backlog = "negentropy_answer_bytes", "max_send_backlog_bytes"
    most_bytes = values.get(backlog, getattr(settings, backlog)) // _ANSWERS_IN_BACKLOG
    if sources[env[answer]] == "default" and getattr(settings, answer) > most_bytes:
        lowered[answer], values[answer] = backlog, most_bytes
    notes = {env[attr]: f"default, lowered to {env[ceiling]}" for attr, ceiling in lowered.items()}
    notes |= _access_defaults(settings, env, sources, values)
    return settings.model_copy(update=values), notes


def _access_defaults(
    settings: "Settings", env: Mapping[str, str], sources: Mapping[str, str], values: dict[str, Any]
) -> dict[str, str]:
    """The mode that is not given, and whether the service for it runs; puts both among the values."""
    notes: dict[str, str] = {}
    if not settings.acl_mode:
        values["acl_mode"] = "follows" if settings.launcher_acl_enabled else "none"
        if settings.launcher_acl_enabled:
            notes[env["acl_mode"]] = f"default, because of {env['launcher_acl_enabled']}"
    asking = [attr for attr in ("acl_mode", "owners", "admins") if getattr(settings, attr) not in ("", "none", ())]
    if sources[env["launcher_acl_enabled"]] == "default" and asking:
        values["launcher_acl_enabled"] = True
        notes[env["launcher_acl_enabled"]] = f"default, because of {env[asking[0]]}"
    return notes


def conflicts(settings: "Settings", rows: Sequence[Setting]) -> Iterator[tuple[tuple[str, ...], str]]:
    """For each broken rule the attributes concerned and a line that names them."""
    shown = {row.attr: f"{row.env}={row.form.show(getattr(settings, row.attr))}" for row in rows}
    for attr, ceiling in CEILINGS:
        if getattr(settings, attr) > getattr(settings, ceiling):
            yield (attr, ceiling), f"{shown[attr]} is more than {shown[ceiling]}"
    if settings.max_send_backlog_bytes < 2 * settings.max_event_bytes:
        attrs = ("max_send_backlog_bytes", "max_event_bytes")
        yield attrs, f"{shown[attrs[0]]} is less than twice {shown[attrs[1]]}: a large event could not be sent"
    if settings.max_send_backlog_bytes < _ANSWERS_IN_BACKLOG * settings.negentropy_answer_bytes:
        attrs = ("max_send_backlog_bytes", "negentropy_answer_bytes")
        yield attrs, f"{shown[attrs[0]]} is less than four times {shown[attrs[1]]}: an answer could not be sent as hex"
    if settings.port == settings.health_port != 0:
        yield ("port", "health_port"), f"{shown['port']} and {shown['health_port']} are the same port"
    if settings.log_to_stdout and settings.log_file is not None:
        yield ("log_to_stdout", "log_file"), f"{shown['log_to_stdout']} and {shown['log_file']} exclude each other"
    needs_moderators = settings.acl_mode in ("follows", "curating") and acl_server(settings) is None
    if needs_moderators and not (settings.owners or settings.admins):
        text = f"{shown['acl_mode']} needs ORLY_OWNERS or ORLY_ADMINS: without them nobody could write"
        yield ("acl_mode", "owners", "admins"), text
    if settings.follows_throttle_increment_s > settings.follows_throttle_max_s:
        attrs = ("follows_throttle_increment_s", "follows_throttle_max_s")
        yield attrs, f"{shown[attrs[0]]} is more than {shown[attrs[1]]}"
    yield from _exposed(settings, shown)


def _exposed(settings: "Settings", shown: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Calls that leave this machine, or could come from outside, without TLS or without a token."""
    if settings.grpc_allow_insecure:
        return
    lacking = [
        what
        for what, is_lacking in (
            ("ORLY_GRPC_TLS=tls or mtls", settings.grpc_tls == "off"),
            ("ORLY_GRPC_TOKEN", settings.grpc_token is None),
        )
        if is_lacking
    ]
    if not lacking:
        return
    addresses = ["db_listen", "acl_listen", "sync_negentropy_listen"]
    addresses += ["grpc_acl_server"] if settings.acl_type != "local" and settings.grpc_acl_server else []
    addresses += ["acl_grpc_db_server"] if settings.acl_grpc_db_server else []
    addresses += ["grpc_server"] if settings.db_type == "grpc" else []
    addresses += ["grpc_sync_negentropy"] if settings.grpc_sync_negentropy else []
    addresses += ["sync_negentropy_db_server"] if settings.sync_negentropy_db_server else []
    for attr in addresses:
        if not is_local(getattr(settings, attr)):
            yield (
                (attr, "grpc_tls", "grpc_token"),
                f"{shown[attr]} is beyond this machine and needs {' and '.join(lacking)}, "
                "or ORLY_GRPC_ALLOW_INSECURE=true",
            )
