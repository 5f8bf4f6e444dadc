"""Remote databases: TLS, certificates and password files."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy
from home_fixtures import Installation
from tls_proxy import Authority, tls_proxy

from lse_archive.errors import DatabaseError
from lse_resources.embedded_postgres.place import find_location
from lse_resources.embedded_postgres.server import EmbeddedServer
from lse_resources.postgres.database import Database
from lse_resources.postgres.urls import dagster_url
from lse_resources.settings import Settings

pytestmark = pytest.mark.slow

HOST = "db.example.org"
PASSWORD = "it's :secret"
_ENCODED = "it%27s%20%3Asecret"


@dataclass(frozen=True)
class Remote:
    """A server with TLS and a password, under the name HOST."""

    port: int
    root: Path
    other_root: Path
    directory: Path

    def url(self, options: str, *, password: str | None = None, host: str = HOST) -> str:
        """The URL of its database `archive`, with the address: the host name is not resolved."""
        user = "archiver" if password is None else f"archiver:{password}"
        return f"postgresql://{user}@{host}:{self.port}/archive?hostaddr=127.0.0.1&{options}"

    def verified(self, *, password: str | None = None) -> str:
        return self.url(f"sslmode=verify-full&sslrootcert={self.root}", password=password)


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    """A server where the role `archiver` needs a password."""
    base = Path(tempfile.mkdtemp(prefix="lse-db-", dir="/tmp")).resolve()
    base.chmod(0o755)
    server = EmbeddedServer(base / "postgres")
    try:
        with Database(server.start().url()).connect() as connection:
            quoted = PASSWORD.replace("'", "''")
            connection.execute(f"CREATE ROLE archiver LOGIN CREATEDB PASSWORD '{quoted}'".encode())
            connection.execute("CREATE DATABASE archive OWNER archiver")
            access = find_location(server.home).data / "pg_hba.conf"
            access.write_text(f"local all archiver scram-sha-256\n{access.read_text()}")
            connection.execute("SELECT pg_reload_conf()")
        yield server
    finally:
        server.remove()
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def remote(server: EmbeddedServer, tmp_path: Path) -> Iterator[Remote]:
    authority, other = Authority.make(tmp_path, "authority"), Authority.make(tmp_path, "other")
    with tls_proxy(find_location(server.home).socket, authority.server(HOST)) as port:
        yield Remote(port, authority.root, other.root, tmp_path)


@pytest.fixture
def password_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of PGPASSFILE."""
    path = tmp_path / "passwords"
    path.write_text(f"{HOST}:*:*:archiver:{PASSWORD.replace(':', chr(92) + ':')}\n")
    path.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(path))
    return path


def refusal(url: str) -> DatabaseError:
    """Returns the error of a refused connection: one line, without a password."""
    with pytest.raises(DatabaseError) as refused:
        Database(url).connect()
    text = str(refused.value)
    assert "\n" not in text
    for secret in (PASSWORD, _ENCODED, "wrong%21", "wrong!"):
        assert secret not in text
    assert refused.value.what == "cannot connect to Postgres"
    return refused.value


@pytest.mark.parametrize("options", ["sslmode=require", "sslmode=verify-ca&sslrootcert={}"])
def test_the_url_can_require_encryption(remote: Remote, options: str) -> None:
    with Database(remote.url(options.format(remote.root), password=_ENCODED)).connect() as connection:
        assert connection.pgconn.ssl_in_use
        assert connection.execute("SELECT current_user, current_database()").fetchone() == ("archiver", "archive")


def test_the_right_root_and_host_are_accepted(remote: Remote) -> None:
    with Database(remote.verified(password=_ENCODED)).connect() as connection:
        assert connection.pgconn.ssl_in_use
        # More than one TLS record in both directions.
        text = "run " * 100_000
        assert connection.execute("SELECT %s::text", (text,)).fetchone() == (text,)


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_a_root_that_did_not_sign_the_certificate_is_refused(remote: Remote, mode: str) -> None:
    error = refusal(remote.url(f"sslmode={mode}&sslrootcert={remote.other_root}", password=_ENCODED))
    assert "certificate verify failed" in error.why
    assert "sslrootcert" in error.hint


def test_a_host_that_differs_from_the_certificate_is_refused(remote: Remote) -> None:
    options = f"sslmode=verify-full&sslrootcert={remote.root}"
    error = refusal(remote.url(options, password=_ENCODED, host="other.example.org"))
    assert f'server certificate for "{HOST}" does not match host name "other.example.org"' in error.why
    assert error.hint == "In LSE_DATABASE_URL use the host name of the server's certificate"


def test_the_error_for_a_missing_root_names_the_file(remote: Remote) -> None:
    missing = remote.directory / "nothing.pem"
    error = refusal(remote.url(f"sslmode=verify-full&sslrootcert={missing}", password=_ENCODED))
    assert f'root certificate file "{missing}" does not exist' in error.why
    assert "sslrootcert" in error.hint


def test_a_server_without_tls_is_refused_when_tls_is_required(remote: Remote, server: EmbeddedServer) -> None:
    with tls_proxy(find_location(server.home).socket, None) as port:
        plain = Remote(port, remote.root, remote.other_root, remote.directory)
        error = refusal(plain.url("sslmode=require", password=_ENCODED))
        with Database(plain.url("sslmode=prefer", password=_ENCODED)).connect() as connection:
            assert not connection.pgconn.ssl_in_use
    assert "server does not support SSL, but SSL was required" in error.why
    assert "sslmode" in error.hint


def test_an_unknown_sslmode_is_refused(remote: Remote) -> None:
    error = refusal(remote.url("sslmode=certainly", password=_ENCODED))
    assert error.why == 'invalid sslmode value: "certainly"'
    assert "verify-full" in error.hint


def test_the_password_comes_from_the_password_file(remote: Remote, password_file: Path) -> None:
    with Database(remote.verified()).connect() as connection:
        assert connection.pgconn.used_password
        assert connection.execute("SELECT current_user").fetchone() == ("archiver",)


def test_a_wrong_password_in_the_file_is_refused(remote: Remote, password_file: Path) -> None:
    password_file.write_text(f"{HOST}:*:*:archiver:wrong!\n")
    error = refusal(remote.verified())
    assert 'password authentication failed for user "archiver"' in error.why
    assert "password file" in error.hint
    assert error.why == refusal(remote.verified(password="wrong%21")).why


def test_a_password_file_readable_by_others_is_not_used(
    remote: Remote, password_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    password_file.chmod(0o644)
    error = refusal(remote.verified())
    assert "no password supplied" in error.why
    assert "only its owner may read" in error.hint
    assert "permissions should be u=rw (0600) or less" in capfd.readouterr().err  # the message of libpq


def test_a_command_and_dagster_work_over_tls(
    bare_installation: Installation, remote: Remote, password_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LSE_DATABASE_URL", remote.verified())

    ended = bare_installation.lse("db", "migrate")

    assert (ended.code, ended.out) == (0, "the schema is up to date\n")
    engine = sqlalchemy.create_engine(dagster_url(Settings.load()), poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT current_database()").scalar() == "archive_dagster"

    monkeypatch.setenv("LSE_DATABASE_URL", f"{remote.verified()}.gone")
    ended = bare_installation.lse("db", "migrate")
    assert (ended.code, ended.out) == (1, "")
    assert "cannot connect to Postgres" in ended.err
    assert "Traceback" not in ended.err
