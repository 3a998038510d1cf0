"""Cells on the workers of a Dask cluster: the same tasks, and the same bits, as on one machine."""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from .. import __version__
from ..io.files import atomic_write
from .cell import Cell, Outcome, Problem
from .local import Shares

_POLL = 0.2  # seconds: how soon Ctrl-C, a new worker and a scheduler that went away are seen
_SLICE = 120.0  # seconds a task lasts at most before it brings home its state: what the death of a worker can cost
_CONNECT = 10.0  # seconds for a scheduler to answer
_PATIENCE = 10.0  # seconds without any worker before that is said
_ATTEMPTS = 3  # how often Dask may give a cell up for the workers that died with it: once in company, twice alone
_STATE = "checkpoint.safetensors"
_LOST = (OSError, asyncio.TimeoutError)  # what a lost connection, or a worker that dies meanwhile, raises

_lock = threading.Lock()
_shares: WeakKeyDictionary[Any, Shares] = WeakKeyDictionary()  # of each worker in this process


class Dask:
    """Runs cells on the workers of a `distributed.Client`, or of the scheduler at an address.

    The problem goes to the scheduler once, and from there to a worker; the others have it from one another. A task
    depends on nothing but its arguments, so one whose worker died is run again, and results are written here alone.
    The state of a cell that is not finished travels as the bytes of its checkpoint, with the task and with the
    result: workers share no files. A worker divides its threads among the cells that it trains at a time.

    Raises TypeError for what is no client and for a `build` that cannot be pickled, ConnectionError where no
    scheduler answers.
    """

    def __init__(self, problem: Problem, client: Any) -> None:
        self.problem = problem
        self._owned = isinstance(client, str)
        self.client = _connected(client)
        self._address = self.client.scheduler.address
        self._data: Any = None
        self._seen = time.monotonic()  # when there was a worker last
        self._pickled()

    def _pickled(self) -> None:
        import cloudpickle

        for name in ("build", "callbacks"):
            try:
                cloudpickle.dumps(getattr(self.problem, name))
            except Exception as error:  # whatever an object's own pickling raises
                self.close()
                raise TypeError(f"search: argument '{name}': it goes to Dask's workers, so it has to be picklable by "
                                f"cloudpickle: {error}") from error

    @property
    def jobs(self) -> int:
        """How many cells can be trained at a time: the threads of all workers."""
        return max(1, self._slots())

    def close(self) -> None:
        """Gives the workers' copies of the data free; ends the connection if it was made here."""
        self._data = None
        if self._owned:
            self.client.close()

    # ---- running ---------------------------------------------------------------------------------------

    def run(self, tasks: Sequence[tuple[Cell, int, Path | None]]) -> Iterator[tuple[Cell, Outcome]]:
        """The outcome of each task (a cell, the epoch to go to, the folder of its checkpoint) as it is done.

        A connection that is lost for a moment is waited for. Raises ConnectionError where the scheduler stays away.
        """
        running: dict[Any, tuple[Cell, int, Path]] = {}
        try:
            with tempfile.TemporaryDirectory(prefix="wdfast-search-") as spare:
                yield from self._run(tasks, Path(spare), running)
        finally:
            with contextlib.suppress(Exception):  # a scheduler that went away has nothing left to cancel
                self.client.cancel(list(running))

    def _run(self, tasks: Sequence[tuple[Cell, int, Path | None]], spare: Path,
             running: dict[Any, tuple[Cell, int, Path]]) -> Iterator[tuple[Cell, Outcome]]:
        import distributed

        waiting = deque((cell, until, folder or spare / self.problem.key(cell)) for cell, until, folder in tasks)
        finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
        seconds: Counter[Cell] = Counter()
        deaths: Counter[Cell] = Counter()
        suspects: deque[tuple[Cell, int, Path]] = deque()  # whose workers died: at the end, each without company

        def again(task: tuple[Cell, int, Path]) -> None:
            (suspects if deaths[task[0]] else waiting).appendleft(task)

        while waiting or running or suspects:
            room = 2 * self._slots() - len(running)  # states may be large: no more of them under way than is needed
            ready = waiting
            if suspects and not waiting and not running:
                room, ready = min(room, 1), suspects
            while ready and room > 0:
                task = ready.popleft()
                future = self._submit(*task)
                running[future] = task
                future.add_done_callback(finished.put)
                room -= 1
            try:
                future = finished.get(timeout=_POLL)
            except queue.Empty:
                continue
            task = cell, _, folder = running.pop(future)
            try:
                outcome, state = future.result()
            except (MemoryError, distributed.KilledWorker) as error:
                deaths[cell] += 1
                if deaths[cell] < _ATTEMPTS:
                    again(task)
                    continue
                failure = f"{type(error).__name__}: {error}"
                outcome, state = Outcome(self.problem.key(cell), failure=failure), None
            except (distributed.CancelledError, *_LOST):
                if future.status == "error":  # the task's own
                    raise
                again(task)  # what it needs, or what it came to, was lost with a worker or the connection
                continue
            if state is not None:
                folder.mkdir(parents=True, exist_ok=True)
                with atomic_write(folder / _STATE) as file:
                    file.write(state)
            seconds[cell] += outcome.seconds
            if outcome.done < 0:
                again(task)
            else:
                outcome.seconds = seconds[cell]
                yield cell, outcome

    def _submit(self, cell: Cell, until: int, folder: Path) -> Any:
        path = folder / _STATE
        state = path.read_bytes() if path.exists() else None
        # The name of a try: what an earlier coordinator or connection left behind on the cluster has another.
        key = f"wdfast-cell-{self.problem.key(cell)}-{until}-{uuid.uuid4().hex}"
        with _large_graphs():
            return self.client.submit(_train, self._sent(), cell, until, state, __version__, key=key)

    def _sent(self) -> Any:
        """The problem on the workers: a task without arguments, which Dask runs again where its last copy is lost.

        Scattered data could not be made again, and with it went the count of the workers that died with a cell.
        """
        import cloudpickle

        if self._data is None or self._data.status not in ("pending", "finished"):
            with _large_graphs():
                self._data = self.client.submit(cloudpickle.loads, cloudpickle.dumps(self.problem),
                                                key=f"wdfast-problem-{uuid.uuid4().hex}")
        return self._data

    def _slots(self) -> int:
        """The threads of all workers. Waits for a connection that is being made again."""
        while self.client.status in ("running", "connecting"):
            if self.client.status == "running":
                with contextlib.suppress(*_LOST):
                    return self._counted(sum(self.client.nthreads().values()))
            time.sleep(_POLL)
        raise ConnectionError(f"search: the Dask scheduler at {self._address} went away; a search with output= goes "
                              "on from what is done")

    def _counted(self, slots: int) -> int:
        """Says so, once, when there has been no worker for long."""
        now = time.monotonic()
        if slots:
            self._seen = now
        elif now - self._seen > _PATIENCE:
            self._seen = math.inf
            print(f"search: the Dask scheduler at {self._address} has no worker; waiting for one", file=sys.stderr)
        return slots


