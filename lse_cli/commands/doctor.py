"""`lse doctor`: looks at everything that the archive needs, and says how to mend what is not right."""

from __future__ import annotations

import contextlib
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import typer

if TYPE_CHECKING:
    from lse_resources.settings import Settings

_MIN_FREE_BYTES = 2_000_000_000
_MAX_SKEW_SECONDS = 60.0
_ANSWER_SECONDS = 5.0  # a person waits for it: what takes longer is told as it is
_PACKAGES = ("lse", "dagster", "langsmith", "psycopg", "google-api-python-client")


class Finding(msgspec.Struct, frozen=True):
    """What was looked at, and what was found; `hint` is how to mend it."""

    name: str
    verdict: Literal["ok", "note", "wrong"]
    says: str
    hint: str = msgspec.field(default="", name="todo")


Findings = Iterator[Finding]


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object. Default: off.")] = False,
) -> None:
    """Check settings, LangSmith, the destination, Postgres, disk, clock and versions. Ends with 1 if one is wrong."""
    from lse_resources.settings import Settings

    findings = []
    for finding in examine(Settings.load()):
        findings.append(finding)
        if not json:  # at once: the next look may take a while
            _show(finding)
    if json:
        from lse_cli.terminal.output import print_json

        print_json([msgspec.to_builtins(finding) for finding in findings])
    if any(finding.verdict == "wrong" for finding in findings):
        raise typer.Exit(1)


def _show(finding: Finding) -> None:
    sign = {"ok": "✓", "note": "!", "wrong": "✗"}[finding.verdict]
    typer.echo(f"{sign} {finding.name:11} {finding.says}")
    if finding.hint:
        typer.echo(f"  {'':11} → {finding.hint}")


def examine(settings: Settings) -> Findings:
    """Looks at everything, one thing after the other; what cannot be asked is a finding, too."""
    from lse_archive.errors import ArchiveError

    looks: dict[str, Callable[[Settings], Findings]] = {
        "versions": _versions,
        "settings": _settings,
        "projects": _projects_file,
        "disk": _disk,
        "clock": _clock,
        "LangSmith": _langsmith,
        **({"bucket": _bucket} if settings.lse_archive_url else {"Drive": _drive}),
        "encryption": _encryption,
        "Postgres": _postgres,
        "alerts": _alerts,
        "platform": _platform,
    }
    for name, look in looks.items():
        try:
            yield from look(settings)
        except ArchiveError as error:
            says = f"{error.what}: {error.why}" if error.why else error.what
            yield Finding(name, "wrong", says, error.hint or "Mend what it names, in .env or the environment")


def _versions(_: Settings) -> Findings:
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    yield Finding("versions", "ok", f"Python {platform.python_version()}, {', '.join(found)}, {sys.platform}")
    families = {name: version(name) for name in ("dagster", "dagster-webserver", "dagster-graphql")}
    if len(set(families.values())) > 1:
        says = ", ".join(f"{name} {number}" for name, number in families.items())
        yield Finding("versions", "wrong", f"Dagster's packages do not fit together: {says}", "Install again")


def _settings(settings: Settings) -> Findings:
    secrets = {
        "LANGSMITH_API_KEY": bool(settings.langsmith_api_key.get_secret_value()),
        "LSE_DATABASE_URL": settings.lse_database_url is not None,
        "LSE_ALERT_WEBHOOK_URL": settings.lse_alert_webhook_url is not None,
        "LSE_ALERT_SMTP_URL": settings.lse_alert_smtp_url is not None,
    }
    shown = [f"LSE_HOME={settings.home}", f"LSE_DATA_DIR={settings.layout.data_dir}"]
    shown += [f"LSE_ARCHIVE_DIR={settings.layout.archive_dir}", f"LANGSMITH_ENDPOINT={settings.langsmith_endpoint}"]
    shown += [f"{name}={'(set)' if is_set else '(not set)'}" for name, is_set in secrets.items()]
    yield Finding("settings", "ok", ", ".join(shown))


def _projects_file(settings: Settings) -> Findings:
    from lse_resources.projects import lists_none, read_projects

    projects = read_projects(settings.projects_file)
    if projects:
        yield Finding("projects", "ok", f"{len(projects)} in {settings.projects_file}")
    else:
        hint = "lse projects add NAME --start DAY, or lse projects sync"
        yield Finding("projects", "note", lists_none(settings.projects_file), hint)


