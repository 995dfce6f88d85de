"""The relay's NIP-11 document, from its settings."""

from typing import TYPE_CHECKING

from msgspec import UNSET

from orly.nostr import nip11
from orly.nostr.signing import public_key

if TYPE_CHECKING:
    from orly.settings import Settings

__all__ = ["SOFTWARE_URL", "document"]

SOFTWARE_URL = nip11.SOFTWARE_URL

_NEGENTROPY_VERSION = 1


def document(settings: "Settings", version: str, *, has_negentropy: bool) -> bytes:
    """What `Accept: application/nostr+json` is answered with."""
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
        auth_required=settings.auth_required,
        restricted_writes=settings.auth_required or settings.auth_to_write or settings.min_pow_difficulty > 0,
        created_at_upper_limit=int(settings.max_created_at_future_s),
        created_at_lower_limit=past_s or UNSET,
    )
    return nip11.encode(
        nip11.RelayInfo(
            name=settings.app_name,
            description=settings.relay_description,
            banner=settings.relay_banner,
            icon=settings.relay_icon,
            pubkey=settings.relay_pubkey,
            own_pubkey=public_key(bytes.fromhex(secret.get_secret_value())) if secret else "",
            contact=settings.relay_contact,
            supported_nips=nip11.supported_nips(
                min_pow_difficulty=settings.min_pow_difficulty, has_negentropy=has_negentropy
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
