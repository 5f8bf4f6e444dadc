"""Work on a stream of items in a few threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

from lse_archive.cancellation import set_cancel_event

_Worker = TypeVar("_Worker")
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_parallel(
    work: Callable[[_Worker, _Item], _Result], workers: Sequence[_Worker], items: Iterable[_Item]
) -> Generator[_Result]:
    """Yields the results of `work(worker, item)` in the order of the items; each worker has its own thread.

    At most one item per worker, and one more, is in memory at a time. After an error or an interrupt the workers end
    their `cancellable_sleep`.
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
    ended = threading.Event()
    with ThreadPoolExecutor(len(workers), initializer=set_cancel_event, initargs=(ended,)) as pool:
        try:
            for item in items:
                pending.append(pool.submit(run, item))
                if len(pending) > len(workers):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            ended.set()
            for future in pending:
                future.cancel()
