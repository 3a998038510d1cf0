"""Many models at once on one machine: each trains on a thread of its own, side by side, from the same arrays."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from .. import _native
from .._fit import DelayedInterrupt
from .cell import Cell, Outcome, Problem, Stop

_POLL = 0.1  # seconds: how soon Ctrl-C is seen


class Shares:
    """Divides threads among the models that train side by side. A model has its part from its next native call on."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.waiting = 0
        """Trainings that are to come: as long as there are as many as threads, none gets a second one."""
        self._training = 0
        self._models: set[Any] = set()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def one(self, *, waited: bool = False) -> Iterator[Callable[[Any], None]]:
        """A training, one of those waiting if it `waited`; yields what is to be called with its model."""
        mine: list[Any] = []

        def started(model: Any) -> None:
            with self._lock:
                mine.append(model)
                self._models.add(model)
                self._share()

        with self._lock:
            self.waiting -= waited
            self._training += 1
            self._share()
        try:
            yield started
        finally:
            with self._lock:
                self._training -= 1
                self._models.difference_update(mine)
                self._share()

    def _share(self) -> None:
        for model in self._models:
            model.threads = max(1, self.threads // max(1, self._training + self.waiting))


def checked_jobs(jobs: int | None) -> int:
    """How many trainings at a time: as many as there are threads if nothing is said."""
    if jobs is not None and (not isinstance(jobs, int) or jobs < 1):
        raise ValueError(f"search: argument 'jobs': expected an int ≥ 1, got {jobs!r}")
    return jobs or _native.num_threads()


class Local:
    """Runs cells in threads. A program of one thread needs no other; when fewer cells than cores are left, the
    threads that are free go to the rest. Neither changes a bit of a result.
    """

    def __init__(self, problem: Problem, jobs: int | None = None) -> None:
        self.problem, self.jobs = problem, checked_jobs(jobs)
        self._shares = Shares(self.jobs)

    def run(self, tasks: Sequence[tuple[Cell, int, Path | None]]) -> Iterator[tuple[Cell, Outcome]]:
        """The outcome of each task (a cell, the epoch to go to, the folder of its checkpoint) as it is done."""
        stop = Stop()
        self._shares.waiting = len(tasks)
        pool = ThreadPoolExecutor(self.jobs, thread_name_prefix="wdfast-search")
        try:
            with DelayedInterrupt() as interrupt:  # Ctrl-C in the midst would leave a thread that the pool forgets
                futures: dict[Future[Outcome], Cell] = {pool.submit(self._train, *task, stop): task[0]
                                                        for task in tasks}
            if interrupt.requested:
                raise KeyboardInterrupt
            while futures:
                done, _ = wait(futures, timeout=_POLL, return_when=FIRST_COMPLETED)
                for future in done:
                    yield futures.pop(future), future.result()
        finally:
            stop.requested = True
            pool.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        """Lets the trainings go that were not to go on."""
        self.problem.forget()

    def _train(self, cell: Cell, until: int, folder: Path | None, stop: Stop) -> Outcome:
        with self._shares.one(waited=True) as started:
            return self.problem.train(cell, until, folder, stop=stop, started=started)
