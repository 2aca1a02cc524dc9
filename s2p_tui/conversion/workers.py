"""Work shared by a few threads: the calling one and those it starts, which end before it returns.

NumPy's copies and casts and the calls that read and write files release the interpreter's lock, so
that threads are enough to keep several cores busy.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")
_MOST_BY_DEFAULT = 2


def usual_jobs() -> int:
    """Return the default number of threads: two, or one on a single core."""
    return min(_MOST_BY_DEFAULT, len(os.sched_getaffinity(0)))


def share(work: Iterable[T], do: Callable[[T], None], jobs: int) -> None:
    """Do every record of work, begun in order, at most `jobs` at a time.

    After a failure nothing new is begun. When this returns or raises, no thread is left.

    Args:
        work: Taken one by one, by one thread at a time.
        do: Called in any of the threads.
        jobs: Threads, the calling one among them.

    Raises:
        BaseException: The error of the earliest record of work that failed.
    """
    if jobs == 1:
        for item in work:
            do(item)
        return
    shared = _Shared(work, do)
    threads: list[threading.Thread] = []
    # Where the system allows no more threads, those there are do it all.
    with contextlib.suppress(RuntimeError):
        for number in range(1, jobs):
            thread = threading.Thread(target=shared.run, name=f"conversion-{number}")
            thread.start()
            threads.append(thread)
    shared.run()
    for thread in threads:
        shared.outlast(thread)
    shared.raise_earliest()


class _Shared(Generic[T]):
    def __init__(self, work: Iterable[T], do: Callable[[T], None]) -> None:
        self._work = iter(work)
        self._do = do
        self._taking = threading.Lock()
        self._taken = 0
        self._failures: list[tuple[int, BaseException]] = []

    def run(self) -> None:
        number = -1
        try:
            while not self._failures:
                with self._taking:
                    self._taken += 1
                    number = self._taken
                    try:
                        item = next(self._work)
                    except StopIteration:
                        return
                self._do(item)
                del item
        except BaseException as error:
            self._failures.append((number, error))

    def outlast(self, thread: threading.Thread) -> None:
        while thread.is_alive():
            try:
                thread.join()
            except BaseException as error:
                self._failures.append((-1, error))

    def raise_earliest(self) -> None:
        if self._failures:
            raise min(self._failures, key=lambda failure: failure[0])[1]
