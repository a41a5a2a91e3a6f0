"""Who may speak to the server: those who know the token, and no page that a browser was lured to.

The token travels in the `Authorization` header; for what a browser loads by itself (videos, events, downloads) also as
`?token=`. There are no cookies, so another site's page has nothing to ride on, and no other server of this machine, on
another port, ever gets to see one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bsst.errors import UsageError

__all__ = ["Access", "Headline", "checked_token", "new_token", "read_token"]

OPEN = ("/", "/docs", "/openapi.json", "/health")
"""Hold no secret: the page, which asks for everything else, and descriptions."""
TOKEN_LENGTH = 16

ANSWERS = {
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def new_token() -> str:
    """One that cannot be guessed."""
    return secrets.token_urlsafe(24)


def read_token(path: Path) -> str:
    """The token in a file.

    Raises:
        UsageError: it cannot be read, or is short.
    """
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"expected a token in {path}, could not read it: {error}; give a text file that you may read"
        ) from error
    return checked_token(token, str(path))


def checked_token(token: str, place: str) -> str:
    """A token that somebody chose.

    Raises:
        UsageError: it is short or cannot be sent.
    """
    if len(token) < TOKEN_LENGTH or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(
            f"expected {TOKEN_LENGTH} or more ASCII characters in {place}, got {len(token)}; take a longer token"
        )
    return token


class Access:
    """Lets requests with the token pass, and those of `OPEN`; 401 for the rest."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on or refuse."""
        if scope["type"] != "http" or scope["path"] in OPEN or self._knows(scope):
            await self._app(scope, receive, send)
            return
        message = "expected the token of this server, got none or another; open the address that the server printed"
        response = JSONResponse({"error": message}, 401, {"WWW-Authenticate": "Bearer"})
        await response(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        given = Headers(scope=scope).get("authorization", "").removeprefix("Bearer ")
        given = given or parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token)


class Headline:
    """Adds what keeps a browser from sniffing, framing, caching, telling others, and running what is not ours.

    Args:
        app: what answers.
        pages: all HTML it may answer with; no other script or style runs.
    """

    def __init__(self, app: ASGIApp, pages: Sequence[str]) -> None:
        self._app = app
        self._headers = {**ANSWERS, "Content-Security-Policy": _policy("\n".join(pages))}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, with headers."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers[name] = value
            await send(message)

        await self._app(scope, receive, with_headers)


def _policy(html: str) -> str:
    def sources(tag: str) -> str:
        bodies = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in bodies]
        return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"

    return (
        f"default-src 'none'; script-src {sources('script')}; style-src {sources('style')}; img-src 'self' data:; "
        "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
