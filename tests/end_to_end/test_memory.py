"""The peak memory of every step is bounded by bytes, not by the number of runs, and each copy of the day is whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_every_step_with_large_runs_stays_below_the_limit() -> None:
    command = [sys.executable, "bench/memory.py", "--runs", "100", "--bytes", "2000000"]
    command += ["--attachments", "40", "--feedback", "500"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
