"""Fixtures that tests of several rooms share."""

import shutil
import signal

import pytest
from hypothesis import settings

pytest_plugins = ["archive_fixtures", "s3_fixtures", "database_fixtures", "home_fixtures"]

settings.register_profile("lse", deadline=None)  # no test fails because the machine is busy
settings.load_profile("lse")

# Started in the background of a shell, this process ignores Ctrl-C, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def sha256sum() -> None:
    """GNU's sha256sum, whose format the checksums have."""
    if shutil.which("sha256sum") is None:
        pytest.fail("there is no sha256sum. Get it with: brew install coreutils (macOS)", pytrace=False)