def _disk(settings: Settings) -> Findings:
    from lse_archive.errors import ArchiveError

    for path in dict.fromkeys((settings.layout.data_dir, settings.layout.archive_dir, settings.home)):
        there = next(parent for parent in (path, *path.parents) if parent.exists())
        probe = there / ".lse-doctor"
        try:
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ArchiveError(
                f"{path} cannot be written", why=error.strerror or "", hint="Change its rights"
            ) from None
        free = shutil.disk_usage(there).free
        enough = free >= _MIN_FREE_BYTES
        hint = "" if enough else "Make room: files that are proven on Drive can be given up"
        yield Finding("disk", "ok" if enough else "wrong", f"{path}: {free / 1e9:.1f} GB free", hint)


def _clock(settings: Settings) -> Findings:
    from datetime import UTC, datetime
    from email.utils import parsedate_to_datetime

    import httpx

    try:
        answer = httpx.get(f"{settings.langsmith_endpoint.rstrip('/')}/info", timeout=_ANSWER_SECONDS)
        skew = (datetime.now(UTC) - parsedate_to_datetime(answer.headers["Date"])).total_seconds()
    except (httpx.HTTPError, httpx.InvalidURL, KeyError, ValueError, TypeError):
        yield Finding("clock", "note", "it could not be compared with LangSmith's")
        return
    right = abs(skew) <= _MAX_SKEW_SECONDS
    hint = "" if right else "Let the system's clock follow a time server (NTP): days are cut by it"
    yield Finding("clock", "ok" if right else "wrong", f"{abs(skew):.0f} s from LangSmith's", hint)


def _langsmith(settings: Settings) -> Findings:
    from lse_cli.terminal.texts import counted
    from lse_resources.langsmith.client import LangSmith
    from lse_resources.projects import read_projects

    patience = min(settings.lse_patience, 1.0)
    asked = replace(settings.langsmith, timeout=_ANSWER_SECONDS, patience=patience)
    with contextlib.closing(LangSmith(asked)) as client:
        version = client.info().get("version", "of unknown version")
        names = {project.name for project in client.projects()}
    sees = f"the key sees {counted(len(names), 'project')}"
    yield Finding("LangSmith", "ok", f"{settings.langsmith_endpoint} ({version}): {sees}")
    listed = [project.name for project in read_projects(settings.projects_file)]
    if unknown := [name for name in listed if name not in names]:
        hint = f"Mend the names in {settings.projects_file}, or check LANGSMITH_WORKSPACE_ID"
        yield Finding("LangSmith", "wrong", f"it has no project {', '.join(map(repr, unknown))}", hint)
    if missing := len(names.difference(listed)):
        yield Finding(
            "LangSmith", "note", f"not archived: {counted(missing, 'project')}", "lse projects sync adds them"
        )


def _drive(settings: Settings) -> Findings:
    from lse_resources.destinations.google_drive.client import GoogleDrive

    if not settings.google_drive_folder_url:
        hint = "Put the link of a Drive folder into .env (GOOGLE_DRIVE_FOLDER_URL)"
        yield Finding("Drive", "note", "it is not set up: there is no copy elsewhere", hint)
        return
    with GoogleDrive(settings.drive) as drive:
        folder = drive.check_folder()
    free = "no limit" if folder.free is None else f"{folder.free / 1e9:.1f} GB free"
    kind = "a shared drive" if folder.shared_drive else "My Drive"
    yield Finding("Drive", "ok", f"{folder.account.email} may write to '{folder.name}' in {kind}, {free}")


