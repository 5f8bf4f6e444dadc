"""Standard output that is closed, full, or not UTF-8 stops no work and loses no data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from home_fixtures import DAY, PROJECT, Installation

from lse_archive.folder.state import update_state

pytestmark = pytest.mark.slow

_LSE = Path(sys.executable).with_name("lse")


def run(
    installation: Installation, *words: str, stdout: int = subprocess.PIPE, encoding: str = "utf-8"
) -> subprocess.CompletedProcess[str]:
    """Runs the console script with this standard output."""
    return subprocess.run(
        [_LSE, *words],
        cwd=installation.directory,
        env=os.environ | {"PYTHONIOENCODING": encoding},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
    )


def closed_pipe() -> int:
    """The write end of a pipe whose read end is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("full", [False, True], ids=["closed", "full"])
def test_a_step_continues_when_its_lines_cannot_be_printed(installation: Installation, full: bool) -> None:
    installation.fill(2)
    assert installation.archive("full-sweep").code == 0
    installation.sql("DELETE FROM runs WHERE run_id = %s", min(installation.rows()))
    stdout = os.open("/dev/full", os.O_WRONLY) if full else closed_pipe()
    try:
        ended = run(installation, "archive", "verify", "--project", PROJECT, "--date", str(DAY), stdout=stdout)
    finally:
        os.close(stdout)
    assert ended.returncode == 3
    assert ("nothing more is printed" in ended.stderr) == full
    assert len(ended.stderr.splitlines()) == full


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_full_disk_behind_the_output_is_one_error_line(bare_installation: Installation, options: list[str]) -> None:
    bare_installation.paths().folder.mkdir(parents=True)
    stdout = os.open("/dev/full", os.O_WRONLY)
    try:
        ended = run(bare_installation, "status", *options, stdout=stdout)
    finally:
        os.close(stdout)
    lines = [line for line in ended.stderr.splitlines() if "the state of Postgres is unknown" not in line]
    assert lines == ["lse: cannot write the output: No space left on device. Free space, then run the command again"]
    assert ended.returncode == 1


def test_a_closed_output_is_no_error(bare_installation: Installation) -> None:
    words = ["sh", "-c", '"$0" "$@" >&-', str(_LSE), "projects", "list", "--json"]
    ended = subprocess.run(
        words, cwd=bare_installation.directory, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_an_ascii_output_gets_replacement_characters_and_json_escapes(installation: Installation) -> None:
    name = "größe"
    installation.fill(2, project=name)
    words = ["--project", name, "--date", str(DAY)]
    ended = run(installation, "archive", "fetch", *words, encoding="ascii")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "? fetch" in ended.stdout
    update_state(installation.paths(name), verified_at="2026-01-01T00:00:00Z")
    [entry] = json.loads(run(installation, "status", "--json", encoding="ascii").stdout)["results"]
    assert entry["project"] == name
