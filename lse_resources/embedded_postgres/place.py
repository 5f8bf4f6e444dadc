"""The directories of an embedded PostgreSQL: chosen once for each home, and recorded in it."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from lse_archive.errors import EmbeddedServerError
from lse_archive.files import publish_file
from lse_resources.embedded_postgres.files import OWN_DATABASE, SYSTEM_ROOT, make_open_dir
from lse_resources.embedded_postgres.host import ServerUser, server_user

PORT = 5432
"""Part of the name of the socket file: the server does not listen on TCP."""
_SOCKET_ROOT = Path("/tmp")  # a socket's path may have 107 bytes at most (sun_path): the home may be longer


@dataclass(frozen=True)
class Location:
    """The directories of one server: `place` contains `data` and `log`, and is the home unless root had to move it."""

    home: Path
    place: Path
    socket_dir: Path

    @property
    def data(self) -> Path:
        return self.place / "data"

    @property
    def log(self) -> Path:
        return self.place / "log"

    @property
    def socket(self) -> Path:
        return self.socket_dir / f".s.PGSQL.{PORT}"

    def url(self, database: str = "lse") -> str:
        """Returns the libpq URL of a database, without a password: the permissions of `socket_dir` protect it."""
        host = quote(str(self.socket_dir), safe="/")
        return f"postgresql://postgres@/{quote(database, safe='')}?host={host}&port={PORT}"

    def socket_dir_is_safe(self, uid: int) -> bool:
        """True if only `uid` and root can create a socket there; any user can create directories in /tmp."""
        try:
            found = self.socket_dir.lstat()
        except FileNotFoundError:
            return False
        return stat.S_ISDIR(found.st_mode) and found.st_uid == uid and stat.S_IMODE(found.st_mode) == 0o700


def find_location(home: Path) -> Location:
    """Returns the location of the server of `home` (an absolute path without symlinks). Changes nothing.

    Raises:
        EmbeddedServerError: The data is not at the recorded place, or the home is a copy of another home whose data
            is elsewhere: the two homes would share one server.
    """
    digest = _digest(home)
    here = Location(home, home, _SOCKET_ROOT / f"lse-{digest}")
    record = home / "location"
    if not record.exists():
        if os.geteuid() == 0 and not here.data.exists() and (SYSTEM_ROOT / digest / "data").exists():
            return Location(home, SYSTEM_ROOT / digest, here.socket_dir)
        return here
    recorded = json.loads(record.read_bytes())
    place = Path(recorded["place"])
    if recorded["home"] != str(home) and recorded["home"] == str(place):  # moved or copied together with its data
        return here
    if not place.exists():
        why = f"its data was in {place}, which does not exist any more"
    elif recorded["home"] != str(home) and (Path(recorded["home"]) / "location").exists():
        why = f"it is a copy of {recorded['home']}, to which the data in {place} belongs"
    else:
        socket_dir = Path(recorded["socket_dir"]) if recorded["home"] == str(home) else here.socket_dir
        return Location(home, place, socket_dir)
    raise EmbeddedServerError(
        f"cannot use the embedded PostgreSQL of {home}",
        why=why,
        hint=f"Delete {record} to start with an empty database. Or: {OWN_DATABASE}",
    )


def settle_location(home: Path) -> tuple[Location, ServerUser]:
    """Chooses and records the server's directories, and creates the socket directory. Also returns the server's user.

    If the caller is root and `nobody` cannot reach the home (as under /root), the data goes to /var/lib/lse.
    """
    location = find_location(home)
    user = server_user(location.data)
    if os.geteuid() == 0 and not location.data.exists() and location.place == home and not _reachable(home, user):
        make_open_dir(SYSTEM_ROOT)
        location = Location(home, SYSTEM_ROOT / _digest(home), location.socket_dir)
        make_open_dir(location.place)
    if not location.socket_dir_is_safe(user.uid):
        location = _with_new_socket_dir(location, user)
    record = {"home": str(home), "place": str(location.place), "socket_dir": str(location.socket_dir)}
    with publish_file(home / "location", mode=0o644) as file:
        file.write(json.dumps(record).encode())
    return location, user


def make_private_dir(path: Path, user: ServerUser) -> None:
    """Creates a directory that only `user` can access. Raises FileExistsError."""
    path.mkdir(mode=0o700)
    path.chmod(0o700)  # independent of the umask
    if os.geteuid() != user.uid:
        os.chown(path, user.uid, user.gid)


def _digest(home: Path) -> str:
    return hashlib.sha256(os.fsencode(home)).hexdigest()[:16]


def _reachable(directory: Path, user: ServerUser) -> bool:
    return user.run(["/bin/sh", "-c", 'cd -- "$1"', "sh", directory]) == 0


def _with_new_socket_dir(location: Location, user: ServerUser) -> Location:
    """Returns the location with a new socket directory; its name is random if the usual one is taken."""
    try:
        make_private_dir(location.socket_dir, user)
        return location
    except FileExistsError:
        socket_dir = Path(tempfile.mkdtemp(prefix="lse-", dir=_SOCKET_ROOT))
        os.chown(socket_dir, user.uid, user.gid)
        return Location(location.home, location.place, socket_dir)