def _bucket(settings: Settings) -> Findings:
    """Puts an object there and removes it again, in the way of every upload: list, put, get, copy, delete."""
    import tempfile

    from lse_archive.errors import DestinationError
    from lse_resources.destinations.object_store import ObjectStore

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
        says = "no key is set: AWS is asked for the role of this host"
        yield Finding("bucket", "note", says, f"Set {' and '.join(key)} if it has none")
    rights = "Check address, endpoint and credentials: they must allow to list, get, put and delete below the folder"
    name = f"lse-doctor-{platform.node()}"  # always the same here: what may not be deleted does not grow
    with (
        contextlib.closing(ObjectStore(url, settings.object_store)) as store,
        tempfile.TemporaryDirectory(prefix="lse-doctor-") as scratch,
    ):
        probe = Path(scratch) / name
        probe.write_bytes(b"lse doctor was here\n")
        try:
            store.check_folder()
            left = next(iter(store.find_file("", name)), None)
            store.trash(store.upload(probe, name, "", {}, existing=left))
        except DestinationError as error:
            says = f"{error.what}: {error.why}"
            with contextlib.suppress(DestinationError):
                if store.find_file("", name):
                    says = f"{url} takes objects and does not delete them ({name} is one): {error.why}"
            yield Finding("bucket", "wrong", says, rights)
        else:
            yield Finding("bucket", "ok", f"{url}: an object was put there, read, listed and deleted")


def _encryption(settings: Settings) -> Findings:
    """Encrypts a few bytes, and opens them again if there is something to open them with."""
    from io import BytesIO

    import pyrage

    from lse_resources.open_destination import encryption_keys

    age: Any = pyrage  # a module of Rust, without types
    keys = encryption_keys(settings)
    if keys is None:
        yield Finding("encryption", "ok", "off: zips leave as they are")
        return
    sealed, opened = BytesIO(), BytesIO()
    keys.encrypt(BytesIO(b"probe"), sealed)
    if not keys.identities and keys.passphrase is None:
        says = "for LSE_AGE_RECIPIENT alone: this host cannot restore what it uploads"
        yield Finding("encryption", "note", says, "To restore here: LSE_AGE_IDENTITY_FILE. Keep it apart from the zips")
        return
    try:
        keys.decrypt(BytesIO(sealed.getvalue()), opened)
    except age.DecryptError:
        says = "LSE_AGE_IDENTITY_FILE does not open what is encrypted for LSE_AGE_RECIPIENT"
        hint = "Set the recipient to the file's own (age-keygen -y FILE), or leave it out: the file alone is enough"
        yield Finding("encryption", "wrong", says, hint)
        return
    kind = "the passphrase" if keys.passphrase is not None else "the key file"
    yield Finding("encryption", "ok", f"{kind} encrypts, and opens what it encrypted")


def _postgres(settings: Settings) -> Findings:
    from lse_resources.postgres.database import Database
    from lse_resources.postgres.schema import UnpreparedError, check_schema
    from lse_resources.postgres.urls import application_url, dagster_url, libpq_url

    database = Database(application_url(settings))
    with database.session("cannot ask Postgres for its version") as connection:
        version = connection.info.parameter_status("server_version")
    where = "of LSE_DATABASE_URL" if settings.lse_database_url else "embedded"
    yield Finding("Postgres", "ok", f"{version} ({where}) answers")
    try:
        check_schema(database)
    except UnpreparedError as error:
        hint = "lse archive and lse up prepare it by themselves; lse db migrate does it now"
        yield Finding("Postgres", "note", f"{error.what}: {error.why}", hint)
        return
    with Database(libpq_url(dagster_url(settings))).connect():
        yield Finding("Postgres", "ok", "the schema is up to date, and Dagster's database answers")


def _alerts(settings: Settings) -> Findings:
    from lse_resources.alerts import mail_server, targets
    from lse_sensors.outbox import Outbox

    found = targets(settings)
    if settings.lse_alert_smtp_url:
        mail_server(settings.lse_alert_smtp_url.get_secret_value())
    waiting = sum(1 for _ in Outbox(settings.home / "alerts").waiting())
    if waiting:
        yield Finding("alerts", "wrong", f"{waiting} wait for a target to take them", "Try it: lse alerts test")
    elif found:
        yield Finding("alerts", "ok", f"they go to {' and '.join(found)}")
    else:
        hint = "Set LSE_ALERT_WEBHOOK_URL, or LSE_ALERT_SMTP_URL and LSE_ALERT_EMAIL"
        yield Finding("alerts", "note", "nobody is told when a check fails", hint)


def _platform(settings: Settings) -> Findings:
    from lse_platform.process_registry import Registry

    alive = Registry(settings.home / "run").alive()
    if "daemon" in alive:
        yield Finding("platform", "ok", f"it runs: {', '.join(alive)}")
    else:
        yield Finding("platform", "note", "it does not run: nothing happens by itself", "lse up")
