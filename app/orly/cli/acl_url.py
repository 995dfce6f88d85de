"""Managing a relay over HTTP (NIP-86), each call signed (NIP-98)."""

import http.client
import json
import ssl
from base64 import b64encode
from collections.abc import Iterator, Sequence
from hashlib import sha256
from http import HTTPStatus
from secrets import token_bytes, token_hex
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from orly import clock
from orly.access.snapshot import KIND_LISTS, ListName
from orly.cli.acl_options import AclError, Where
from orly.cli.acl_rows import Row
from orly.cli.sync_options import OptionError
from orly.logs import escape
from orly.nostr import nip19
from orly.nostr.kinds import HTTP_AUTH
from orly.nostr.signing import sign_event
from orly.process.exit_codes import ExitCode
from orly.settings_types import read_relay_url
from orly.units import MIB

__all__ = ["ANSWER_S", "LISTED", "RelayCaller", "caller_from", "list_method", "read_rows"]

ANSWER_S: Final = 30.0
"""How long a relay may take for the next piece of an answer."""

MAX_ANSWER_BYTES: Final = 256 * MIB

_Told = TypeVar("_Told", bound=msgspec.Struct)
_TYPE: Final = "application/nostr+json+rpc"
_MAX_SHOWN: Final = 500

LISTED: Final = {
    ListName.ALLOWED_PUBKEYS: ("listallowedpubkeys", "pubkey"),
    ListName.BANNED_PUBKEYS: ("listbannedpubkeys", "pubkey"),
    ListName.TRUSTED_PUBKEYS: ("listtrustedpubkeys", "pubkey"),
    ListName.BLACKLISTED_PUBKEYS: ("listblacklistedpubkeys", "pubkey"),
    ListName.ALLOWED_EVENTS: ("listallowedevents", "id"),
    ListName.BANNED_EVENTS: ("listbannedevents", "id"),
    ListName.SPAM_EVENTS: ("listspamevents", "event_id"),
    ListName.ALLOWED_KINDS: ("listallowedkinds", ""),
    ListName.DISALLOWED_KINDS: ("listdisallowedkinds", ""),
    ListName.BLOCKED_IPS: ("listblockedips", "ip"),
}
"""The method that lists them, and what it calls a member."""


def caller_from(where: Where) -> "RelayCaller":
    """Who manages the relay that the options name.

    Raises:
        AclError: The options cannot be used.
    """
    from orly.cli.sync_request import read_secret_file

    assert where.url is not None
    if where.server is not None:
        raise AclError(ExitCode.USAGE, "--server and --url exclude each other")
    if where.auth_key_file is None:
        raise AclError(ExitCode.USAGE, "--url needs --auth-key-file, which holds the key of an owner or admin there")
    if not where.url:
        raise AclError(ExitCode.USAGE, "--url is empty: name the relay, such as wss://relay.example.com")
    try:
        url = read_relay_url(where.url)
        secret = nip19.parse_secret_key(read_secret_file("--auth-key-file", where.auth_key_file))
    except OptionError as error:
        raise AclError(ExitCode.USAGE, str(error)) from None
    except nip19.Nip19Error as error:
        raise AclError(ExitCode.USAGE, f"--auth-key-file {where.auth_key_file}: {error}") from None
    except ValueError as error:
        raise AclError(ExitCode.USAGE, f"--url {where.url}: {error}") from None
    return RelayCaller(url.replace("ws", "http", 1), bytes.fromhex(secret))


class _LostError(Exception):
    """A connection that was used before is no more."""


