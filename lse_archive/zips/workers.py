"""Runs a function over a list in worker processes: Python threads do not run Python code in parallel.

A worker exits when its output pipe is closed, also if the parent was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

from lse_archive.errors import ArchiveError

_T = TypeVar("_T")
_R = TypeVar("_R")

_PROCESSES = 2
_HERE = 1000  # about as many small files as are compressed until the workers have started
_BUFFER = 1 << 16
_PIPE = 1 << 20  # large: workers must not block while the parent reads from another


def in_processes(
    work: Callable[[_T], _R], items: Sequence[_T], descriptors: Sequence[int] = (), *, here: int | None = None
) -> Generator[_R]:
    """The results of `work`, in order. Workers handle all but the beginning of a long list.

    Args:
        work: A function of a module. Its argument, result and exceptions must be picklable.
        descriptors: Open files and directories that `work` uses.
        here: Number of items that the parent handles while the workers start; None: `_HERE`.

    Raises:
        ArchiveError: A worker was killed.
    """
    here = _HERE if here is None else here
    first, rest = items[:here], items[here:]
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(_started(work, rest[number::_PROCESSES], descriptors))
            for number in range(min(_PROCESSES, len(rest)))
        ]
        for item in first:
            yield work(item)
        for number in range(len(rest)):
            yield _next_result(workers[number % _PROCESSES])


def _started(work: Callable[[_T], object], items: Sequence[_T], descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
    with tempfile.TemporaryFile() as request:  # a pipe would block until the worker has started
        pickle.dump(sys.path, request)
        pickle.dump((work, items), request)
        request.seek(0)
        # A session of its own: Ctrl-C must reach only the parent. -P: import nothing from the current directory.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=request,
            stdout=subprocess.PIPE,
            bufsize=_BUFFER,
            pass_fds=descriptors,
            start_new_session=True,
        )


def _next_result(worker: subprocess.Popen[bytes]) -> Any:
    assert worker.stdout is not None
    try:
        answer, error = pickle.load(worker.stdout)
    except (EOFError, pickle.UnpicklingError) as broken:
        worker.stdout.close()  # the worker exits, if it has not
        raise ArchiveError(
            "a worker process has exited",
            why=f"exit code {worker.wait()}",
            hint="If memory is short, free some; then retry",
        ) from broken
    if error is not None:
        raise error
    return answer


def _serve() -> None:
    """Writes the results to the former standard output; prints of the work go to standard error."""
    with contextlib.suppress(BrokenPipeError), os.fdopen(os.dup(1), "wb", _BUFFER) as answers:
        with contextlib.suppress(OSError, AttributeError):  # above the user's limit, or not Linux
            fcntl.fcntl(answers, fcntl.F_SETPIPE_SZ, _PIPE)
        os.dup2(2, 1)
        sys.path[:] = pickle.load(sys.stdin.buffer)
        work, items = pickle.load(sys.stdin.buffer)
        for item in items:
            try:
                answer = (work(item), None)
            except Exception as error:  # noqa: BLE001 - raised again in the parent
                answer = (None, error)
            pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)


if __name__ == "__main__":
    _serve()
