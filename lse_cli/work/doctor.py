"""The checks of `lse doctor`: everything that the archive needs, and how to fix what is wrong."""

from __future__ import annotations

import contextlib
import errno
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import httpx
import msgspec
import pyrage

from lse_archive.days import Window, day_ranges, day_window, today
from lse_archive.errors import AccessError, ArchiveError, DestinationError
from lse_archive.files import disk_errors, flush_directory, try_lock
from lse_archive.folder.manifest import TOOL
from lse_archive.names import project_slug
from lse_archive.texts import counted
from lse_cli.terminal.texts import alike_behind, missing_steps
from lse_operations.forget.journal import Journal
from lse_operations.overview import DayView, all_days, unlisted
from lse_platform.process_registry import Registry
from lse_resources.alerts import check_targets
from lse_resources.destinations.google_drive.client import GoogleDrive
from lse_resources.destinations.object_store import ObjectStore
from lse_resources.langsmith.client import LangSmith
from lse_resources.langsmith.source import Project
from lse_resources.open_destination import encryption_keys
from lse_resources.postgres.database import Database, other_encoding, require_utf8
from lse_resources.postgres.schema import UnpreparedError, check_schema
from lse_resources.postgres.urls import application_url, dagster_url, libpq_url
from lse_resources.projects import KEY_HINT, ProjectConfig, key_owners, lists_none, read_projects
from lse_resources.settings import Settings
from lse_sensors.outbox import Outbox

_MIN_FREE_BYTES = 2_000_000_000
_MAX_SKEW_SECONDS = 60.0
_TIMEOUT_SECONDS = 5.0  # a user waits: a slow service is reported as it is
_PACKAGES = ("dagster", "langsmith", "psycopg", "google-api-python-client")


class Finding(msgspec.Struct, frozen=True):
    """The result of one check; `hint` is how to fix it."""

    name: str
    verdict: Literal["ok", "note", "wrong"]
    says: str
    hint: str = msgspec.field(default="", name="todo")


Findings = Iterator[Finding]


def examine(settings: Settings) -> Findings:
    """Runs every check in turn; a check that raises an ArchiveError becomes a finding."""
    checks: dict[str, Callable[[Settings], Findings]] = {
        "versions": _versions,
        "settings": _settings,
        "projects": _projects_file,
        "days": _days,
        "erasures": _erasures,
        "disk": _disk,
        "clock": _clock,
        "LangSmith": _langsmith,
        **({"bucket": _bucket} if settings.lse_archive_url else {"Drive": _drive}),
        "encryption": _encryption,
        "Postgres": _postgres,
        "alerts": _alerts,
        "platform": _platform,
    }
    for name, check in checks.items():
        try:
            yield from check(settings)
        except ArchiveError as error:
            says = f"{error.what}: {error.why}" if error.why else error.what
            yield Finding(name, "wrong", says, error.hint or "Fix the named setting in .env or the environment")


def _versions(_: Settings) -> Findings:
    found = [TOOL]
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    yield Finding("versions", "ok", f"Python {platform.python_version()}, {', '.join(found)}, {sys.platform}")
    versions = {name: version(name) for name in ("dagster", "dagster-webserver", "dagster-graphql")}
    if len(set(versions.values())) > 1:
        says = ", ".join(f"{name} {number}" for name, number in versions.items())
        yield Finding("versions", "wrong", f"Dagster's packages have different versions: {says}", "Install LSE again")


def _settings(settings: Settings) -> Findings:
    secrets = {
        "LANGSMITH_API_KEY": bool(settings.langsmith_api_key.get_secret_value()),
        "LSE_DATABASE_URL": settings.lse_database_url is not None,
        "LSE_ALERT_WEBHOOK_URL": settings.lse_alert_webhook_url is not None,
        "LSE_ALERT_SMTP_URL": settings.lse_alert_smtp_url is not None,
    }
    values = [f"LSE_HOME={settings.home}", f"LSE_DATA_DIR={settings.layout.data_dir}"]
    values += [f"LSE_ARCHIVE_DIR={settings.layout.archive_dir}", f"LANGSMITH_ENDPOINT={settings.langsmith_endpoint}"]
    values += [f"{name}={'(set)' if is_set else '(not set)'}" for name, is_set in secrets.items()]
    yield Finding("settings", "ok", ", ".join(values))


