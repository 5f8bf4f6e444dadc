"""The errors that LSE raises on purpose: what failed, why, and what to do."""

from __future__ import annotations

import msgspec

UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError)
"""What msgspec raises for bytes that are not the JSON of a type; the latter for a text in it that is not UTF-8."""

CLOCK_HINT = "Set this machine's clock, best from a time server (NTP); lse doctor compares it"
"""What to do when a server refuses a request, or a certificate seems invalid, because of the time."""


class ArchiveError(Exception):
    """A step failed, and the user can act on it.

    Args:
        what: What failed, as a short clause ("cannot upload demo_2026-01-02.zip").
        why: The cause, in the words of the system that failed, without secrets.
        hint: What the user can do about it.
    """

    def __init__(self, what: str, *, why: str = "", hint: str = "") -> None:
        self.what = what
        self.why = why
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.what}: {self.why}" if self.why else self.what
        return f"{text}. {self.hint}" if self.hint else text


class UsageError(ArchiveError):
    """The request is wrong: a malformed date, an unknown option value, a day that is not over."""


class SettingsError(ArchiveError):
    """A setting is missing or malformed."""


class SourceError(ArchiveError):
    """LangSmith could not be read to the end: nothing of the day is published."""


class AccessError(SourceError):
    """LangSmith refused the key, the workspace or the project: a retry does not help."""


class ArchiveConflictError(ArchiveError):
    """The target holds something that this step must not replace without an explicit option."""


class ShrinkError(ArchiveConflictError):
    """The step would replace an archive by fewer runs than it holds (law 1)."""


class DayLockedError(ArchiveError):
    """Another process is writing this project's day."""


class CorruptArchiveError(ArchiveError):
    """The content of files, a zip or a transfer differs from its checksums."""


class NoKeyError(ArchiveError):
    """An encrypted copy cannot be decrypted with the configured keys, or no key is configured."""


class RefusedArchiveError(CorruptArchiveError):
    """A zip holds what no day archive holds: names outside its folder, links, false sizes."""


class PrunedDayError(ArchiveConflictError):
    """The day's files were pruned to save space: the day must be restored before it is written again."""


class DestinationError(ArchiveError):
    """The destination refused or could not be reached."""


class DatabaseError(ArchiveError):
    """Postgres refused or could not be reached."""


class DatabaseAccessError(DatabaseError):
    """Postgres refuses the login, a right or the certificate, or cannot hold the runs: a retry does not help."""


class EmbeddedServerError(DatabaseError):
    """The embedded PostgreSQL could not be started or stopped."""
