"""Where alerts arrive in tests: a webhook and a mail server on loopback, that can be told to refuse."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_string
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Webhook:
    """Takes what Slack would take; answers `status`."""

    url: str = ""
    status: int = 200
    texts: list[str] = field(default_factory=list)


@dataclass
class MailServer:
    """Takes mail for anybody, one command after the other (RFC 5321); refuses it while `refuses`."""

    url: str = ""
    refuses: bool = False
    messages: list[EmailMessage] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        return [message.get_content().strip() for message in self.messages]


@contextmanager
def webhook(clock_behind_seconds: float = 0) -> Generator[Webhook]:
    """A webhook on a free port; the time that it names may be wrong."""
    state = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.headers["Content-Type"] == "application/json"
            assert set(body) == {"text"}
            if state.status == 200:
                state.texts.append(body["text"])
            self.send_response(state.status)
            self.end_headers()

        def do_GET(self) -> None:
            self.send_error(404)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string((timestamp or time.time()) - clock_behind_seconds)

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    with _serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        state.url = f"http://127.0.0.1:{port}/hooks/secret-part"
        yield state


@contextmanager
def mail_server() -> Generator[MailServer]:
    """A mail server on a free port."""
    state = MailServer()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self._say("220 ready")
            while line := self.rfile.readline().decode().strip():
                verb = line.partition(" ")[0].upper()
                if verb == "DATA":
                    self._say("354 go on")
                    lines = []
                    while (text := self.rfile.readline().decode().rstrip("\r\n")) != ".":
                        lines.append(text.removeprefix(".") if text.startswith("..") else text)
                    state.messages.append(message_from_string("\n".join(lines), _class=EmailMessage, policy=default))
                elif verb == "RCPT":
                    state.recipients.append(line.partition("<")[2].partition(">")[0])
                elif verb == "QUIT":
                    self._say("221 bye")
                    return
                elif verb == "MAIL" and state.refuses:
                    self._say("451 later")
                    continue
                self._say("250 fine")

        def _say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

    with _serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)) as port:
        state.url = f"smtp://127.0.0.1:{port}"
        yield state


@contextmanager
def _serving(server: socketserver.TCPServer) -> Generator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
