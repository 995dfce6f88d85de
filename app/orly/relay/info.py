"""The relay's NIP-11 document, from its settings."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from msgspec import UNSET

from orly.access.control import AccessControl
from orly.access.levels import Mode
from orly.nostr import nip11
from orly.nostr.signing import public_key

if TYPE_CHECKING:
    from orly.settings import Settings

__all__ = ["SOFTWARE_URL", "Document", "document"]

SOFTWARE_URL = nip11.SOFTWARE_URL

_NEGENTROPY_VERSION = 1
_MANAGEMENT = 86


class Document:
    """The document as it is now: some of it may be changed while the relay runs (NIP-86)."""

    def __init__(
        self, settings: "Settings", version: str, *, has_negentropy: bool, access: AccessControl | None
    ) -> None:
        self._settings = settings
        self._version = version
        self._has_negentropy = has_negentropy
        self._access = access
        self._made_of: tuple[Mapping[str, str], Mode] | None = None
        self._encoded = b""

    def __call__(self) -> bytes:
        """What `Accept: application/nostr+json` is answered with."""
        snapshot = None if self._access is None else self._access.snapshot
        info = {} if snapshot is None else snapshot.info
        mode = Mode.NONE if snapshot is None else snapshot.rules.mode
        if self._made_of != (info, mode):
            self._made_of = (dict(info), mode)
            self._encoded = document(
                self._settings,
                self._version,
                has_negentropy=self._has_negentropy,
                info=info,
                mode=mode,
                has_management=snapshot is not None and bool(snapshot.rules.owners or snapshot.rules.admins),
            )
        return self._encoded


def document(
    settings: "Settings",
    version: str,
    *,
    has_negentropy: bool,
    has_management: bool = False,
    info: Mapping[str, str] = MappingProxyType({}),
    mode: Mode = Mode.NONE,
) -> bytes:
    """The document.

    Args:
        settings: What the relay is and takes.
        version: Of the program.
        has_negentropy: Whether clients may reconcile (NIP-77).
        has_management: Whether it is managed over HTTP (NIP-86).
        info: Its name, description and icon in other words than the settings'.
        mode: How it is decided who may write.
    """
    restricts = settings.auth_required or settings.auth_to_write or settings.min_pow_difficulty > 0
    secret = settings.relay_secret_key
    past_s = int(settings.max_created_at_past_s)
    limitation = nip11.Limitation(
        max_message_length=settings.max_message_bytes,
        max_subscriptions=settings.max_subscriptions_per_connection,
        max_filters=settings.max_filters,
        max_limit=settings.max_limit,
        default_limit=settings.default_limit,
        max_event_tags=settings.max_event_tags,
        max_content_length=settings.max_event_bytes,
        min_pow_difficulty=settings.min_pow_difficulty,
        auth_required=settings.auth_required or settings.acl_restrict_reads,
        restricted_writes=restricts or mode is not Mode.NONE,
        created_at_upper_limit=int(settings.max_created_at_future_s),
        created_at_lower_limit=past_s or UNSET,
    )
    return nip11.encode(
        nip11.RelayInfo(
            name=info.get("name", settings.app_name),
            description=info.get("description", settings.relay_description),
            banner=settings.relay_banner,
            icon=info.get("icon", settings.relay_icon),
            pubkey=settings.relay_pubkey,
            own_pubkey=public_key(bytes.fromhex(secret.get_secret_value())) if secret else "",
            contact=settings.relay_contact,
            supported_nips=nip11.supported_nips(
                min_pow_difficulty=settings.min_pow_difficulty,
                has_negentropy=has_negentropy,
                others=(_MANAGEMENT,) if has_management else (),
            ),
            software=SOFTWARE_URL,
            version=version,
            limitation=limitation,
            posting_policy=settings.posting_policy,
            privacy_policy=settings.privacy_policy,
            terms_of_service=settings.terms_of_service,
            relay_countries=settings.relay_countries,
            language_tags=settings.relay_language_tags,
            tags=settings.relay_tags,
            negentropy=_NEGENTROPY_VERSION if has_negentropy else 0,
        )
    )
