"""Fixtures that tests of several rooms share."""

pytest_plugins = ["archive_fixtures", "s3_fixtures", "database_fixtures", "house_fixtures"]