class RelayCaller:
    """Calls methods, one after the other, on one connection as long as that lasts; blocks its thread meanwhile.

    Redirects are not followed, and the certificate must be one that this system trusts.

    Args:
        url: Where, http or https.
        secret: The key (32 bytes) that signs.
    """

    def __init__(self, url: str, secret: bytes) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.url = url
        self._target = parts.path or "/"
        self._signed_url = url if parts.path else f"{url}/"
        self._secret = secret
        self._is_used = False
        self._connection = (
            http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=ANSWER_S, context=ssl.create_default_context()
            )
            if parts.scheme == "https"
            else http.client.HTTPConnection(parts.hostname, parts.port, timeout=ANSWER_S)
        )

    def close(self) -> None:
        """Leave."""
        self._connection.close()

    def call(self, method: str, params: Sequence[object]) -> object:
        """What a method gives.

        Raises:
            AclError: It cannot be asked, or refuses.
        """
        body = json.dumps({"method": method, "params": list(params)}).encode()
        found = self._answer("POST", self._signed_url, self._target, body)
        if not isinstance(found, dict) or "result" not in found:
            raise AclError(ExitCode.FAILED, f"{self.url}: the answer to {method} is none of a relay's management")
        return found["result"]

    def told_at(self, path: str, form: type[_Told]) -> _Told:
        """What a path of the relay's API tells, such as `/api/stats`.

        Raises:
            AclError: It cannot be asked, refuses, or tells something else.
        """
        found = self._answer("GET", self.url + path, self._target.rstrip("/") + path, None)
        try:
            return msgspec.convert(found, form)
        except msgspec.ValidationError as error:
            raise AclError(ExitCode.FAILED, f"{self.url}: the answer at {path} cannot be read: {error}") from None

    def _answer(self, verb: str, signed_url: str, target: str, body: bytes | None) -> object:
        """An answer that is no error, decoded; None if it is no JSON."""
        try:
            status, reason, answer = self._ask(verb, signed_url, target, body)
        except _LostError:
            self._connection.close()
            status, reason, answer = self._ask(verb, signed_url, target, body)
        found = _decoded(answer)
        error = found.get("error") if isinstance(found, dict) else None
        if status != HTTPStatus.OK or error:
            text = str(error or reason)[:_MAX_SHOWN]
            raise AclError(
                ExitCode.FAILED, f"{self.url}: {'' if status == HTTPStatus.OK else f'{status} '}{escape(text)}"
            )
        return found

    def _ask(self, verb: str, signed_url: str, target: str, body: bytes | None) -> tuple[int, str, bytes]:
        """The status, why, and the body of the answer.

        Raises:
            AclError: There is none.
            _LostError: There is none, but may be on another connection.
        """
        was_used, self._is_used = self._is_used, False
        try:
            headers = {"Authorization": self._authorization(verb, signed_url, body)}
            self._connection.request(
                verb, target, body, headers if body is None else {"Content-Type": _TYPE, **headers}
            )
            with self._connection.getresponse() as response:
                answer = response.read(MAX_ANSWER_BYTES + 1)
                if response.length and len(answer) <= MAX_ANSWER_BYTES:
                    raise http.client.IncompleteRead(answer)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
            if was_used:
                raise _LostError from error
            raise self._failure(error) from None
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise self._failure(error) from None
        if len(answer) > MAX_ANSWER_BYTES:
            raise AclError(ExitCode.FAILED, f"{self.url}: the answer has more than {MAX_ANSWER_BYTES // MIB} MiB")
        self._is_used = True
        return response.status, self._reason(response), answer

    def _authorization(self, verb: str, signed_url: str, body: bytes | None) -> str:
        tags = [["u", signed_url], ["method", verb]]
        if body is not None:
            tags.append(["payload", sha256(body).hexdigest()])
        tags.append(["salt", token_hex(8)])  # of two equal calls in one second, a relay would refuse the second
        event = sign_event(
            self._secret, created_at=clock.now_s(), kind=HTTP_AUTH, tags=tags, aux_randomness=token_bytes(32)
        )
        return f"Nostr {b64encode(event.raw).decode()}"

    def _reason(self, response: http.client.HTTPResponse) -> str:
        location = response.headers.get("Location")
        if HTTPStatus.MULTIPLE_CHOICES <= response.status < HTTPStatus.BAD_REQUEST and location:
            return f"it redirects to {location}: if that is the relay, name it"
        return response.reason

    def _failure(self, error: Exception) -> AclError:
        match error:
            case TimeoutError():
                text = f"{self.url} did not answer within {ANSWER_S:g} s"
            case ssl.SSLCertVerificationError():
                text = f"{self.url} cannot be trusted: {error.verify_message}"
            case OSError():
                text = f"{self.url} cannot be reached: {error.strerror or error}"
            case _:
                text = f"{self.url} does not answer as HTTP has it ({type(error).__name__})"
        return AclError(ExitCode.UNAVAILABLE, escape(text))


def _decoded(answer: bytes) -> object:
    try:
        found: object = msgspec.json.decode(answer)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return found


def list_method(name: ListName) -> str:
    """The method that lists the members.

    Raises:
        AclError: There is none.
    """
    if name not in LISTED:
        names = ", ".join(each.value for each in LISTED)
        raise AclError(ExitCode.USAGE, f"a relay does not list its {name.value} with --url; it lists {names}")
    return LISTED[name][0]


def read_rows(name: ListName, result: object) -> list[Row]:
    """The members in the answer to such a method.

    Raises:
        AclError: It is something else.
    """
    try:
        return list(_rows(name, result))
    except (KeyError, TypeError, msgspec.MsgspecError) as error:
        raise AclError(ExitCode.FAILED, f"the relay's {name.value} cannot be read: {error}") from None


def _rows(name: ListName, result: object) -> Iterator[Row]:
    if name in KIND_LISTS:
        for kind in msgspec.convert(result, list[int]):
            yield Row(member=kind)
        return
    for told in msgspec.convert(result, list[dict[str, Any]]):
        member = msgspec.convert(told[LISTED[name][1]], str)
        yield Row(
            member=member,
            added_s=msgspec.convert(told.get("added"), int | None),
            reason=msgspec.convert(told.get("reason"), str | None) or "",
            author=(msgspec.convert(told.get("pubkey"), str | None) or "") if name is ListName.SPAM_EVENTS else "",
            until_s=msgspec.convert(told.get("expires_at"), int | None) or 0,
        )
