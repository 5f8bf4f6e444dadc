"""The outbox of alerts, under LSE_HOME: one file per alert and target, deleted when the target accepted it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lse_archive.errors import UNDECODABLE, ArchiveError
from lse_archive.files import file_lock, publish_file
from lse_resources.alerts import Alert, Send, log

_log = logging.getLogger(__name__)
# After weeks without delivery, only the newest are sent.
_MAX_WAITING = 500


class _Message(msgspec.Struct, frozen=True):
    alert: Alert
    target: str


@dataclass(frozen=True)
class Outbox:
    """Alerts that are not delivered yet, as files: a restart or an unavailable target loses none."""

    directory: Path

    def put(self, key: str, alert: Alert, targets: Mapping[str, Send]) -> None:
        """Writes the alert to the log and stores it for each target; the same key again replaces it."""
        log(alert)
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for target in targets:
            with file_lock(self.directory), publish_file(self.directory / f"{key}.{target}.json") as file:
                file.write(msgspec.json.encode(_Message(alert, target)))

    def deliver(self, targets: Mapping[str, Send]) -> list[str]:
        """Sends the waiting alerts in order; one that fails is kept. Returns one line for each failure."""
        failures: dict[str, str] = {}
        messages = list(self.waiting())
        for path, _ in messages[:-_MAX_WAITING]:
            path.unlink(missing_ok=True)
        for path, message in messages[-_MAX_WAITING:]:
            send = targets.get(message.target)
            if send is None:  # the target is no longer set up
                self._delete(path, message)
            elif message.target not in failures:
                try:
                    send(message.alert)
                except ArchiveError as error:
                    failures[message.target] = str(error)
                else:
                    self._delete(path, message)
        for failure in failures.values():
            _log.error("%s. The alert is sent again later", failure)
        return list(failures.values())

    def waiting(self) -> Iterator[tuple[Path, _Message]]:
        """Yields the alerts that are not delivered yet, oldest first. A damaged file is renamed, and logged."""
        for path in sorted(self.directory.glob("*.json")) if self.directory.is_dir() else ():
            try:
                if message := _read(path):
                    yield path, message
            except UNDECODABLE as error:
                aside = path.rename(path.with_name(f"{path.name}.damaged"))
                _log.error("an alert is lost: %s is damaged (%s)", aside, error)

    def _delete(self, path: Path, message: _Message) -> None:
        """Deletes an alert, unless `put` has replaced it in the meantime."""
        with file_lock(self.directory):
            if _read(path) == message:
                path.unlink()


def _read(path: Path) -> _Message | None:
    """The alert of a file; None if it was deleted by another process. Raises one of `UNDECODABLE`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Message)
    except FileNotFoundError:
        return None
