"""The page a browser sees on `/`: self-contained, without scripts, everything in it escaped."""

from base64 import b64encode
from hashlib import sha256
from html import escape
from typing import Final

from orly.nostr.nip11 import RelayInfo

__all__ = ["CONTENT_SECURITY_POLICY", "render"]

_STYLE: Final = """
:root { color-scheme: light dark; font: 16px/1.6 system-ui, sans-serif; }
body { max-width: 42rem; margin: 12vh auto; padding: 0 1.25rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .4rem 1.25rem; margin-top: 2rem; }
dt { opacity: .7; }
dd { margin: 0; overflow-wrap: anywhere; }
code { font: .95em ui-monospace, monospace; user-select: all; }
"""

CONTENT_SECURITY_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{b64encode(sha256(_STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Allows the page's own style sheet, by its hash, and nothing else."""


def render(info: RelayInfo, url: str) -> bytes:
    """The page as UTF-8 HTML.

    Args:
        info: What the relay says about itself.
        url: WebSocket address to show; empty when it is not known.
    """
    name = escape(info.name or "Nostr relay")
    description = f"<p>{escape(info.description)}</p>\n" if info.description else ""
    nips = ", ".join(f'<code>"{nip}"</code>' for nip in info.supported_nips)
    rows = (
        ("Address", f"<code>{escape(url)}</code>" if url else ""),
        ("NIPs", nips),
        ("Contact", escape(info.contact)),
        ("Operator", f"<code>{escape(info.pubkey)}</code>" if info.pubkey else ""),
        ("Software", escape(f"{info.software} {info.version}")),
    )
    table = "\n".join(f"<dt>{label}</dt><dd>{value}</dd>" for label, value in rows if value)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{name}</h1>
{description}<p>This is a Nostr relay. Add its address to a Nostr client to use it.</p>
<dl>
{table}
</dl>
</body>
</html>
""".encode()