def _projects_file(settings: Settings) -> Findings:
    projects = read_projects(settings.projects_file)
    if projects:
        yield Finding("projects", "ok", f"{counted(len(projects), 'project')} in {settings.projects_file}")
    else:
        hint = "lse projects add NAME --start DAY, or lse projects sync"
        yield Finding("projects", "note", lists_none(settings.projects_file), hint)
    owners = key_owners(projects)
    for project in projects:
        if (owner := owners[project_slug(project.name)]) != project.name:
            says = f"the platform does not archive '{project.name}': its key is that of '{owner}'"
            yield Finding("projects", "wrong", says, KEY_HINT)


_DIFFER = ("differs", "differ")
_SWEEP = "lse archive full-sweep"


def _days(settings: Settings) -> Findings:
    now = datetime.now(UTC)
    listed = read_projects(settings.projects_file)
    others = unlisted(settings.layout, listed, None)
    projects = [*listed, *(ProjectConfig(name, days[0], schedule="off") for name, days in others.items() if days)]
    all_right = True
    for project, days in zip(projects, all_days(settings, projects, now), strict=True):
        for finding in _of_project(project, days, now.date() - timedelta(days=1)):
            all_right = False
            yield finding
    if all_right:
        yield Finding("days", "ok", "no day is behind, none differs")


def _of_project(project: ProjectConfig, days: list[DayView], yesterday: date) -> Findings:
    """What is wrong with a project's days; not that yesterday, or a day that has settled, is still to be fetched."""
    missed = [day for day in days if day.is_gap and day.behind and day.date < yesterday]
    lost = [day for day in days if day.incomplete and not day.last_day]
    is_new = all(day.is_gap for day in days)
    kinds = [
        (_DIFFER, "lse archive verify", [day for day in days if day.differs and day not in lost]),
        (("is still in LangSmith, and not archived", "are still in LangSmith, and not archived"), _SWEEP, missed),
    ]
    for found in alike_behind(days):
        if found[0].behind != ("files",):
            command = f"{_SWEEP} --force" + ("" if "files" in found[0].behind else " --skip-fetch")
            if found[0].behind == ("verified",):  # a pruned day can be verified, and not be zipped
                command = "lse archive verify"
            lacks = missing_steps(found[0])
            kinds.append(((f"is behind: {lacks}", f"are behind: {lacks}"), command, found))
    for what, command, found in kinds:
        if found:
            span = f"--start-date {found[0].date} --end-date {found[-1].date}"
            hint = f"{command} --project '{project.name}' {span}"
            is_automatic = what != _DIFFER and project.schedule != "off"
            if is_automatic:
                hint = f"lse up does it by itself; now: {hint}"
            is_note = is_new or (what != _DIFFER and not is_automatic)  # what is archived on request waits for one
            yield Finding("days", "note" if is_note else "wrong", _said(project, found, what), hint)
    if lost:
        says = _said(project, lost, ("is incomplete", "are incomplete")) + ", and no longer in LangSmith"
        yield Finding("days", "note", says, "lse archive verify names the runs that are missing")


def _said(project: ProjectConfig, days: list[DayView], what: tuple[str, str]) -> str:
    return f"{project.name}: {day_ranges(str(day.date) for day in days)} {what[len(days) > 1]}"


def _erasures(settings: Settings) -> Findings:
    journal = Journal(settings.layout)
    intents = journal.open_intents()
    if not intents:
        yield Finding("erasures", "ok", "none is open")
        return
    with disk_errors("the erasures cannot be examined"), journal.lock(wait=False) as is_free:
        for one in intents:
            says = f"{one.project}: the erasure {one.id}, begun {one.started_at}, is not complete"
            hint = "lse up does it by itself; now: lse forget --resume"
            yield Finding("erasures", "wrong", says, hint) if is_free else Finding("erasures", "note", f"{says} yet")


