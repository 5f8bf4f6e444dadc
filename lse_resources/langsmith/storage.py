"""Files in LangSmith's object storage, read by pre-signed links: attachments and offloaded payloads.

A link is a secret and never part of an error or a log. No API key is sent with it: a store may refuse two kinds of
authentication.
"""

from __future__ import annotations

import logging
import threading

import httpx

from lse_archive.errors import SourceError
from lse_archive.fetch.source import AttachmentLink, DownloadError, DownloadTarget, LinkRefusedError
from lse_archive.runs.scanner import NotARunError
from lse_resources.backoff import Backoff, retry_after_seconds
from lse_resources.langsmith.settings import LangSmithSettings

# httpx logs every URL with its signature, at the level INFO.
logging.getLogger("httpx").setLevel(logging.WARNING)

# Retryable, like every status from 500 on; every other answer refuses the link.
_TRANSIENT = frozenset({408, 425, 429})
# While the store answers nothing, a file is tried only this often.
_ATTEMPTS = 4
# A compressed transfer would hide the file's length.
_HEADERS = {"Accept-Encoding": "identity"}
_PIECE_BYTES = 1 << 20  # smaller ones cost more switches between threads
_MAX_TYPE = 255
# The default of S3 for files without a type.
_NO_TYPE = "binary/octet-stream"


class Storage:
    """The object storage of a deployment. Safe to use from several threads; `close` ends its connections."""

    def __init__(self, settings: LangSmithSettings) -> None:
        self._settings = settings
        self._client: httpx.Client | None = None
        self._is_down = False
        self._lock = threading.Lock()

    def close(self) -> None:
        if self._client:
            self._client.close()

    def _opened(self) -> httpx.Client:
        with self._lock:
            self._client = self._client or httpx.Client(timeout=self._settings.timeout, follow_redirects=True)
            return self._client

    def read(self, url: str) -> bytes:
        """Returns an offloaded payload.

        Raises:
            NotARunError: It is not served.
        """
        try:
            answer = self._opened().get(self._settings.link_url(url))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NotARunError(f"an offloaded payload could not be fetched ({type(error).__name__})") from None
        if answer.status_code != 200:
            raise NotARunError(f"an offloaded payload could not be fetched (HTTP {answer.status_code})")
        return answer.content

    def download(self, link: AttachmentLink, target: DownloadTarget, stop: threading.Event) -> str | None:
        """See `RunSource.download`."""
        backoff = Backoff(self._settings.patience, first_delay=self._settings.backoff)
        attempts = _ATTEMPTS if self._is_down else None
        while True:
            if stop.is_set():
                raise _stopped()
            retry_after = 0.0
            try:
                with self._opened().stream("GET", self._settings.link_url(link.url), headers=_HEADERS) as answer:
                    if answer.status_code == 200:
                        media_type = _receive(answer, target, stop)
                        self._is_down = False
                        return media_type
                    why = f"HTTP {answer.status_code}"
                    if answer.status_code < 500 and answer.status_code not in _TRANSIENT:
                        raise LinkRefusedError(why)
                    retry_after = retry_after_seconds(answer.headers.get("Retry-After")) or 0.0
            except (httpx.InvalidURL, httpx.UnsupportedProtocol):
                raise LinkRefusedError("LangSmith gives no valid link to it") from None
            except httpx.HTTPError as error:
                why = _reason(error)
            delay = backoff.fail(retry_after)
            if delay is None or backoff.failures == attempts:
                self._is_down = True
                raise DownloadError(why)
            if stop.wait(delay):
                raise _stopped()


def _receive(answer: httpx.Response, target: DownloadTarget, stop: threading.Event) -> str | None:
    """Copies the body of an answer to the target; returns its media type."""
    announced = answer.headers.get("Content-Length", "")
    length = int(announced) if announced.isdecimal() else None
    target.begin(length)
    for piece in answer.iter_bytes(_PIECE_BYTES):
        if stop.is_set():
            raise _stopped()
        target.write(piece)
    if length is not None and answer.num_bytes_downloaded != length:
        raise httpx.RemoteProtocolError("other length than announced")
    return media_type_of(answer.headers.get("Content-Type"))


def media_type_of(value: object) -> str | None:
    """The media type if it is known, and a text that fits a header."""
    text = value.strip() if isinstance(value, str) else ""
    known = text and text != _NO_TYPE and text.isascii() and text.isprintable() and len(text) <= _MAX_TYPE
    return text if known else None


def _reason(error: httpx.HTTPError) -> str:
    """Why there is no file. Without the text of the error, which may contain the link."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return "the storage cannot be reached"
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    if isinstance(error, httpx.TooManyRedirects):
        return "too many redirects"
    return "the connection was cut"


def _stopped() -> SourceError:
    return SourceError("the attachments cannot be downloaded", why="it was stopped")
