"""Runs the local Google Drive as a separate process."""

import argparse
import signal
import sys
from pathlib import Path

from lse_demo.google_drive.server import USER, DriveServer


def main() -> None:
    """Serves a directory until SIGINT or SIGTERM; the first line on stdout is the URL."""
    parser = argparse.ArgumentParser(description="A local Google Drive v3 for demonstrations and tests.")
    parser.add_argument("--store", type=Path, required=True, help="directory that holds the files")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="delay before each answer")
    parser.add_argument("--credentials", type=Path, help=f"write credentials of {USER} to this file")
    options = parser.parse_args()
    stop_signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals)  # threads inherit the mask, so sigwait gets the signal
    with DriveServer(options.store, port=options.port, latency=options.latency_ms / 1000) as server:
        if options.credentials:
            server.accounts.write_authorized_user(options.credentials, USER, url=server.url)
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        signal.sigwait(stop_signals)


if __name__ == "__main__":
    main()
