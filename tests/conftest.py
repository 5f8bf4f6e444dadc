"""Fixtures that tests of several packages share."""

import shutil
import signal

import pytest
from hypothesis import settings

pytest_plugins = ["archive_fixtures", "s3_fixtures", "database_fixtures", "home_fixtures", "viewer_fixtures"]

settings.register_profile("lse", deadline=None)  # a busy machine must not fail a test
settings.load_profile("lse")

# A shell's background process ignores SIGINT, and its child processes inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def sha256sum() -> None:
    """Requires GNU sha256sum, whose format the checksum files have."""
    if shutil.which("sha256sum") is None:
        pytest.fail("there is no sha256sum. Get it with: brew install coreutils (macOS)", pytrace=False)