def _disk(settings: Settings) -> Findings:
    for path in dict.fromkeys((settings.layout.data_dir, settings.layout.archive_dir, settings.home)):
        directory = next(parent for parent in (path, *path.parents) if parent.exists())
        probe = directory / ".lse-doctor"
        try:
            with probe.open("wb") as file:
                try_lock(file.fileno(), path)
        except OSError as error:
            is_read_only = error.errno == errno.EROFS
            hint = "Mount its file system for writing" if is_read_only else "Change its permissions"
            raise ArchiveError(f"{path} cannot be written", why=error.strerror or "", hint=hint) from None
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()
        try:
            flush_directory(directory)
        except OSError as error:
            says = f"{path}: its file system does not flush directories ({error.strerror})"
            yield Finding("disk", "note", says, "A power failure may undo the last changes: use a local disk")
        free = shutil.disk_usage(directory).free
        enough = free >= _MIN_FREE_BYTES
        hint = "" if enough else "Free space, or delete files that are proven at the destination: lse archive prune"
        yield Finding("disk", "ok" if enough else "wrong", f"{path}: {free / 1e9:.1f} GB free", hint)


def _clock(settings: Settings) -> Findings:
    try:
        response = httpx.get(f"{settings.langsmith_endpoint.rstrip('/')}/info", timeout=_TIMEOUT_SECONDS)
        skew = (datetime.now(UTC) - parsedate_to_datetime(response.headers["Date"])).total_seconds()
    except (httpx.HTTPError, httpx.InvalidURL, KeyError, ValueError, TypeError):
        yield Finding("clock", "note", "it cannot be compared with LangSmith's clock")
        return
    accurate = abs(skew) <= _MAX_SKEW_SECONDS
    hint = "" if accurate else "Synchronize the system clock with a time server (NTP): it decides which day is over"
    yield Finding("clock", "ok" if accurate else "wrong", f"{abs(skew):.0f} s from LangSmith's clock", hint)


def _langsmith(settings: Settings) -> Findings:
    patience = min(settings.lse_patience, 1.0)
    options = replace(settings.langsmith, timeout=_TIMEOUT_SECONDS, patience=patience)
    with contextlib.closing(LangSmith(options)) as client:
        release = client.info().get("version", "unknown version")
        found = {project.name: project for project in client.projects()}
        access = f"the key can read {counted(len(found), 'project')}"
        yield Finding("LangSmith", "ok", f"{settings.langsmith_endpoint} ({release}): {access}")
        listed = read_projects(settings.projects_file)
        names = set(found)
        for project in listed:
            if project.name not in found:  # it may be an experiment
                with contextlib.suppress(AccessError):
                    found[project.name] = client.project(project.name)
        if unknown := [project.name for project in listed if project.name not in found]:
            hint = f"Correct the names in {settings.projects_file}, or check LANGSMITH_WORKSPACE_ID"
            yield Finding("LangSmith", "wrong", f"it has no project {', '.join(map(repr, unknown))}", hint)
        archived = [(project, found[project.name]) for project in listed if project.name in found]
        yield from _retention(settings, client, archived)
        if archived:
            yield _run_query(client, archived[0][0].name)
        for announced in client.announced_ends:
            says = f"it announces the end of a route that LSE uses: {announced}"
            yield Finding("LangSmith", "note", says, "Update LSE before that day")
    if missing := len(names.difference(project.name for project in listed)):
        yield Finding(
            "LangSmith", "note", f"not archived: {counted(missing, 'project')}", "lse projects sync adds them"
        )


