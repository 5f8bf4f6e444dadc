"""Every option of every command, and every setting, with values that break programs: no traceback, nothing raw."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from home_fixtures import DAY, PROJECT, CommandResult, Installation
from nightly import some_of
from test_cli_help import commands
from typer.core import TyperCommand

from lse_resources.settings import Settings

pytestmark = pytest.mark.slow

_ESCAPES = "\x1b]0;title\x07\x1b[2J\u202eevil\x9b31m"
HOSTILE = {
    "bytes": os.fsdecode(b"caf\xe9\xff"),
    "escapes": _ESCAPES,
    "lines": "a\nb\rc\td",
    "empty": "",
    "long": "x" * 5000,
    "home": "~nosuchuser/x",
    "negative": "-1",
    "huge": "9" * 30,
    "digits": "٣",
    "nan": "nan",
    "year 1": "0001-01-01",
    "year 9999": "9999-12-31",
    "markup": "[bold]%s{0}:smile:../..",
}
# What a terminal would execute, or show in another order.
_RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# Arguments with which the command ends soon.
_NEEDED = {
    "archive prune": ["--older-than", "90d"],
    "archive rollback": ["--load", "1"],
    "archive import": [".", "--project", PROJECT],
    "db grant": ["reader"],
    "demo": ["--up"],
    "drive login": ["--paste"],
    "drive prune": ["--older-than", "90d"],
    "export": ["--project", PROJECT],
    "projects add": ["new", "--start", str(DAY)],
    "sql": ["SELECT 1"],
    "up": ["--host", "256.0.0.1"],
}


def assert_clear(ended: CommandResult, context: object) -> None:
    """Asserts a documented exit code, and messages that are neither a traceback nor raw."""
    shown = ended.out + ended.err
    assert ended.code in (0, 1, 2, 3), (context, shown)
    assert "Traceback" not in shown, (context, shown)
    assert "unexpected" not in shown, (context, shown)
    assert not _RAW.search(shown), (context, shown)
    assert ended.code == 0 or ended.out or ended.err, context


def calls(words: str, command: TyperCommand) -> Iterator[list[str]]:
    """The command with each of its options and arguments set to each hostile value."""
    for parameter in command.params:
        if getattr(parameter, "is_flag", False) or parameter.name == "help":
            continue
        for value in some_of(list(HOSTILE.values()), f"{words} {parameter.name}"):
            arguments = list(_NEEDED.get(words, []))
            if parameter.param_type_name == "argument":
                if arguments and not arguments[0].startswith("--"):
                    del arguments[0]
                yield [*words.split(), *arguments, "--", value]
                continue
            option = parameter.opts[0]
            if option == "--start-date":
                arguments += ["--end-date", "0001-01-01"]
            if option != "--project" and any("--project" in other.opts for other in command.params):
                arguments += ["--project", PROJECT]
            yield [*words.split(), *arguments, f"{option}={value}"]


@pytest.mark.parametrize(("words", "command"), [pytest.param(*found, id=found[0]) for found in commands()])
def test_no_value_of_an_option_gives_a_traceback(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, words: str, command: TyperCommand
) -> None:
    monkeypatch.chdir(installation.directory)
    monkeypatch.setenv("LSE_UI_URL", "http://127.0.0.1:9")
    for call in calls(words, command):
        assert_clear(installation.lse(*call), call)


@pytest.mark.parametrize("name", [name.upper() for name in Settings.model_fields])
def test_no_value_of_a_setting_gives_a_traceback(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(installation.directory)
    if name.startswith("AWS_"):
        monkeypatch.setenv("LSE_ARCHIVE_URL", "s3://bucket/folder")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    if name.startswith("LSE_ALERT_"):
        monkeypatch.setenv("LSE_ALERT_SMTP_URL", "smtp://127.0.0.1:9")
        monkeypatch.setenv("LSE_ALERT_EMAIL", "team@example.com")
    for value in some_of([*HOSTILE.values(), "\x00", "http://[::1", "http://h:99999", ",", "inf", "1e308"], name):
        if not value:
            continue  # an empty setting is unset
        if value == "\x00":
            (installation.directory / "nul.env").write_text(f"{name}=a\x00b\n")
            monkeypatch.delenv(name, raising=False)
            monkeypatch.setenv("LSE_ENV_FILE", str(installation.directory / "nul.env"))
        else:
            monkeypatch.setenv(name, value)
        for command in (["doctor"], ["alerts", "test"], ["status", "--project", PROJECT]):
            assert_clear(installation.lse(*command), (name, value, command))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_an_env_file_in_another_encoding_is_one_clear_error(
    bare_installation: Installation, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    path = bare_installation.directory / "settings.env"
    path.write_bytes("LSE_UI_URL=http://café\n".encode(encoding))
    monkeypatch.setenv("LSE_ENV_FILE", str(path))
    ended = bare_installation.lse("projects", "list")
    error = f"lse: {path} cannot be read: it is not UTF-8. Save it again with the encoding UTF-8\n"
    assert (ended.code, ended.err) == (1, error)


def test_a_day_is_archived_under_paths_that_are_not_utf_8(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = os.fsdecode(b"d\xff\x1b[31m")
    for setting in ("LSE_DATA_DIR", "LSE_ARCHIVE_DIR"):
        monkeypatch.setenv(setting, str(installation.directory / setting / name))
    installation.fill(3)
    swept = installation.archive("full-sweep")
    assert_clear(swept, "full-sweep")
    assert swept.code == 0
    target = installation.directory / name
    zipped = installation.archive("zip", "--output-dir", str(target), "--json")
    assert zipped.code == 0
    assert Path(zipped.entry["path"]).parent == target
    assert_clear(zipped, "zip")


def test_a_day_that_dagster_cannot_name_is_wrong_usage_and_the_first_that_it_can_is_archived(
    installation: Installation,
) -> None:
    """Dagster writes years without leading zeros."""
    refused = installation.archive("zip", day=date(999, 12, 31))
    assert (refused.code, refused.out) == (2, "")
    assert "the first day of an archive is 1000-01-01" in refused.err
    ended = installation.archive("zip", "--json", day=date(1000, 1, 1))
    assert "nothing of the project" in ended.entry["error"]["what"]


# Runs commands one after the other in a mount namespace in which a directory is read-only.
_READ_ONLY = """
import contextlib, io, json, subprocess, sys
from lse_cli.main import main
directory, calls = json.loads(sys.argv[1])
subprocess.run(["mount", "--bind", directory, directory], check=True)
subprocess.run(["mount", "-o", "remount,bind,ro", directory], check=True)
results = []
for call in calls:
    sys.argv, code, out, err = ["lse", *call], 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    results.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(results))
