"""Erases the runs of one day from all places. Every step can be repeated: a killed erasure is completed by another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict

from psycopg import sql

from lse_archive.errors import ArchiveConflictError, ArchiveError
from lse_archive.files import disk_errors
from lse_archive.folder.forgetting import forget_published
from lse_archive.folder.locks import day_lock
from lse_archive.folder.tombstones import Tombstones, add_tombstones, read_tombstones
from lse_archive.layout import DayPaths, Layout
from lse_archive.names import project_folder
from lse_archive.zips.day import zip_day
from lse_operations.checks import VerifyOptions
from lse_operations.forget.journal import DayDone, DayIntent
from lse_operations.forget.local import erase_leftovers
from lse_operations.forget.places import Places
from lse_operations.forget.search import search_day
from lse_operations.lake import forget_in_lake
from lse_operations.prune import prune_day
from lse_operations.reporter import LogReporter
from lse_operations.restore.copies import copies
from lse_operations.restore.restore import RestoreOptions, restore_day
from lse_operations.restore.unpack import clear, publish, unpack_day
from lse_operations.steps import verify_step
from lse_operations.upload import check_superset, find_copies, upload_day
from lse_resources.destinations.encryption import check_decryptable
from lse_resources.destinations.files import StoredFile
from lse_resources.destinations.history import ErasedHistory
from lse_resources.destinations.protocol import Destination
from lse_resources.postgres.database import Database
from lse_resources.postgres.days_table import update_day
from lse_resources.postgres.erase import erase_rows

OnWait = Callable[[str], None]


def check_day(destination: Destination | None, paths: DayPaths) -> bool:
    """Whether the destination has a copy of the day; it can be read and replaced, so that an erasure may begin.

    Raises:
        ArchiveConflictError: The destination has several files of the day, and only a person can tell which is right.
        NoKeyError: The copy is encrypted, and no key here decrypts it.
        DestinationError: The destination refused or cannot be reached.
    """
    if destination is None:
        return False
    copy = _one_copy(destination, paths)
    files = [*([copy] if copy else []), *_other_names(destination, paths)]
    for file in files:
        check_decryptable(file)
    return bool(files)


def _one_copy(destination: Destination | None, paths: DayPaths) -> StoredFile | None:
    """The day's file at the destination. Raises ArchiveConflictError if there are several."""
    if destination is None:
        return None
    found = find_copies(destination, paths)
    if len(found) > 1:
        raise ArchiveConflictError(
            f"{destination.place} has {len(found)} files named {paths.zip.name}",
            why="only one can be the archive",
            hint="Remove the others: lse drive dedupe",
        )
    return found[0] if found else None


def forget_day(places: Places, paths: DayPaths, erasure_id: str, intent: DayIntent, on_wait: OnWait) -> DayDone:
    """Erases runs of a day; everything else of the day stays, to the byte, and its proofs hold.

    Args:
        on_wait: Called with the holder, if another process holds the day's lock.

    Raises:
        ArchiveError: A place refused or cannot be reached. What was erased stays so: repeat it.
    """
    add_tombstones(paths, Tombstones.of(intent.run_ids))
    tombstones = read_tombstones(paths)
    erased: dict[str, dict[str, int]] = {}
    left: list[str] = []
    notes: list[str] = []
    with places.destination() as destination:
        what = f"{paths.project} {paths.day} cannot be written under {paths.data_dir}"
        with disk_errors(what, "Free space or fix the permissions, and run: lse forget --resume"):
            _bring_back(destination, paths, on_wait)
            with day_lock(paths, on_wait=on_wait):
                found = forget_published(paths, tombstones)
                aside = erase_leftovers(paths, tombstones)
        _count(erased, "files", asdict(found) | aside)
        if paths.folder.is_dir() and (paths.zip.is_file() or intent.zip_pruned or _one_copy(destination, paths)):
            _count(erased, "zip", {"made anew": int(zip_day(paths, on_wait=on_wait).written)})
        if destination is not None:
            kinds, refused = _replace_copy(destination, paths, on_wait)
            _count(erased, destination.place, kinds)
            left += refused
        if places.lake is not None:
            history = forget_in_lake(places.lake, paths, places.open_destination, on_wait)
            _count(erased, "the lake", history.erased)
            left += _refused("the lake", history)
        if places.database is not None:
            run_ids, database = intent.run_ids, places.database
            rows = erase_rows(database, erasure_id, paths.project, paths.day, run_ids, on_wait=on_wait)
            _count(erased, "rows", rows.rows)
            left += rows.left
            _count_rows(database, paths)
        checked = Counter[str]()
        for place, entries in search_day(destination, places.lake, paths, tombstones):
            checked[place] += entries
        if not left and (found := [place for place, entries in checked.items() if entries]):
            raise ArchiveError(
                f"{paths.project} {paths.day} still holds runs that are to be erased",
                why=f"they are in: {', '.join(found)}",
                hint="Another process may have written the day meanwhile; run: lse forget --resume",
            )
    if paths.folder.is_dir():
        notes = _prove(places, paths, intent, on_wait)
    return DayDone(erased=erased, checked=checked, left=left, notes=notes)


