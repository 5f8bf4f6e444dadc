"""`dagster-daemon`, for people who wait: a backfill that was just launched begins within seconds.

Dagster looks for new backfills every 30 seconds, and has no setting for it.
"""

from __future__ import annotations

from dagster._daemon import controller
from dagster._daemon.cli import main

_SECONDS = 3

if __name__ == "__main__":
    vars(controller)["DEFAULT_DAEMON_INTERVAL_SECONDS"] = _SECONDS
    main()
