"""A search survives: workers and coordinators killed at any moment, and in the end every result once, to the bit."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wdfast import callbacks, datasets, decay, layers, losses, models, optimizers, search
from wdfast.io.files import atomic_write, read_json

WORKER_KILLS, COORDINATOR_KILLS = 20, 3
PATIENCE = 120.0  # seconds until a condition that must come about is given up

# Killed processes take no locks with them: each is forked from a server that has loaded what all need.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["numpy", "wdfast.models", "wdfast.search.distributed", "distributed"])

VALUES = [decay.none(), *search.grid(decay.epochs, 1, 4, 3)]
SETTINGS: dict[str, Any] = {"folds": 5, "seeds": 2, "epochs": 3, "batch_size": 16, "verbose": 0}
CELLS = 40


def data() -> tuple[np.ndarray, np.ndarray]:
    (x, y), _ = datasets.load_digits()
    return x[:100].astype(np.float32) / 16, y[:100]


def build(decay: Any = None, learning_rate: float = 1e-2) -> models.Sequential:
    model = models.Sequential([layers.Input((8, 8, 1)), layers.Flatten(), layers.Dense(8, "relu"), layers.Dense(10)])
    model.compile(optimizers.AdamW(learning_rate, decay=decay),
                  losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


# ---- processes that can be killed -----------------------------------------------------------------------


class Gate(callbacks.Callback):
    """After its first epoch a training notes its process, and waits until as few results are there as are allowed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if epoch == 0:
            with (self.folder / "arrived").open("a") as file:
                file.write(f"{os.getpid()}\n")
            while len(finished(self.folder)) >= int((self.folder / "allowed").read_text()):
                time.sleep(0.01)


def gates(folder: Path) -> Callable[[], list[Gate]]:
    """The callbacks of a training. Those of the serial run too: a search with others is another search."""
    return lambda: [Gate(folder)]


def allow(folder: Path, results: int) -> None:
    with atomic_write(folder / "allowed", "w") as file:
        file.write(str(results))


def finished(folder: Path) -> list[Path]:
    return sorted((folder / "out" / "cells").glob("*.json"))


def coordinate(folder: Path, address: str | None, again: float = PATIENCE) -> None:
    """The search; on Dask if there is an address. again: seconds for which a lost connection is tried again."""
    settings = SETTINGS | {"output": folder / "out", "callbacks": gates(folder)}
    if address is None:
        search.decay(build, *data(), VALUES, jobs=2, **settings)
        return
    from distributed import Client

    with Client(address, timeout=PATIENCE) as client:
        client._timeout = again
        search.decay(build, *data(), VALUES, client=client, **settings)