def _large_graphs() -> Any:
    """Data and states go with the tasks that need them; Dask would warn of that."""
    import dask

    return dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"})


def _connected(client: Any) -> Any:
    """The client, or one of the scheduler at an address."""
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise ModuleNotFoundError("search: argument 'client' needs Dask: pip install wdfast[dask]") from None
    if isinstance(client, str):
        try:
            return Client(client, timeout=_CONNECT, set_as_default=False)
        except OSError as error:
            raise ConnectionError(f"search: no Dask scheduler answers at {client}: {error}") from error
    if not isinstance(client, Client) or client.asynchronous:
        raise TypeError("search: argument 'client': expected a distributed.Client that is not asynchronous, or the "
                        f"address of a scheduler, got {client!r}")
    if client.status != "running":
        raise ConnectionError(f"search: argument 'client': it has no connection to a scheduler, it is {client.status}")
    return client


# ---- on a worker ----------------------------------------------------------------------------------------


class _Leave:
    """Asks a cell to save and end: when its slice of time is over, or nobody waits for it any more."""

    def __init__(self, worker: Any, key: str) -> None:
        self._worker, self._key = worker, key
        self._end = time.monotonic() + _SLICE

    @property
    def requested(self) -> bool:
        task = self._worker.state.tasks.get(self._key)
        return time.monotonic() > self._end or task is None or task.state != "executing"


def _train(problem: Problem, cell: Cell, until: int, state: bytes | None,
           version: str) -> tuple[Outcome, bytes | None]:
    """The outcome of a task and the state of a cell that is to go on; `done` is −1 where the slice was too short."""
    import distributed

    worker = distributed.get_worker()
    if version != __version__:
        raise RuntimeError(f"search: the worker {worker.address} has wdfast {__version__}, the search {version}")
    with _lock:
        shares = _shares.setdefault(worker, Shares(worker.state.nthreads))
    with tempfile.TemporaryDirectory(prefix="wdfast-cell-") as folder, shares.one() as started:
        path = Path(folder, _STATE)
        if state is not None:
            path.write_bytes(state)
        stop = _Leave(worker, worker.get_current_task())
        begin = time.perf_counter()
        try:
            outcome = problem.train(cell, until, Path(folder), stop=stop, started=started)
            problem.forget()  # the next rung may be another worker's: its state goes back with the outcome
        except KeyboardInterrupt:
            outcome = Outcome(problem.key(cell), -1, seconds=time.perf_counter() - begin)
        goes_on = outcome.done < cell.epochs and not outcome.failure
        return outcome, path.read_bytes() if goes_on else None
