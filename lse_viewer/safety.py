"""What protects the pages: the contents of runs are hostile, and Dagster's GraphQL has the same origin.

A script that ran on a page could launch and delete runs. So no page has inline script or style, every value is escaped
(`rendering.py`), and the headers forbid everything that is not a file of `static/`.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
CONTENT_POLICY = "sandbox; default-src 'none'; frame-ancestors 'none'"
"""For contents of runs: were one shown as a page, it would have an origin of its own, and no script."""

_HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::\d+)?")


class Safety:
    """Adds the security headers to every response, and refuses requests under a foreign host name.

    A site whose DNS name is changed to 127.0.0.1 (rebinding) has its own name as Host. An IP address cannot be rebound,
    so that addresses, `localhost` and the host of `ui_url` are accepted.
    """

    def __init__(self, app: ASGIApp, ui_url: str) -> None:
        self._app = app
        self._names = {"localhost", (urlsplit(ui_url).hostname or "").lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if not self._is_known(Headers(scope=scope).get("host", "")):
            says = "This name is not known here. Set LSE_UI_URL to the address by which the browser reaches the UI."
            await PlainTextResponse(says, 421)(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _is_known(self, host: str) -> bool:
        if not (found := _HOST.fullmatch(host)):
            return False
        name = found[1].strip("[]").lower()
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return True
