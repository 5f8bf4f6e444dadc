"""Every error that LSE raises on purpose: what failed, why, and what to do about it."""

from __future__ import annotations


class ArchiveError(Exception):
    """A step failed in a way that a person can act on.

    Args:
        what: What failed, as a short clause ("cannot upload demo_2026-01-02.zip").
        why: The cause, in the words of the system that refused, without secrets.
        hint: What the reader can do about it.
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
    """The request itself is wrong: a malformed date, an unknown option value, a day that is not over."""


class SettingsError(ArchiveError):
    """A setting is missing or malformed."""


class SourceError(ArchiveError):
    """LangSmith could not be read to the end: nothing of the day is published."""


class AccessError(SourceError):
    """LangSmith refused the key, the workspace or the project: asking again will not help."""


class ArchiveConflictError(ArchiveError):
    """The target holds something that this step must not replace without being told to."""


class ShrinkError(ArchiveConflictError):
    """The step would replace an archive by fewer runs than it holds (law 1)."""


class DayLockedError(ArchiveError):
    """Another process is writing this project's day."""


class CorruptArchiveError(ArchiveError):
    """Files, a zip or a transfer do not have the content that their checksums promise."""


class NoKeyError(ArchiveError):
    """An encrypted copy does not open with the keys that are set here, or none is set."""


class RefusedArchiveError(CorruptArchiveError):
    """A zip holds what no day archive holds: names that lead elsewhere, links, sizes that are lies."""


class PrunedDayError(ArchiveConflictError):
    """The day's files were given up to save space: it must be restored before it may be written again."""


class DestinationError(ArchiveError):
    """Google Drive refused or could not be reached."""


class DatabaseError(ArchiveError):
    """Postgres refused or could not be reached."""


class EmbeddedServerError(DatabaseError):
    """The embedded PostgreSQL could not be started or stopped."""