"""
_CAN_UNSHARE = subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(not _CAN_UNSHARE, reason="mount namespaces need root")
@pytest.mark.parametrize("place", ["data", "archives", "home", "."])
def test_read_only_media_are_clear_errors(installation: Installation, place: str) -> None:
    installation.fill(3)
    assert installation.archive("full-sweep").code == 0
    installation.fill(5)
    older = installation.directory / "older"
    older.mkdir()
    of_day = ["--project", PROJECT, "--date", str(DAY), "--force"]
    calls = [
        ["archive", "fetch", *of_day],
        ["archive", "zip", *of_day],
        ["archive", "upload", *of_day],
        ["archive", "to-db", *of_day],
        ["archive", "verify", *of_day[:4]],
        ["archive", "restore", *of_day],
        ["archive", "prune", "--project", PROJECT, "--older-than", "1d", "--force"],
        ["archive", "import", str(installation.paths().folder), "--project", "other", "--force"],
        ["status", "--project", PROJECT],
        ["projects", "add", "other", "--start", str(DAY)],
        ["export", "--project", PROJECT, "--start-date", str(DAY), "--end-date", str(DAY), "--force"],
        ["sql", "SELECT 1"],
        ["doctor"],
        ["drive", "dedupe", "--project", PROJECT, "--force"],
        ["drive", "login", "--paste"],
        ["alerts", "test"],
        ["db", "migrate"],
        ["up", "--host", "256.0.0.1"],
        ["down"],
        ["demo", "--directory", str(installation.directory / place / "demo")],
    ]
    command = ["unshare", "--mount", sys.executable, "-c", _READ_ONLY]
    arguments = json.dumps([str(installation.directory / place), calls])
    ended = subprocess.run(
        [*command, arguments],
        cwd=installation.directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    for call, result in zip(calls, json.loads(ended.stdout), strict=True):
        assert_clear(CommandResult(*result), call)
