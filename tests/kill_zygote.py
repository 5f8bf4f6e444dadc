"""A process that forks a child for each step of an archive, and can let it be killed at its n-th event.

Events are what the interpreter audits: files opened, renamed, removed, linked, requests sent; and the calls into the
object store's library with its progress. So the moments of death are many, lie between any two effects, and are the
same each time. No Dagster is near.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import traceback
from datetime import date
from pathlib import Path
from types import FrameType
from typing import Any

from lse_archive.layout import Layout
from lse_resources import object_store
from lse_resources.destination import Destination
from lse_resources.drive_archive import upload_day
from lse_resources.drive_settings import DriveSettings
from lse_resources.encryption import EncryptedDestination, read_keys
from lse_resources.google_drive import GoogleDrive, Retries
from lse_resources.object_store import ObjectStore
from lse_resources.postgres import Database
from lse_resources.pruning import prune_day
from lse_resources.restoring import copies, restore_day

EVENTS = {
    "open",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.truncate",
    "shutil.copyfile",
    "shutil.rmtree",
    "http.client.send",
    "kill_zygote.progress",
}
STORE_CALLS = {"put", "get", "copy", "delete", "list_with_delimiter"}
PIECE_BYTES = 1 << 18  # so that a short zip has several parts and ranges


class Fuse:
    """Counts events below a directory, and ends the process at one of them."""

    def __init__(self, directory: str, kill_at: int | None) -> None:
        self.events = 0
        self._directory = directory
        self._kill_at = kill_at
        sys.addaudithook(self._hook)
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS or (event == "open" and not str(arguments[0]).startswith(self._directory)):
            return
        self._count()

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        is_own = event == "c_call" and frame.f_globals.get("__name__") == object_store.__name__
        if is_own and argument.__qualname__ in STORE_CALLS:
            self._count()

    def _count(self) -> None:
        self.events += 1
        if self.events == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def destination(order: dict[str, Any]) -> Destination:
    facts = order["destination"]
    if "bucket" in facts:
        object_store._PIECE = PIECE_BYTES  # ty: ignore[invalid-assignment]
        place: Destination = ObjectStore(facts["bucket"], facts["config"], sleep=lambda _: None)
    else:
        credentials, token = Path(facts["credentials"]), Path(facts["token"])
        settings = DriveSettings(facts["folder"], "oauth2", credentials, token, facts["url"])
        place = GoogleDrive(settings, retries=Retries(sleep=lambda _: None))
    keys = read_keys(None, Path(order["key"]), None) if order["key"] else None
    return EncryptedDestination(place, keys, Path(order["archives"])) if keys else place


def work(order: dict[str, Any]) -> None:
    paths = Layout(Path(order["data"]), Path(order["archives"])).day(order["project"], date.fromisoformat(order["day"]))
    with contextlib.closing(destination(order)) as place:
        if order["step"] == "upload":
            upload_day(place, paths, progress=lambda *_: sys.audit("kill_zygote.progress"))
        elif order["step"] == "restore":
            [copy] = copies(place, paths.project, paths.day, paths.day)
            restore_day(place, paths, copy)
        else:
            result = prune_day(place, Database(order["database"]), paths, "files")
            if result.action == "kept" and result.why != "its files are not here":
                raise AssertionError(result.why)


def child(order: dict[str, Any]) -> int:
    fuse = Fuse(order["data"].rpartition("/")[0], order.get("kill_at"))
    work(order)
    return fuse.events


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        reader, writer = os.pipe()
        process = os.fork()
        if process == 0:
            code = 1
            try:
                os.write(writer, str(child(order)).encode())
                code = 0
            finally:
                if code:
                    traceback.print_exc()
                os._exit(code)  # without the parent's exit handlers
        os.close(writer)
        with os.fdopen(reader) as pipe:
            events = pipe.read()
        _, status = os.waitpid(process, 0)
        killed = os.WIFSIGNALED(status)
        answer = {"killed": killed, "failed": not killed and status != 0, "events": int(events or 0)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
