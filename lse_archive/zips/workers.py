"""A list of work, shared with a few processes: of Python's threads only one at a time runs Python.

A process that helps ends when nobody reads its answers, thus also when the one that it helps was killed.
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
_HERE = 1000  # items: what is done while the processes start
_BUFFER = 1 << 16
_PIPE = 1 << 20  # the asker takes from the processes in turn: none shall wait for that


def in_processes(work: Callable[[_T], _R], items: Sequence[_T], descriptors: Sequence[int] = ()) -> Generator[_R]:
    """The results of `work`, in order. Of a long list all but the beginning is done by processes.

    Args:
        work: A function of a module; what it takes, gives and raises must be such that it can be pickled.
        descriptors: Open files and directories that `work` uses.

    Raises:
        ArchiveError: A process was killed.
    """
    here, rest = items[:_HERE], items[_HERE:]
    with contextlib.ExitStack() as stack:
        helpers = [
            stack.enter_context(_started(work, rest[number::_PROCESSES], descriptors))
            for number in range(min(_PROCESSES, len(rest)))
        ]
        for item in here:
            yield work(item)
        for number in range(len(rest)):
            yield _answer(helpers[number % _PROCESSES])


def _started(work: Callable[[_T], object], items: Sequence[_T], descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
    with tempfile.TemporaryFile() as request:  # a pipe would have us wait until the process has started
        pickle.dump(sys.path, request)
        pickle.dump((work, items), request)
        request.seek(0)
        # Of a session of its own: Ctrl-C is for the one who asks. -P: nothing is imported from the current directory.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=request,
            stdout=subprocess.PIPE,
            bufsize=_BUFFER,
            pass_fds=descriptors,
            start_new_session=True,
        )


def _answer(helper: subprocess.Popen[bytes]) -> Any:
    assert helper.stdout is not None
    try:
        answer, error = pickle.load(helper.stdout)
    except (EOFError, pickle.UnpicklingError) as broken:
        helper.stdout.close()  # then it ends, if it has not
        raise ArchiveError(
            "a process that helps this one has ended",
            why=f"exit code {helper.wait()}",
            hint="If memory is short, free some; then do it again",
        ) from broken
    if error is not None:
        raise error
    return answer


def _serve() -> None:
    """Answers on what was the standard output; what the work prints goes to the standard error."""
    with contextlib.suppress(BrokenPipeError), os.fdopen(os.dup(1), "wb", _BUFFER) as answers:
        with contextlib.suppress(OSError, AttributeError):  # more than the user may have, or not Linux
            fcntl.fcntl(answers, fcntl.F_SETPIPE_SZ, _PIPE)
        os.dup2(2, 1)
        sys.path[:] = pickle.load(sys.stdin.buffer)
        work, items = pickle.load(sys.stdin.buffer)
        for item in items:
            try:
                answer = (work(item), None)
            except Exception as error:  # noqa: BLE001 - it is the asker's
                answer = (None, error)
            pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)


if __name__ == "__main__":
    _serve()