def serve(folder: Path, allowed_failures: int) -> None:
    async def run() -> None:
        import dask
        from distributed import Scheduler

        dask.config.set({"distributed.scheduler.allowed-failures": allowed_failures})
        async with Scheduler(host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0") as scheduler:
            with atomic_write(folder / "address", "w") as file:
                file.write(scheduler.address)
            await scheduler.finished()

    asyncio.run(run())


def work(address: str) -> None:
    async def run() -> None:
        from distributed import Worker

        async with Worker(address, nthreads=1, memory_limit=0) as worker:
            await worker.finished()

    asyncio.run(run())


def logged(log: Path, function: Callable[..., None], *args: Any) -> None:
    """Runs a function with its output in a file: what dying processes say is of interest only if a test fails."""
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    function(*args)


class Processes:
    """Those of a test; all are gone when it ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.all: list[BaseProcess] = []

    def start(self, function: Callable[..., None], *args: Any) -> BaseProcess:
        process = CONTEXT.Process(target=logged, args=(self.folder / "log", function, *args), daemon=True)
        process.start()
        self.all.append(process)
        return process

    def scheduler(self, allowed_failures: int = 3) -> tuple[BaseProcess, str]:
        """A scheduler and its address. allowed_failures: Dask's setting."""
        process = self.start(serve, self.folder, allowed_failures)
        self.wait(lambda: (self.folder / "address").exists())
        return process, (self.folder / "address").read_text()

    def wait(self, condition: Callable[[], Any]) -> Any:
        """What `condition` returns once that is true."""
        end = time.monotonic() + PATIENCE
        while not (value := condition()):
            assert time.monotonic() < end, (self.folder / "log").read_text()[-10_000:]
            time.sleep(0.01)
        return value


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    made = Processes(tmp_path)
    yield made
    for process in made.all:
        process.kill()
        process.join()


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The outcomes by their files' names of one training after the other."""
    folder = tmp_path_factory.mktemp("serial")
    allow(folder, 10 * CELLS)
    search.decay(build, *data(), VALUES, **SETTINGS, jobs=1, output=folder / "out", callbacks=gates(folder))
    outcomes = {path.name: read_json(path) for path in finished(folder)}
    assert len(outcomes) == CELLS
    return outcomes


def same(folder: Path, serial: dict[str, dict[str, Any]]) -> None:
    """Every result is there, with the serial run's weights and histories, and nothing else is."""
    outcomes = {path.name: read_json(path) for path in finished(folder)}
    assert sorted(outcomes) == sorted(serial)
    for name, outcome in outcomes.items():
        assert outcome["failure"] == ""
        assert {k: outcome[k] for k in ("weights", "history", "done")} == {
            k: serial[name][k] for k in ("weights", "history", "done")}, name
    assert (folder / "out" / "results.json").exists()
    assert list((folder / "out" / "running").glob("*")) == []


def killed(processes: Processes, address: str | None, workers: int, worker_kills: int) -> None:
    """A search whose coordinator, and workers, are killed while trainings are inside their second epoch.

    What is allowed grows with every kill, so none can be late; no result that was seen is ever written again.
    """
    folder, seen = processes.folder, {}
    kills = worker_kills + COORDINATOR_KILLS
    of_coordinator = {(i + 1) * kills // (COORDINATOR_KILLS + 1) for i in range(COORDINATOR_KILLS)}
    alive = {p.pid: p for p in (processes.start(work, address) for _ in range(workers))}
    allow(folder, 1)
    coordinator = processes.start(coordinate, folder, address)
    arrivals = 0

    def arrived() -> int | None:
        """A process whose training has come to the gate since the last kill, and is alive."""
        lines = (folder / "arrived").read_text().split() if (folder / "arrived").exists() else []
        known = {*alive, coordinator.pid}
        return next((pid for pid in map(int, reversed(lines[arrivals:])) if pid in known), None)

    def note() -> None:
        for path in finished(folder):
            facts = path.stat().st_mtime_ns, path.stat().st_ino
            assert seen.setdefault(path.name, facts) == facts, f"{path.name} was written again"

    for kill in range(kills):
        allowed = 1 + kill * (CELLS - 5) // kills
        allow(folder, allowed)
        processes.wait(lambda allowed=allowed: len(finished(folder)) >= allowed)
        pid = processes.wait(arrived)
        assert coordinator.is_alive()
        note()
        arrivals = len((folder / "arrived").read_text().split())
        if kill in of_coordinator:
            coordinator.kill()
            coordinator.join()
            coordinator = processes.start(coordinate, folder, address)
        else:
            victim = alive.pop(pid)
            victim.kill()
            victim.join()
            replacement = processes.start(work, address)
            alive[replacement.pid] = replacement
    allow(folder, 10 * CELLS)
    processes.wait(lambda: not coordinator.is_alive())
    assert coordinator.exitcode == 0, (folder / "log").read_text()[-10_000:]
    note()
    assert len(seen) == CELLS


# ---- kills ----------------------------------------------------------------------------------------------


def test_a_local_search_survives_kills(processes: Processes, serial: dict[str, dict[str, Any]]) -> None:
    killed(processes, None, 0, 0)
    same(processes.folder, serial)


def test_a_search_on_dask_survives_kills_of_workers_and_coordinators(
        processes: Processes, serial: dict[str, dict[str, Any]]) -> None:
    pytest.importorskip("distributed")
    killed(processes, processes.scheduler()[1], 2, WORKER_KILLS)
    same(processes.folder, serial)


def test_a_kill_before_a_checkpoint_was_removed_leaves_it_to_the_next_run(tmp_path: Path) -> None:
    settings = SETTINGS | {"folds": 2, "seeds": 1, "output": tmp_path / "out"}
    search.decay(build, *data(), VALUES[:1], **settings)
    left = tmp_path / "out" / "running" / finished(tmp_path)[0].stem
    left.mkdir(parents=True)
    (left / "checkpoint.safetensors").write_bytes(b"")
    search.decay(build, *data(), VALUES[:1], **settings)
    assert not left.exists()


def test_other_data_does_not_go_on_with_a_search(tmp_path: Path) -> None:
    settings = SETTINGS | {"folds": 2, "seeds": 1, "output": tmp_path / "out"}
    x, y = data()
    search.decay(build, x, y, VALUES[:1], **settings)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    x[-1, 3, 3] += 1
    with pytest.raises(ValueError, match=r"holds another search \(other data\)"):
        search.decay(build, x, y, VALUES[:1], **settings)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == files


# ---- cells that fail ------------------------------------------------------------------------------------

TOO_LARGE, DEADLY = decay.epochs(7.0), decay.epochs(8.0)


def build_or_fail(decay: Any = None, learning_rate: float = 1e-2) -> models.Sequential:
    if decay == TOO_LARGE:
        raise MemoryError("cannot allocate 1 TB")
    if decay == DEADLY:  # as the kernel ends what takes too much memory
        os.kill(os.getpid(), signal.SIGKILL)
    return build(decay, learning_rate)


def check_failures(client: str | None) -> None:
    x, y = data()
    result = search.decay(build_or_fail, x, y, [*VALUES[:2], TOO_LARGE], learning_rates=[1e-2, 1e30], client=client,
                          **SETTINGS | {"folds": 2, "seeds": 1})
    good = [row for row in result.rows if not row.failures]
    assert [(row.candidate.decay, row.candidate.learning_rate) for row in good] == [(v, 1e-2) for v in VALUES[:2]]
    assert result.best in VALUES[:2]
    assert result.best_row.candidate.learning_rate == 1e-2
    for row in result.rows:
        if row not in good:
            reason = "MemoryError: cannot allocate 1 TB" if row.candidate.decay == TOO_LARGE else "loss is nan"
            assert len(row.failures) == 2
            assert all(reason in failure for failure in row.failures), row.failures
            assert np.isnan(row.mean)
    assert repr(result).count("failed: ") == sum(len(row.failures) for row in result.rows) == 8
    assert str(result.table).count("failed") == 8


def test_cells_that_fail_are_reported_and_end_nothing() -> None:
    check_failures(None)


@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
def test_a_first_candidate_that_cannot_be_built_ends_nothing(error: type[Exception]) -> None:
    def build_others(decay: Any = None) -> models.Sequential:
        if decay == TOO_LARGE:
            raise error("cannot allocate 1 TB")
        return build(decay)

    result = search.decay(build_others, *data(), [TOO_LARGE, *VALUES[:2]], **SETTINGS | {"folds": 2, "seeds": 1})
    (bad,) = [row for row in result.rows if row.failures]
    assert bad.candidate.decay == TOO_LARGE
    assert bad.failures == [f"seed 0 fold {k}: {error.__name__}: cannot allocate 1 TB" for k in (0, 1)]
    assert result.best in VALUES[:2]


def test_where_no_candidate_can_be_built_the_first_error_is_raised() -> None:
    def build_none(decay: Any = None) -> models.Sequential:
        raise MemoryError(f"cannot allocate 1 TB for {decay}")

    with pytest.raises(MemoryError, match=r"1 TB for epochs\(7.0\)"):
        search.decay(build_none, *data(), [TOO_LARGE, *VALUES[:2]], **SETTINGS)


def test_cells_that_fail_on_dask_are_reported_and_end_nothing(processes: Processes) -> None:
    pytest.importorskip("distributed")
    _, address = processes.scheduler()
    processes.start(work, address)
    check_failures(address)


def test_a_cell_that_kills_its_workers_is_reported(processes: Processes) -> None:
    pytest.importorskip("distributed")
    _, address = processes.scheduler(allowed_failures=1)
    done = threading.Event()

    def keep_one_alive() -> None:
        worker = processes.start(work, address)
        while not done.wait(0.01):
            if not worker.is_alive():
                worker = processes.start(work, address)

    keeper = threading.Thread(target=keep_one_alive)
    keeper.start()
    try:
        x, y = data()
        result = search.decay(build_or_fail, x, y, [VALUES[0], DEADLY], client=address,
                              **SETTINGS | {"validation_split": 0.2, "seeds": 1})
    finally:
        done.set()
        keeper.join()
    (good,) = [row for row in result.rows if not row.failures]
    (bad,) = [row for row in result.rows if row.failures]
    assert (good.candidate.decay, bad.candidate.decay) == (VALUES[0], DEADLY)
    assert "KilledWorker" in bad.failures[0]


def test_a_scheduler_that_goes_away_is_an_error_and_loses_nothing(
        processes: Processes, serial: dict[str, dict[str, Any]]) -> None:
    pytest.importorskip("distributed")
    folder = processes.folder
    scheduler, address = processes.scheduler()
    processes.start(work, address)
    allow(folder, 3)

    def end_it() -> None:
        processes.wait(lambda: len(finished(folder)) >= 3)
        scheduler.kill()

    killer = threading.Thread(target=end_it)
    killer.start()
    with pytest.raises(ConnectionError, match=rf"the Dask scheduler at {address} went away; .* output="):
        coordinate(folder, address, again=0.2)
    killer.join()
    assert len(finished(folder)) >= 3
    kept = {path: path.stat().st_mtime_ns for path in finished(folder)}
    allow(folder, 10 * CELLS)
    coordinate(folder, None)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    same(folder, serial)
