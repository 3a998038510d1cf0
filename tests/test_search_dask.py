"""A search on Dask's workers: the bits of a local one, states that travel as bytes, errors that say what is wrong."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest

from wdfast import callbacks, datasets, decay, layers, losses, models, optimizers, schedules, search
from wdfast.search.local import Shares

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")
dask_search = pytest.importorskip("wdfast.search.distributed")

VALUES = [decay.none(), *search.grid(decay.epochs, 1, 4, 3)]
SETTINGS: dict[str, Any] = {"folds": 2, "epochs": 4, "batch_size": 16, "verbose": 0}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two workers that are threads of this process; what they are sent is pickled all the same."""
    with distributed.LocalCluster(n_workers=2, threads_per_worker=2, processes=False, protocol="tcp",
                                  host="127.0.0.1", dashboard_address="127.0.0.1:0") as made:
        yield made


@pytest.fixture
def client(cluster: Any) -> Iterator[Any]:
    with distributed.Client(cluster) as made:
        yield made


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    (x, y), _ = datasets.load_digits()
    return x[:200].astype(np.float32) / 16, y[:200]


def build(decay: Any = None, epochs: int = 4) -> models.Sequential:
    model = models.Sequential([layers.Input((8, 8, 1)), layers.Flatten(), layers.Dense(8, "relu"),
                               layers.Dropout(0.2), layers.Dense(10)])
    model.compile(optimizers.AdamW(schedules.CosineDecay(1e-2, 7 * epochs), decay=decay),
                  losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


class Watch(callbacks.Callback):
    """Notes on how many threads a training goes through each epoch."""

    seen: ClassVar[list[int]] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.seen.append(self.model.threads)


def same(a: search.Result, b: search.Result) -> None:
    assert [row.candidate for row in a.rows] == [row.candidate for row in b.rows]
    for one, two in zip(a.rows, b.rows, strict=True):
        assert one.epochs == two.epochs
        assert one.scores.tolist() == two.scores.tolist()
        assert {k: v.tolist() for k, v in one.curves.items()} == {k: v.tolist() for k, v in two.curves.items()}


# ---- the same bits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["grid", "halving", search.Halving(restart=True)],
                         ids=["grid", "halving", "restart"])
def test_as_on_one_machine(method: Any, client: Any, digits: Any) -> None:
    same(search.decay(build, *digits, VALUES, method=method, client=client, **SETTINGS),
         search.decay(build, *digits, VALUES, method=method, **SETTINGS))


