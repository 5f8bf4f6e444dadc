"""The outbox of alerts, under LSE_HOME: an alert lies there, once per target, until that target has taken it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lse_archive.errors import ArchiveError
from lse_archive.files import publish_file
from lse_resources.alerts import Alert, Send, log

_log = logging.getLogger(__name__)
# Of a target that has been down for weeks, the newest are enough.
_MAX_WAITING = 500


class _Letter(msgspec.Struct, frozen=True):
    alert: Alert
    target: str


@dataclass(frozen=True)
class Outbox:
    """Alerts on their way. Files, so that neither a restart nor a target that is down loses one."""

    directory: Path

    def put(self, key: str, alert: Alert, targets: Mapping[str, Send]) -> None:
        """Writes the alert to the log and puts it in for each target; the same key again replaces it."""
        log(alert)
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for target in targets:
            with publish_file(self.directory / f"{key}.{target}.json") as file:
                file.write(msgspec.json.encode(_Letter(alert, target)))

    def deliver(self, targets: Mapping[str, Send]) -> list[str]:
        """Sends what waits, in order; what a target does not take waits on. Returns one line for each failure."""
        failures: dict[str, str] = {}
        letters = list(self.waiting())
        for path, _ in letters[:-_MAX_WAITING]:
            path.unlink(missing_ok=True)
        for path, letter in letters[-_MAX_WAITING:]:
            send = targets.get(letter.target)
            if send is None:  # the target is no longer set up
                path.unlink(missing_ok=True)
            elif letter.target not in failures:
                try:
                    send(letter.alert)
                except ArchiveError as error:
                    failures[letter.target] = str(error)
                else:
                    path.unlink(missing_ok=True)
        for failure in failures.values():
            _log.error("%s. It is sent again", failure)
        return list(failures.values())

    def waiting(self) -> Iterator[tuple[Path, _Letter]]:
        """The alerts that some target has not taken yet, oldest first."""
        for path in sorted(self.directory.glob("*.json")) if self.directory.is_dir() else ():
            try:
                yield path, msgspec.json.decode(path.read_bytes(), type=_Letter)
            except msgspec.DecodeError:
                path.unlink(missing_ok=True)
