"""Work on a stream of items in a few threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

_Worker = TypeVar("_Worker")
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_parallel(
    work: Callable[[_Worker, _Item], _Result], workers: Sequence[_Worker], items: Iterable[_Item]
) -> Generator[_Result]:
    """Yields the results of `work(worker, item)` in the order of the items; each worker has its own thread.

    At most one item per worker, and one more, is in memory at a time.
    """
    idle: SimpleQueue[_Worker] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def run(item: _Item) -> _Result:
        worker = idle.get()
        try:
            return work(worker, item)
        finally:
            idle.put(worker)

    pending: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(len(workers)) as pool:
        try:
            for item in items:
                pending.append(pool.submit(run, item))
                if len(pending) > len(workers):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
