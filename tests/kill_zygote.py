"""A process that forks a child for each step of an archive, and can let it be killed at its n-th event.

Events are what the interpreter audits: files opened, renamed, removed, linked, requests sent. So the moments of death
are many, lie between any two effects, and are the same each time. No Dagster is near.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import date
from pathlib import Path
from typing import Any

from lse_archive.layout import Layout
from lse_resources.drive_archive import upload_day
from lse_resources.drive_settings import DriveSettings
from lse_resources.google_drive import GoogleDrive, Retries
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
}


class Fuse:
    """Counts events below a directory, and ends the process at one of them."""

    def __init__(self, directory: str, kill_at: int | None) -> None:
        self.events = 0
        self._directory = directory
        self._kill_at = kill_at
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS or (event == "open" and not str(arguments[0]).startswith(self._directory)):
            return
        self.events += 1
        if self.events == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def work(order: dict[str, Any]) -> None:
    paths = Layout(Path(order["data"]), Path(order["archives"])).day(order["project"], date.fromisoformat(order["day"]))
    facts = order["drive"]
    settings = DriveSettings(facts["folder"], "oauth2", Path(facts["credentials"]), Path(facts["token"]), facts["url"])
    with GoogleDrive(settings, retries=Retries(sleep=lambda _: None)) as drive:
        if order["step"] == "upload":
            upload_day(drive, paths)
        elif order["step"] == "restore":
            [copy] = copies(drive, paths.project, paths.day, paths.day)
            restore_day(drive, paths, copy)
        else:
            result = prune_day(drive, Database(order["database"]), paths, "files")
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
