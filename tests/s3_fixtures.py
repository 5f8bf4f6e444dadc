"""A local S3 (moto) behind a door that can misbehave."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Self
from urllib.parse import urlencode

import httpx
import pytest

from lse_demo.faults import Faults
from lse_demo.http import Answer, LocalServer, Request
from lse_resources.object_store import ObjectStore

_MOTO = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
_PART_BYTES = 1 << 18  # S3 itself takes no part below 5 MiB; here a short file may have several
_HOP = {"connection", "transfer-encoding", "content-length", "host", "expect", "server", "date"}


class _Announced(bytes):
    """A body that is announced and not sent, as HEAD wants it."""

    def __new__(cls, length: int) -> Self:
        made = super().__new__(cls)
        made.length = length
        return made

    length: int

    def __len__(self) -> int:
        return self.length


class Door(LocalServer):
    """Hands every request on to another server, and commits the faults that it is told to.

    Besides those of every server: `corrupt_stored`, one bit of what a PUT brings is flipped.
    """

    def __init__(self, target: str) -> None:
        super().__init__(faults=Faults(seed=5))
        self._client = httpx.Client(base_url=target, timeout=30)

    def stop(self) -> None:
        super().stop()
        self._client.close()

    def handle(self, request: Request) -> Answer:
        body = request.body
        if request.method == "PUT" and body and request.fault("corrupt_stored"):
            body = body[:-1] + bytes([body[-1] ^ 1])
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        query = f"?{urlencode(request.query_list)}" if request.query_list else ""
        answer = self._client.request(request.method, request.path + query, content=body, headers=headers)
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
        if request.method == "HEAD":
            return Answer(answer.status_code, _Announced(int(answer.headers.get("content-length", 0))), kept)
        return Answer(answer.status_code, answer.content, kept)


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """A local S3, in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-c", _MOTO],
        env={**os.environ, "S3_UPLOAD_PART_MIN_SIZE": str(_PART_BYTES)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.stdin.close()


@pytest.fixture
def door(moto_url: str) -> Iterator[Door]:
    """The way to it, which can misbehave."""
    with Door(moto_url) as running:
        yield running


@pytest.fixture
def store(door: Door, moto_url: str) -> ObjectStore:
    """A bucket of one's own, seen through the door, by a client that does not sleep."""
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    httpx.put(f"{moto_url}/{bucket}").raise_for_status()
    config = {"endpoint": door.url, "access_key_id": "key", "secret_access_key": "secret", "region": "us-east-1"}
    return ObjectStore(f"s3://{bucket}/the archive", config, sleep=lambda _: None)
