"""A small HTTP/1.1 server on 127.0.0.1 in a thread: the base of the local LangSmith and Drive servers."""

import contextlib
import json
import socket
import socketserver
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, NoReturn, Self, cast
from urllib.parse import parse_qsl, urlsplit

from lse_demo.faults import Fault, Faults

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER of zero seconds
_NOT_JSON = b'<html><body>upstream error</body></html>{"unfinished": ['


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request; `_Handler` adds `Content-Length`."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> "Answer":
        """Returns an answer with `value` as JSON in UTF-8 (bytes are used as they are)."""
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return cls(status, body, {"Content-Type": "application/json", **(headers or {})})


class Refusal(Exception):
    """Raised by a handler to end the request with `answer`."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.status}")
        self.answer = answer


@dataclass(slots=True)
class Request:
    """A request with its body read. `path` is percent-encoded, `headers` ignore case, `query` has the last value of
    each name, `query_list` has all of them. `details` are logged; `faults` are the faults of this request."""

    method: str
    path: str
    query: Mapping[str, str]
    query_list: tuple[tuple[str, str], ...]
    headers: Message
    body: bytes = b""
    faults: tuple[Fault, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

    def fault(self, kind: str) -> Fault | None:
        """Returns the fault of `kind` of this request; None if there is none."""
        return next((fault for fault in self.faults if fault.kind == kind), None)

    def json(self) -> Any:
        """Decodes the body as JSON. Raises ValueError."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Logged:
    """The log entry of one request; `status` is None if a fault cut off the answer.

    `at` (arrival) and `done` (answer ready) are monotonic seconds.
    """

    method: str
    path: str
    details: Mapping[str, Any]
    status: int | None
    at: float
    done: float
    faults: tuple[str, ...]