def _count(erased: dict[str, dict[str, int]], place: str, kinds: Mapping[str, int]) -> None:
    for kind, number in kinds.items():
        if number:
            counts = erased.setdefault(place, {})
            counts[kind] = counts.get(kind, 0) + number


def _bring_back(destination: Destination | None, paths: DayPaths, on_wait: OnWait) -> None:
    """Restores a day without run files here, without the runs that have tombstones, so that its zip can be made anew.

    Raises:
        ArchiveError: See `restore_day`; or the day was pruned, and neither its copy nor its zip is there.
    """
    if paths.folder.is_dir():
        return
    layout = Layout(paths.data_dir, paths.archive_dir)
    found = copies(destination, paths.project, paths.day, paths.day, layout=layout) if destination else []
    if destination and found:
        restore_day(destination, paths, found[0], RestoreOptions(on_wait=on_wait))
    elif paths.zip.is_file():
        with day_lock(paths, on_wait=on_wait):
            publish(paths, unpack_day(paths, paths.zip), paths.zip)
            clear(paths)
    elif paths.pruned.is_dir():
        raise ArchiveError(
            f"{paths.project} {paths.day} was pruned, and its copy is not there",
            why=f"{destination.place} does not have it" if destination else "no destination is set up",
            hint="Bring the copy back, and run: lse forget --resume",
        )


def _other_names(destination: Destination, paths: DayPaths) -> Iterator[StoredFile]:
    """The day's zips of older tools, which had other names."""
    for folder in destination.find_project_folders(project_folder(paths.project)):
        for file in destination.list_files(folder):
            if file.name.endswith(f"{paths.day}.zip") and file.name != paths.zip.name:
                yield file


def _replace_copy(destination: Destination, paths: DayPaths, on_wait: OnWait) -> tuple[dict[str, int], list[str]]:
    """Uploads the new zip over a copy, and erases what the destination keeps of former ones."""
    others = list(_other_names(destination, paths))
    if others or _one_copy(destination, paths):
        upload_day(destination, paths, on_wait=on_wait)
    folder = project_folder(paths.project)
    with day_lock(paths, on_wait=on_wait):
        for file in others:
            check_superset(destination, paths, file)
            destination.trash(file)
        history = destination.erase_history(folder, paths.zip.name, _one_copy(destination, paths))
        for name in sorted({file.name for file in others}):
            history += destination.erase_history(folder, name, None)
    return dict(history.erased), _refused(destination.place, history)


def _refused(place: str, history: ErasedHistory) -> list[str]:
    """A sentence for each thing that the place keeps."""
    refused = []
    for one in history.left:
        until = f" until {one.until}" if one.until else ""
        refused.append(f"{place}: {one.what}: {one.why}{until}" + (f". {one.hint}" if one.hint else ""))
    return refused


def _count_rows(database: Database, paths: DayPaths) -> None:
    """Corrects the number of rows in the table `days`."""
    with database.session(f"cannot count the rows of {paths.project} {paths.day}") as connection:
        query = "SELECT (SELECT count(*) FROM runs WHERE {0}) FROM days WHERE {0}"
        day = "project = %(project)s AND run_date = %(day)s"
        found = connection.execute(
            sql.SQL(query).format(sql.SQL(day)), {"project": paths.project, "day": paths.day}
        ).fetchone()
    if found:
        update_day(database, paths.project, paths.day, {"rows": found[0]})


def _prove(places: Places, paths: DayPaths, intent: DayIntent, on_wait: OnWait) -> list[str]:
    """Verifies the day again where it was complete, and prunes again what was pruned; returns why not."""
    database = places.database
    if database is None:
        return []
    verify_step(paths, places.open_destination, lambda: database, LogReporter(), VerifyOptions(), places.lake)
    notes = []
    with places.destination() as destination:
        for what, was_pruned in (("zips", intent.zip_pruned), ("files", intent.files_pruned)):
            if destination and was_pruned and (paths.zip.is_file() if what == "zips" else paths.folder.is_dir()):
                result = prune_day(destination, database, paths, what, on_wait=on_wait)
                if result.action == "kept":
                    notes.append(f"{paths.day}: its {what} were pruned before, and stay here now: {result.why}")
    return notes