def _retention(settings: Settings, client: LangSmith, archived: list[tuple[ProjectConfig, Project]]) -> Findings:
    kept: dict[int | None, list[str]] = {}
    for listed, project in archived:
        days = client.retention_days(project)
        kept.setdefault(days, []).append(listed.name)
        if days is not None and days != listed.retention_days:
            says = f"it keeps the traces of '{listed.name}' for {counted(days, 'day')}, and not for "
            hint = f"What expires follows from LangSmith's answer; set retention_days = {days} for it in"
            hint += f" {settings.projects_file}"
            if days > listed.retention_days:
                hint += " if it always kept them so: days older than retention_days are not proven"
            yield Finding("LangSmith", "note", says + counted(listed.retention_days, "day"), hint)
    for days, names in kept.items():
        what = f"the traces of {counted(len(names), 'project')}"
        if days is None:
            hint = f"Check retention_days in {settings.projects_file}"
            yield Finding("LangSmith", "note", f"it does not tell how long it keeps {what}", hint)
        else:
            yield Finding("LangSmith", "ok", f"it keeps {what} for {counted(days, 'day')}")


def _run_query(client: LangSmith, name: str) -> Finding:
    """Requests the runs of one microsecond: it shows the version of the API, and whether its end is announced."""
    start = day_window(today()).start
    with contextlib.closing(client.source(name)) as source:
        source.page(Window(start, start + 1), None, ids_only=True)
        return Finding("LangSmith", "ok", f"it serves runs by its API {source.api_version}")


def _drive(settings: Settings) -> Findings:
    if not settings.google_drive_folder_url:
        hint = "Put the link of a Drive folder into .env (GOOGLE_DRIVE_FOLDER_URL)"
        yield Finding("Drive", "note", "it is not configured: archives have no copy outside this machine", hint)
        return
    with GoogleDrive(settings.drive) as drive:
        folder = drive.check_folder()
        free = "no limit" if folder.free is None else f"{folder.free / 1e9:.1f} GB free"
        kind = "a shared drive" if folder.shared_drive else "My Drive"
        says = f"{folder.account.email} uploaded a file to '{folder.name}' in {kind}, and trashed it; {free}"
        yield _try_upload(drive, folder.id, Finding("Drive", "ok", says))
        for name, folders in drive.duplicate_folders().items():
            says = f"{counted(len(folders), 'folder')} named '{name}'; they are read as one"
            yield Finding("Drive", "note", says, "lse drive dedupe merges them")


def _bucket(settings: Settings) -> Findings:
    url = settings.lse_archive_url or ""
    key = {
        "AWS_ACCESS_KEY_ID": settings.aws_access_key_id,
        "AWS_SECRET_ACCESS_KEY": settings.aws_secret_access_key,
    }
    missing = [variable for variable, value in key.items() if value is None] if url.startswith("s3:") else []
    if len(missing) == 1:
        yield Finding("bucket", "wrong", f"{missing[0]} is not set", f"Set {' and '.join(key)}, or neither")
        return
    if missing:
        says = "no key is set: the credentials come from the AWS role of this host"
        yield Finding("bucket", "note", says, f"If this host has no role, set {' and '.join(key)}")
    with contextlib.closing(ObjectStore(url, settings.object_store)) as store:
        hint = "Check address, endpoint and credentials: they must allow list, get, put and delete in the folder"
        says = f"{url}: an object was uploaded, read, listed and deleted"
        yield _try_upload(store, "", Finding("bucket", "ok", says, hint))


def _try_upload(destination: GoogleDrive | ObjectStore, folder: str, success: Finding) -> Finding:
    """Uploads and removes a file with the same requests as an upload of a day.

    Args:
        success: The finding if all is well; its hint is for every error, without one the error's own counts.
    """
    name = f"lse-doctor-{platform.node()}"  # one name: at most one file is left
    with tempfile.TemporaryDirectory(prefix="lse-doctor-") as scratch:
        probe = Path(scratch) / name
        probe.write_bytes(b"a test file of lse doctor\n")
        try:
            destination.check_folder()
            left = next(iter(destination.find_file(folder, name)), None)
            destination.trash(destination.upload(probe, name, folder, {}, existing=left))
        except DestinationError as error:
            says = f"{error.what}: {error.why}"
            with contextlib.suppress(DestinationError):
                if destination.find_file(folder, name):
                    place = destination.place
                    says = f"{place} accepts files and does not delete them ({name} is left): {error.why}"
            hint = success.hint or error.hint or "Check the rights of this account in the folder"
            return Finding(success.name, "wrong", says, hint)
    return Finding(success.name, "ok", success.says)