class LocalServer:
    """Base of the local servers: subclasses answer in `handle`. Use as a context manager, or `start` and `stop`."""

    def __init__(self, *, port: int = 0, latency: float = 0.0, faults: Faults | None = None) -> None:
        self.latency = latency  # delay before each answer in seconds; may change while the server runs
        self.faults = faults or Faults()
        self.requests: list[Logged] = []  # append-only
        self.violations: list[str] = []  # errors of a client, or of this server's own code
        self._stopping = threading.Event()
        self._http = _Listener(port, self)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """`http://127.0.0.1:<port>`, without a slash at the end."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def handle(self, request: Request) -> Answer:
        """Answers one request; called in many threads at the same time."""
        raise NotImplementedError

    def partial(self, request: Request) -> None:
        """Called instead of `handle` if the connection ended inside the request; `body` has the bytes received."""

    def pause(self, seconds: float) -> None:
        """Waits `seconds`, or until the server stops."""
        if seconds > 0:
            self._stopping.wait(seconds)

    def start(self) -> Self:
        """Starts to serve."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Closes all connections and ends all threads."""
        self._stopping.set()
        if self._thread.is_alive():
            self._http.shutdown()
            self._thread.join()
        self._http.close_all()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, owner: LocalServer) -> None:
        self.owner = owner
        self._open: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer.server_bind resolves the host's name, which can take seconds.
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        with self._lock:
            self._open[request] = thread
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        if request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(_RESET_ON_CLOSE)) == _RESET_ON_CLOSE:
            self.close_request(request)  # a shutdown would send FIN before the reset
        else:
            super().shutdown_request(request)

    def close_all(self) -> None:
        self.server_close()
        with self._lock:
            connections = dict(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in connections.values():
            thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client may disconnect at any time
            self.owner.violations.append(f"the server's own error: {traceback.format_exc()}")


class _Cut(Exception):
    """Raised to close the connection without an answer."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    rbufsize = 1 << 16

    def log_message(self, format: str, *args: Any) -> None:
        """Does nothing: requests are logged in `LocalServer.requests`."""

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):  # BaseHTTPRequestHandler looks up do_GET, do_POST, …
            return self._serve
        raise AttributeError(name)

    def _serve(self) -> None:
        owner, at = cast(_Listener, self.server).owner, time.monotonic()
        parts = urlsplit(self.path)
        pairs = tuple(parse_qsl(parts.query, keep_blank_values=True))
        request = Request(self.command, parts.path, MappingProxyType(dict(pairs)), pairs, self.headers)
        request.faults = owner.faults.select(request, before_body=True)
        answer: Answer | None = None
        try:
            answer = self._answer(owner, request)
        except _Cut:
            self.close_connection = True
        finally:
            # Logged before it is sent, so that a client that has received an answer finds it in the log.
            status = None if answer is None or request.fault("cut_body") else answer.status
            kinds = tuple(fault.kind for fault in request.faults)
            details = MappingProxyType(request.details)
            owner.requests.append(Logged(request.method, request.path, details, status, at, time.monotonic(), kinds))
        if answer is not None:
            self._send(request, answer)

    def _answer(self, owner: LocalServer, request: Request) -> Answer:
        complete = self._read_body(request)
        request.faults = request.faults or owner.faults.select(request)
        for fault in request.faults:
            if fault.kind == "slow":
                owner.pause(fault.delay)
            elif fault.kind == "call":
                fault.action()
        owner.pause(owner.latency)
        if not complete:
            owner.partial(request)
            self._cut(request.fault("cut_request"))
        if fault := request.fault("cut_before"):
            self._cut(fault)
        if fault := request.fault("status"):
            return Answer(fault.status, fault.body or b'{"detail":"injected fault"}', _as_json(fault.headers))
        if fault := request.fault("invalid_json"):
            return Answer(200, fault.body or _NOT_JSON, _as_json(fault.headers))
        try:
            answer = owner.handle(request)
        except Refusal as refusal:
            answer = refusal.answer
        if fault := request.fault("lose_answer"):
            self._cut(fault)
        return answer

    def _read_body(self, request: Request) -> bool:
        fault = request.fault("cut_request")
        limit = None if fault is None else fault.at or 0
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            chunks: list[bytes] = []
            while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
                if limit is not None and sum(map(len, chunks)) >= limit:
                    break
            else:
                self.rfile.readline()
            body = b"".join(chunks)
            request.body = body[:limit]
            return limit is None
        length = int(self.headers.get("Content-Length") or 0)
        request.body = self._read_some(length if limit is None else min(length, limit))
        return fault is None and len(request.body) == length

    def _read_some(self, length: int) -> bytes:
        body = bytearray()
        with contextlib.suppress(ConnectionError):
            while len(body) < length and (part := self.rfile.read1(min(length - len(body), 1 << 20))):
                body += part
        return bytes(body)

    def _send(self, request: Request, answer: Answer) -> None:
        body, sent = answer.body, len(answer.body)
        cut = request.fault("cut_body")
        if cut:
            sent = len(body) // 2 if cut.at is None else cut.at
        elif fault := request.fault("truncate"):
            body = body[: len(body) // 2 if fault.at is None else fault.at]
            sent = len(body)
        elif (fault := request.fault("corrupt")) and body:
            at = len(body) // 2 if fault.at is None else fault.at
            body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        lines = [f"HTTP/1.1 {answer.status} {_reason(answer.status)}"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        if answer.status not in (204, 304):
            lines.append(f"Content-Length: {len(body)}")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        if len(body) < 1 << 14:
            self.wfile.write(head + body[:sent])
        else:
            self.wfile.write(head)
            self.wfile.write(memoryview(body)[:sent])
        if cut:
            self._reset(cut)
            self.close_connection = True

    def _cut(self, fault: Fault | None) -> NoReturn:
        self._reset(fault)
        raise _Cut

    def _reset(self, fault: Fault | None) -> None:
        if fault and fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def _reason(status: int) -> str:
    return HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Unknown"


def _as_json(headers: Mapping[str, str]) -> dict[str, str]:
    return {"Content-Type": "application/json", **headers}
