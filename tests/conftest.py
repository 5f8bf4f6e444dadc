"""Fixtures that tests of several rooms share."""

import signal

pytest_plugins = ["archive_fixtures", "s3_fixtures", "database_fixtures", "house_fixtures"]

# Started in the background of a shell, this process ignores Ctrl-C, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