def _encryption(settings: Settings) -> Findings:
    """Encrypts a few bytes, and decrypts them if a key for that is set."""
    age: Any = pyrage  # a Rust module without types
    keys = encryption_keys(settings)
    if keys is None:
        yield Finding("encryption", "ok", "off: zips are uploaded unencrypted")
        return
    encrypted, decrypted = BytesIO(), BytesIO()
    keys.encrypt(BytesIO(b"probe"), encrypted)
    if not keys.identities and keys.passphrase is None:
        says = "only LSE_AGE_RECIPIENT is set: this host cannot restore what it uploads"
        yield Finding(
            "encryption", "note", says, "To restore here, set LSE_AGE_IDENTITY_FILE. Store the file apart from the zips"
        )
        return
    try:
        keys.decrypt(BytesIO(encrypted.getvalue()), decrypted)
    except age.DecryptError:
        says = "LSE_AGE_IDENTITY_FILE cannot decrypt what is encrypted for LSE_AGE_RECIPIENT"
        hint = "Set the recipient of that file (age-keygen -y FILE), or remove LSE_AGE_RECIPIENT: the file is enough"
        yield Finding("encryption", "wrong", says, hint)
        return
    kind = "the passphrase" if keys.passphrase is not None else "the key file"
    yield Finding("encryption", "ok", f"{kind} encrypts and decrypts")


def _postgres(settings: Settings) -> Findings:
    database = Database(application_url(settings))
    with database.session("cannot read the version of Postgres") as connection:
        release = connection.info.parameter_status("server_version")
        encoding = connection.info.parameter_status("server_encoding")
        where = "LSE_DATABASE_URL" if settings.lse_database_url else "embedded"
        yield Finding("Postgres", "ok", f"{release} ({where}) responds, encoding {encoding}, sessions in UTC")
        require_utf8(connection, "the runs cannot be loaded")
    try:
        check_schema(database)
    except UnpreparedError as error:
        hint = "lse archive and lse up prepare it automatically; lse db migrate does it now"
        yield Finding("Postgres", "note", f"{error.what}: {error.why}", hint)
        return
    with Database(libpq_url(dagster_url(settings))).connect() as connection:
        if encoding := other_encoding(connection):
            says = f"Dagster's database has the encoding {encoding}: it cannot record every name and message"
            hint = "Create one with ENCODING 'UTF8', and name it in LSE_DAGSTER_DATABASE_URL"
            yield Finding("Postgres", "wrong", says, hint)
            return
        yield Finding("Postgres", "ok", "the schema is up to date, and Dagster's database responds")


def _alerts(settings: Settings) -> Findings:
    found = check_targets(settings)
    waiting = sum(1 for _ in Outbox(settings.home / "alerts").waiting())
    if waiting:
        yield Finding("alerts", "wrong", f"{counted(waiting, 'alert')} not delivered yet", "Test it: lse alerts test")
    elif found:
        yield Finding("alerts", "ok", f"sent to {' and '.join(found)}")
    else:
        hint = "Set LSE_ALERT_WEBHOOK_URL, or LSE_ALERT_SMTP_URL and LSE_ALERT_EMAIL"
        yield Finding("alerts", "note", "no target is configured: a failed check sends no alert", hint)


def _platform(settings: Settings) -> Findings:
    registry = Registry(settings.home / "run")
    running = registry.running()
    if "daemon" in running:
        yield Finding("platform", "ok", f"running: {', '.join(running)}")
    elif holder := registry.holder():
        yield Finding("platform", "ok", f"running elsewhere: {holder}")
    else:
        yield Finding("platform", "note", "not running: no day is archived automatically", "Start it: lse up")
