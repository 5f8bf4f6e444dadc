"""Where a process id means one process: a boot of the system, and in it a namespace of process ids."""

from __future__ import annotations

import contextlib
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/self/ns/pid")


def pid_space() -> str:
    """Id of the boot and of this process' namespace of process ids; empty on systems without these ids.

    Containers on one host share the boot, and may share a name, but not the namespace (pid_namespaces(7)).
    """
    with contextlib.suppress(OSError):
        return f"{_BOOT_ID.read_text().strip()} {_NAMESPACE.readlink()}"
    return ""
