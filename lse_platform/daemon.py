"""`dagster-daemon` with a shorter polling interval: a new backfill starts within seconds.

Dagster polls for new backfills every 30 seconds and has no setting for the interval.
"""

from __future__ import annotations

from dagster._daemon import controller
from dagster._daemon.cli import main

_SECONDS = 3

if __name__ == "__main__":
    vars(controller)["DEFAULT_DAEMON_INTERVAL_SECONDS"] = _SECONDS
    main()
