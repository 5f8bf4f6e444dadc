"""The browser test on a machine without a browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

_ROOT = Path(__file__).parents[2]


def test_without_chromium_the_browser_test_fails_with_an_install_hint(tmp_path: Path) -> None:
    make = shutil.which("make")
    assert make
    own = ("PYTEST_", "MAKE", "MFLAGS")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(own)}

    # `-o install-dev`: make must not run the installation, even if a prerequisite is newer.
    ended = subprocess.run(
        [make, "-o", "install-dev", f"VENV={sys.prefix}", "test-ui"],
        cwd=_ROOT,
        env=inherited | {"PATH": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert ended.returncode != 0
    assert "there is no Chromium. Get it with: apt-get install chromium" in ended.stdout
    assert "passed" not in ended.stdout
    assert "skipped" not in ended.stdout
