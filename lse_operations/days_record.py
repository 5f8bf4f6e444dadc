"""Writes the state of a day into the table `days`, for SQL queries."""

from __future__ import annotations

from datetime import UTC, datetime

from lse_archive.folder.manifest import read_summary
from lse_archive.folder.pruned import read_pruned
from lse_archive.folder.state import DayVerdict, read_state
from lse_archive.layout import DayPaths
from lse_resources.postgres.database import Database
from lse_resources.postgres.days_table import update_day


def note_load(database: Database, paths: DayPaths, rows: int) -> None:
    """Records that the day's rows were just written, and their number.

    Raises:
        DatabaseError: Postgres cannot be reached or refuses.
    """
    _update(database, paths, {"rows": rows, "loaded_at": datetime.now(UTC)})


def note_verification(database: Database, paths: DayPaths, verdict: DayVerdict) -> None:
    """Records that all places of the day were just compared, and the verdict.

    Raises:
        DatabaseError: Postgres cannot be reached or refuses.
    """
    _update(database, paths, {"verdict": verdict, "verified_at": datetime.now(UTC)})


def _update(database: Database, paths: DayPaths, values: dict[str, object]) -> None:
    state, pruned = read_state(paths), read_pruned(paths)
    summary = read_summary(paths.pruned if pruned else paths.folder)
    if summary:
        values |= {
            "content_sha256": summary.content_sha256,
            "runs": summary.runs,
            "traces": summary.traces,
            "bytes": summary.bytes,
            "pending": summary.pending,
        }
    values |= {
        "langsmith_count": state.langsmith_count,
        "proof": state.count_check,
        "zip_bytes": paths.zip.stat().st_size if paths.zip.exists() else None,
        "drive_file_id": state.drive_file_id,
        "drive_sha256": state.drive_sha256,
        "looked_at": datetime.fromisoformat(state.last_fetched_at) if state.last_fetched_at else None,
        "files_pruned_at": datetime.fromisoformat(pruned.pruned_at) if pruned else None,
        "zip_pruned_at": datetime.fromisoformat(state.zip_pruned_at) if state.zip_pruned_at else None,
    }
    update_day(database, paths.project, paths.day, values)
