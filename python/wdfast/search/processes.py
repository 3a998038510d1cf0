"""Cells in processes of one thread each: for networks so small that Python's own lock is what threads wait for."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from .. import _native
from .cell import Cell, Outcome, Problem
from .local import checked_jobs

_POLL = 0.1  # seconds: how soon Ctrl-C is seen
_ATTEMPTS = 3  # of a cell whose process dies, for want of memory perhaps
_TOLD = 2  # cells that a process is told of at a time, so that it need not wait for the next


class _Stop:
    """Asks a cell to save and end: the search has ended, or its process has gone."""

    def __init__(self, event: Any) -> None:
        self._event, self._parent = event, os.getpid()

    @property
    def requested(self) -> bool:
        return self._event.is_set() or os.getppid() != self._parent


class Processes:
    """Runs cells in forked processes, which share the data with this one. The results are the same bits as in threads.

    A process serves until the search ends or has other cells, and trains what it left halfway itself, as it has it in
    memory, while there is some of that. A cell whose process dies is run again, and reported as failed after three
    times. Raises ValueError where processes cannot be forked.
    """

    def __init__(self, problem: Problem, jobs: int | None = None) -> None:
        self.problem, self.jobs = problem, checked_jobs(jobs)
        if "fork" not in multiprocessing.get_all_start_methods():
            raise ValueError("search: argument 'workers': expected 'threads': this system cannot fork processes")
        self._context = multiprocessing.get_context("fork")
        self._processes: dict[Connection, Any] = {}  # by the end of its pipe
        self._numbers: dict[Cell, int] = {}  # how they are told of the cells, which may hold what cannot be sent
        self._homes: dict[int, Connection] = {}  # by the number of a cell: who trained it last
        self._event = self._context.Event()

    def run(self, tasks: Sequence[tuple[Cell, int, Path | None]]) -> Iterator[tuple[Cell, Outcome]]:
        """The outcome of each task (a cell, the epoch to go to, the folder of its checkpoint) as it is done."""
        cells = [cell for cell, _, _ in tasks]
        if not self._numbers.keys() >= set(cells):
            self.close()
            self._numbers = {cell: number for number, cell in enumerate(cells)}
        numbers = [self._numbers[cell] for cell in cells]
        waiting, attempts = list(range(len(tasks))), [0] * len(tasks)
        busy: dict[Connection, list[int]] = {}  # what each process was told; it is at the first
        try:
            while waiting or busy:
                for pipe in self._ready(busy, waiting):
                    index = self._next(waiting, numbers, pipe)
                    try:
                        pipe.send((numbers[index], *tasks[index][1:]))
                        busy.setdefault(pipe, []).append(index)
                    except OSError:  # it died when it had nothing to do
                        waiting.insert(0, index)
                        if pipe not in busy:
                            self._lose(pipe)
                for pipe in wait(list(busy), timeout=_POLL):
                    index = busy[pipe][0]
                    try:
                        outcome = pipe.recv()
                        self._homes[numbers[index]] = pipe
                    except (EOFError, OSError):
                        process = self._lose(pipe)
                        waiting[:0] = busy.pop(pipe)
                        attempts[index] += 1
                        if attempts[index] < _ATTEMPTS:
                            continue
                        waiting.remove(index)
                        outcome = Outcome(self.problem.key(cells[index]), failure=(
                            f"its process died {_ATTEMPTS} times, with exit code {process.exitcode}"))
                    else:
                        busy[pipe].pop(0)
                        if not busy[pipe]:
                            del busy[pipe]
                    yield cells[index], outcome
        except BaseException:  # also where nobody asks for the next outcome
            self.close()
            raise

    def close(self) -> None:
        """Ends the processes; what they train is saved."""
        self._event.set()
        for pipe in list(self._processes):
            self._lose(pipe)
        self._homes, self._event = {}, self._context.Event()

    def _lose(self, pipe: Connection) -> Any:
        process = self._processes.pop(pipe)
        pipe.close()
        process.join()
        return process

    def _ready(self, busy: dict[Connection, list[int]], waiting: Sequence[int]) -> Iterator[Connection]:
        """Who is to be told of a task: those that have none, new ones among them, then those that will soon be done.

        These have the next at hand when they are, as long as there is one for each.
        """
        while waiting and len(busy) < self.jobs:
            yield next((p for p in self._processes if p not in busy), None) or self._start()
        for pipe, told in list(busy.items()):
            if len(told) < _TOLD and len(waiting) >= self.jobs:
                yield pipe

    def _next(self, waiting: list[int], numbers: Sequence[int], pipe: Connection) -> int:
        """Takes the task from `waiting` that this process does best: its own, a new one, the last of another's."""
        homes = [self._homes.get(numbers[index]) for index in waiting]
        own = (at for at, home in enumerate(homes) if home is pipe)
        new = (at for at, home in enumerate(homes) if home not in self._processes)
        return waiting.pop(next(own, next(new, -1)))

    def _start(self) -> Connection:
        ours, theirs = self._context.Pipe()
        stop, others = _Stop(self._event), [ours, *self._processes]
        process = self._context.Process(target=_serve, args=(self.problem, list(self._numbers), theirs, others, stop))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, which the child has not
            process.start()
        theirs.close()
        self._processes[ours] = process
        return ours


def _serve(problem: Problem, cells: Sequence[Cell], pipe: Connection, others: Sequence[Connection],
           stop: _Stop) -> None:
    """Trains what it is told the number of, until nobody asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the search says what to do
    for other in others:  # or the end of the search would not be seen here
        other.close()
    _native.set_num_threads(1)
    gc.freeze()  # what was there before is not looked through again, nor copied for having been
    try:
        while True:
            number, until, folder = pipe.recv()
            pipe.send(problem.train(cells[number], until, folder, stop=stop))
    except (EOFError, OSError, KeyboardInterrupt):
        return
