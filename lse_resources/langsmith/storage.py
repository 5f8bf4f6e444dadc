"""Files in LangSmith's object storage, read by pre-signed links: attachments and offloaded payloads.

A link is a secret and never part of an error or a log. No API key is sent with it: a store may refuse two kinds of
authentication.
"""

from __future__ import annotations

import logging
import threading
from base64 import b64encode
from urllib.parse import unquote_to_bytes
from urllib.request import getproxies, proxy_bypass

import httpx
import urllib3
from urllib3 import exceptions
from urllib3.util import parse_url

from lse_archive.errors import SourceError
from lse_archive.fetch.source import AttachmentLink, DownloadError, DownloadTarget, LinkRefusedError
from lse_archive.runs.scanner import NotARunError
from lse_resources.backoff import Backoff, retry_after_seconds
from lse_resources.langsmith.settings import LangSmithSettings

# urllib3 logs URLs with their signature, up to the level WARNING.
logging.getLogger("urllib3").setLevel(logging.ERROR)

# Retryable, like every status from 500 on; every other answer refuses the link.
_TRANSIENT = frozenset({408, 425, 429})
# While the store answers nothing, a file is tried only this often.
_ATTEMPTS = 4
# A compressed transfer would hide the file's length.
_HEADERS = {"Accept-Encoding": "identity"}
_REDIRECTS = urllib3.Retry(total=None, connect=0, read=0, status=0, other=0, redirect=20)
_UNREACHABLE = (
    exceptions.ConnectTimeoutError,
    exceptions.NewConnectionError,
    exceptions.ProxyError,
    exceptions.SSLError,
)
_CONNECTIONS = 8
_PIECE_BYTES = 1 << 18  # it is hashed and written while it is in the cache of the processor
_MAX_TYPE = 255
# The default of S3 for files without a type.
_NO_TYPE = "binary/octet-stream"


class Storage:
    """The object storage of a deployment. Safe to use from several threads; `close` ends its connections.

    Files are read with urllib3: httpx takes twice the CPU time for the same bytes (`bench/attachments.py`).
    """

    def __init__(self, settings: LangSmithSettings) -> None:
        self._settings = settings
        self._proxies = getproxies()  # by scheme; reading the environment costs as much as a small file
        self._pools: dict[str | None, urllib3.PoolManager] = {}  # by proxy
        self._is_down = False
        self._lock = threading.Lock()

    def close(self) -> None:
        for pool in self._pools.values():
            pool.clear()

    def _open(self, link: str) -> urllib3.BaseHTTPResponse:
        """Requests a link; the certificates and proxies are those of the other requests."""
        if not (url := self._settings.link_url(link)):
            raise exceptions.LocationValueError
        proxy = self._proxy(url)
        with self._lock:
            if (pool := self._pools.get(proxy)) is None:
                pool = self._pools[proxy] = _pool(proxy, self._settings.timeout)
        return pool.request("GET", url, headers=_HEADERS, preload_content=False)

    def _proxy(self, url: str) -> str | None:
        if not self._proxies:
            return None
        parts = parse_url(url)
        proxy = self._proxies.get(parts.scheme or "") or self._proxies.get("all")
        if not proxy or proxy_bypass(parts.host or ""):
            return None
        return proxy if "://" in proxy else f"http://{proxy}"

    def read(self, url: str) -> bytes:
        """Returns an offloaded payload.

        Raises:
            NotARunError: It is not served.
        """
        try:
            with self._open(url) as answer:
                if answer.status == 200:
                    return answer.read()
                why = f"HTTP {answer.status}"
        except exceptions.HTTPError as error:
            why = _reason(error)
        raise NotARunError(f"an offloaded payload could not be fetched ({why})")

    def download(self, link: AttachmentLink, target: DownloadTarget, stop: threading.Event) -> str | None:
        """See `RunSource.download`."""
        backoff = Backoff(self._settings.patience, first_delay=self._settings.backoff)
        attempts = _ATTEMPTS if self._is_down else None
        while True:
            if stop.is_set():
                raise _stopped()
            retry_after = 0.0
            try:
                with self._open(link.url) as answer:
                    if answer.status == 200:
                        media_type = _receive(answer, target, stop)
                        self._is_down = False
                        return media_type
                    why = f"HTTP {answer.status}"
                    if answer.status < 500 and answer.status not in _TRANSIENT:
                        raise LinkRefusedError(why)
                    retry_after = retry_after_seconds(answer.headers.get("Retry-After")) or 0.0
            except exceptions.LocationValueError:
                raise LinkRefusedError("LangSmith gives no valid link to it") from None
            except exceptions.HTTPError as error:
                why = _reason(error)
            delay = backoff.fail(retry_after)
            if delay is None or backoff.failures == attempts:
                self._is_down = True
                raise DownloadError(why)
            if stop.wait(delay):
                raise _stopped()


def _pool(proxy: str | None, timeout: float) -> urllib3.PoolManager:
    context = httpx.create_ssl_context()
    if proxy is None:
        return urllib3.PoolManager(maxsize=_CONNECTIONS, timeout=timeout, retries=_REDIRECTS, ssl_context=context)
    headers = {}
    if auth := parse_url(proxy).auth:
        headers["Proxy-Authorization"] = f"Basic {b64encode(unquote_to_bytes(auth)).decode()}"
    return urllib3.ProxyManager(
        proxy, maxsize=_CONNECTIONS, timeout=timeout, retries=_REDIRECTS, ssl_context=context, proxy_headers=headers
    )


def _receive(answer: urllib3.BaseHTTPResponse, target: DownloadTarget, stop: threading.Event) -> str | None:
    """Copies the body of an answer to the target; returns its media type. urllib3 compares the announced length."""
    target.begin(answer.length_remaining)
    while piece := answer.read(_PIECE_BYTES):
        if stop.is_set():
            raise _stopped()
        target.write(piece)
    return media_type_of(answer.headers.get("Content-Type"))


def media_type_of(value: object) -> str | None:
    """The media type if it is known, and a text that fits a header."""
    text = value.strip() if isinstance(value, str) else ""
    known = text and text != _NO_TYPE and text.isascii() and text.isprintable() and len(text) <= _MAX_TYPE
    return text if known else None


def _reason(error: exceptions.HTTPError) -> str:
    """Why there is no file. Without the text of the error, which may contain the link."""
    cause = error.reason if isinstance(error, exceptions.MaxRetryError) else error
    if isinstance(cause, exceptions.ResponseError):
        return "too many redirects"
    if isinstance(cause, _UNREACHABLE):
        return "the storage cannot be reached"
    if isinstance(cause, exceptions.TimeoutError):
        return "no answer in time"
    return "the connection was cut"


def _stopped() -> SourceError:
    return SourceError("the attachments cannot be downloaded", why="it was stopped")
