"""The import contracts of pyproject.toml fail on a wrong import."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_LINT = Path(sys.executable).with_name("lint-imports")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for package in _ROOT.glob("lse_*"):
        shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(_ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("lse_archive/days.py", "import lse_resources.settings", "Arrows point one way"),
        ("lse_sensors/outbox.py", "import lse_assets.assets", "Arrows point one way"),
        ("lse_archive/zips/writer.py", "import httpx", "What an archive is needs no outside system"),
        ("lse_operations/steps.py", "import dagster", "Resources and operations know neither Dagster nor a terminal"),
        ("lse_archive/files.py", "import lse_archive.folder.locks", "No package imports in a circle"),
        ("lse_platform/home.py", "import lse_demo.agent", "only its command imports it"),
    ],
)
def test_a_wrong_import_breaks_its_contract(copy: Path, module: str, line: str, contract: str) -> None:
    path = copy / module
    path.write_text(f"{path.read_text()}\n{line}\n")
    ended = subprocess.run([_LINT, "--no-cache"], cwd=copy, capture_output=True, text=True)
    assert ended.returncode == 1
    assert any(contract in row and "BROKEN" in row for row in ended.stdout.splitlines()), ended.stdout