def test_a_cell_in_many_parts_comes_to_the_same(client: Any, digits: Any, tmp_path: Any,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    parts, train = [], dask_search.Problem.train

    def noted(self: Any, *args: Any, **options: Any) -> Any:
        parts.append(args)
        return train(self, *args, **options)

    monkeypatch.setattr(dask_search.Problem, "train", noted)
    monkeypatch.setattr(dask_search, "_SLICE", 0.0)  # so that a part is a native call
    settings = SETTINGS | {"batch_size": 50, "epochs": 2}
    result = search.decay(build, *digits, VALUES[:1], client=client, output=tmp_path, **settings)
    assert len(parts) >= 2 * 2 * 2  # folds, epochs, steps
    assert list((tmp_path / "running").glob("*")) == []
    same(result, search.decay(build, *digits, VALUES[:1], **settings))


def test_an_address_and_what_was_begun_locally(cluster: Any, digits: Any, tmp_path: Any) -> None:
    """The first rung on this machine, the others on workers: checkpoints go both ways."""
    class Interrupted(search.Halving):
        def run(self, search: Any, candidates: Any) -> None:
            search.measure(candidates, 1)
            raise KeyboardInterrupt

    settings = SETTINGS | {"output": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        search.decay(build, *digits, VALUES, method=Interrupted(), **settings)
    assert len(list((tmp_path / "running").glob("*/checkpoint.safetensors"))) == 2 * len(VALUES)
    result = search.decay(build, *digits, VALUES, method="halving", client=cluster.scheduler_address, **settings)
    same(result, search.decay(build, *digits, VALUES, method="halving", **SETTINGS))


def test_a_worker_divides_its_threads(client: Any, digits: Any) -> None:
    Watch.seen.clear()
    search.decay(build, *digits, VALUES, client=client, callbacks=lambda: [Watch()], **SETTINGS)
    assert len(Watch.seen) == 4 * 2 * len(VALUES)
    assert set(Watch.seen) <= {1, 2}


def test_shares() -> None:
    class Model:
        threads = 0

    shares, models = Shares(4), [Model(), Model(), Model()]
    with shares.one() as one:
        one(models[0])
        assert models[0].threads == 4
        with shares.one() as two, shares.one() as three:
            two(models[1])
            three(models[2])
            assert [m.threads for m in models] == [1, 1, 1]
        assert models[0].threads == 4
        shares.waiting = 1
        with shares.one(waited=True) as two:
            two(models[1])
            assert (models[0].threads, models[1].threads, shares.waiting) == (2, 2, 0)


def test_optuna_asks_for_as_many_as_the_workers_can_train(client: Any, digits: Any) -> None:
    problem = dask_search.Problem(build, *digits, [search.Split(np.arange(100), np.arange(100, 200))],
                                  batch_size=16, epochs=1)
    assert dask_search.Dask(problem, client).jobs == 4


# ---- what goes wrong ------------------------------------------------------------------------------------


def test_ctrl_c_leaves_no_task_behind(client: Any, cluster: Any, digits: Any) -> None:
    problem = dask_search.Problem(build, *digits, [search.Split(np.arange(100), np.arange(100, 200))],
                                  batch_size=16, epochs=4)
    cell = search.cell.Cell(search.Candidate(VALUES[0]), 0, 0, 4)
    problem.describe(problem.model(cell), cell)
    executor = dask_search.Dask(problem, client)
    cells = [search.cell.Cell(search.Candidate(value), seed, 0, 4) for value in VALUES for seed in range(4)]
    running = executor.run([(cell, 4, None) for cell in cells])
    next(running)
    running.close()  # what an exception in the loop over it does
    executor.close()

    def left() -> list[str]:
        names = client.run_on_scheduler(lambda dask_scheduler: [str(key) for key in dask_scheduler.tasks])
        return [name for name in names if name.startswith("wdfast-")]

    end = time.monotonic() + 60
    while left() and time.monotonic() < end:
        time.sleep(0.01)
    assert left() == []


def test_lost_data_is_sent_again(client: Any, digits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the connection was lost for a moment: the scheduler has forgotten all."""
    submit, sent = client.submit, []

    def submitted(function: Any, *args: Any, **options: Any) -> Any:
        future = submit(function, *args, **options)
        if options["key"].startswith("wdfast-problem"):
            sent.append(future)
        elif len(sent) == 1:
            client.cancel(sent)
        return future

    monkeypatch.setattr(client, "submit", submitted)
    result = search.decay(build, *digits, VALUES[:2], client=client, **SETTINGS)
    assert len(sent) == 2
    same(result, search.decay(build, *digits, VALUES[:2], **SETTINGS))


def test_a_search_without_workers_says_so_and_waits(digits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_search, "_PATIENCE", 0.0)
    with distributed.LocalCluster(n_workers=0, processes=False, protocol="tcp", host="127.0.0.1",
                                  dashboard_address="127.0.0.1:0", threads_per_worker=1) as empty, \
            distributed.Client(empty) as client:

        class Told(io.StringIO):
            def write(self, text: str) -> int:
                empty.scale(1)
                return super().write(text)

        monkeypatch.setattr(sys, "stderr", told := Told())
        result = search.decay(build, *digits, VALUES[:2], client=client, **SETTINGS)
        address = empty.scheduler_address
    assert told.getvalue() == f"search: the Dask scheduler at {address} has no worker; waiting for one\n"
    same(result, search.decay(build, *digits, VALUES[:2], **SETTINGS))


def test_errors(client: Any, digits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(**options: Any) -> None:
        search.decay(options.pop("build", build), *digits, VALUES[:2], **SETTINGS, **options)

    with pytest.raises(TypeError, match=r"argument 'client': expected a distributed.Client .* got 3"):
        find(client=3)
    with pytest.raises(ValueError, match="argument 'jobs'"):
        find(client=client, jobs=2)
    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"argument 'build': .* picklable by cloudpickle: .*lock"):
        find(client=client, build=lambda decay: (lock, build(decay))[1])
    with pytest.raises(TypeError, match=r"argument 'callbacks': .* picklable by cloudpickle: .*lock"):
        find(client=client, callbacks=lambda: [lock][:0])
    monkeypatch.setattr(dask_search, "_CONNECT", 0.2)
    with pytest.raises(ConnectionError, match=r"no Dask scheduler answers at tcp://127.0.0.1:1: "):
        find(client="tcp://127.0.0.1:1")
    closed = distributed.Client(client.scheduler.address)
    closed.close()
    with pytest.raises(ConnectionError, match="argument 'client': it has no connection to a scheduler"):
        find(client=closed)


def test_an_error_of_ones_own_comes_home(client: Any, digits: Any) -> None:
    def broken() -> list[Any]:
        raise KeyError("my own")

    with pytest.raises(KeyError, match="my own"):
        search.decay(build, *digits, VALUES[:1], client=client, callbacks=broken, **SETTINGS)


def test_a_worker_with_another_wdfast_is_refused(client: Any, digits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    submit = client.submit

    def submitted(function: Any, *args: Any, **options: Any) -> Any:
        return submit(function, *((*args[:-1], "0.0.1") if function is dask_search._train else args), **options)

    monkeypatch.setattr(client, "submit", submitted)
    with pytest.raises(RuntimeError, match=r"the worker tcp://.* has wdfast .*, the search 0\.0\.1"):
        search.decay(build, *digits, VALUES[:1], client=client, **SETTINGS)


# ---- by other ways --------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_tls(digits: Any, tmp_path: Any) -> None:
    key, cert = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=search",
                    "-keyout", key, "-out", cert], check=True, capture_output=True)
    files = {"tls_ca_file": cert, **{f"tls_{role}_{part}": path for role in ("client", "scheduler", "worker")
                                     for part, path in (("cert", cert), ("key", key))}}
    security = distributed.Security(require_encryption=True, **files)
    local = search.decay(build, *digits, VALUES[:2], **SETTINGS)
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, host="tls://127.0.0.1",
                                  dashboard_address="127.0.0.1:0", security=security) as cluster:
        address = cluster.scheduler_address
        assert address.startswith("tls://")
        with distributed.Client(address, security=security) as client:
            same(search.decay(build, *digits, VALUES[:2], client=client, **SETTINGS), local)
        config = {"ca-file": cert, "client.cert": cert, "client.key": key}
        with dask.config.set({f"distributed.comm.tls.{name}": path for name, path in config.items()}):
            same(search.decay(build, *digits, VALUES[:2], client=address, **SETTINGS), local)


def test_scikit_learn_by_joblib(client: Any, digits: Any) -> None:
    joblib = pytest.importorskip("joblib")
    selection = pytest.importorskip("sklearn.model_selection")
    from wdfast.sklearn import MLPClassifier

    x, y = digits[0].reshape(-1, 64), digits[1]
    grid = selection.GridSearchCV(MLPClassifier((8,), max_iter=3, random_state=0), {"decay_epochs": [1, 4]}, cv=2)
    alone = grid.fit(x, y).cv_results_["mean_test_score"]
    with joblib.parallel_config(backend="dask"):
        scores = grid.fit(x, y).cv_results_["mean_test_score"]
    ran = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.task_prefixes))
    assert any("fit_and_score" in name for name in ran), ran
    assert scores.tolist() == alone.tolist()
