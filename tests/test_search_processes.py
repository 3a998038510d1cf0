"""Cells in forked processes: the same bits as in threads, and what dies is run again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wdfast import data, decay, layers, losses, models, optimizers, search
from wdfast.search import cell as search_cell
from wdfast.search import run as search_run

VALUES = [decay.none(), decay.epochs(4), decay.epochs(1)]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def build() -> models.Model:
    model = models.Sequential([layers.Input((8, 8, 1)), layers.Flatten(), layers.Dropout(0.1), layers.Dense(10)])
    model.compile(optimizers.AdamW(1e-2), losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"])
    return model


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    images = data.load("digits")
    return images.x_train[:150] / np.float32(255), images.y_train[:150]


def searched(digits: tuple[np.ndarray, np.ndarray], make: Any = build, **options: Any) -> search.Result:
    return search.decay(make, *digits, VALUES, folds=2, epochs=4, verbose=0, **options)


def same(a: search.Result, b: search.Result) -> bool:
    return all(x.candidate == y.candidate and all(np.array_equal(x.curves[name], y.curves[name]) for name in x.curves)
               for x, y in zip(a.rows, b.rows, strict=True))


@pytest.mark.parametrize("method", ["grid", "halving"])
def test_the_same_bits_as_in_threads(digits, method: str) -> None:
    threads = searched(digits, method=method)
    assert same(threads, searched(digits, method=method, workers="processes", jobs=3))
    assert same(threads, searched(digits, method=method, workers="processes", jobs=1))


def test_a_cell_whose_process_dies_is_run_again(digits, tmp_path: Path) -> None:
    """The first two builds in a child leave a mark and are killed; nothing is lost."""
    here = os.getpid()

    def mortal() -> models.Model:
        if os.getpid() != here:
            mark = tmp_path / str(len(list(tmp_path.iterdir())))
            if int(mark.name) < 2:
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return build()

    found = searched(digits, mortal, workers="processes", jobs=1)
    assert len(list(tmp_path.iterdir())) == 2
    assert same(found, searched(digits))


@pytest.mark.parametrize("workers", ["threads", "processes"])
def test_what_waits_for_its_next_rung_is_not_made_again(digits, workers: str, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory has no room for what waits, it goes to disk: more is built, and the bits are the same."""

    def marking() -> models.Model:
        (tmp_path / os.urandom(8).hex()).touch()
        return build()

    kept = searched(digits, marking, method="halving", workers=workers, jobs=1)
    once = len(list(tmp_path.iterdir()))
    assert once == len(VALUES) * 2 + 1  # the first candidate is built to look at, before
    monkeypatch.setattr(search_cell, "_PAUSED_BYTES", 0)
    assert same(kept, searched(digits, marking, method="halving", workers=workers, jobs=1))
    assert len(list(tmp_path.iterdir())) > 2 * once


def test_a_process_that_dies_between_rungs_is_replaced(digits, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had in memory alone is trained from its beginning."""
    seen: list[Any] = []
    called = search_run.Progress.__call__

    def kill(self: Any, cell: Any, outcome: Any) -> None:
        called(self, cell, outcome)
        seen.append(outcome)
        if len(seen) == len(VALUES) * 2:  # the first rung is done
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)

    monkeypatch.setattr(search_run.Progress, "__call__", kill)
    found = searched(digits, method="halving", workers="processes", jobs=2)
    assert len(seen) > len(VALUES) * 2
    monkeypatch.undo()
    assert same(found, searched(digits, method="halving"))


def test_processes_that_die_idle_are_no_fault_of_the_next_cell(digits, monkeypatch: pytest.MonkeyPatch) -> None:
    called = search_run.Progress.__call__
    seen: list[Any] = []

    def kill(self: Any, cell: Any, outcome: Any) -> None:
        called(self, cell, outcome)
        seen.append(outcome)
        if len(seen) == len(VALUES):
            children = multiprocessing.active_children()
            assert len(children) == len(VALUES)
            for child in children:
                os.kill(child.pid, signal.SIGKILL)
                child.join()

    monkeypatch.setattr(search_run.Progress, "__call__", kill)
    method = search.Halving(rungs=(0.5,), keep=0.3)  # one cell goes on, three processes are dead
    found = search.decay(build, *digits, VALUES, validation_split=0.2, epochs=4, verbose=0, method=method,
                         workers="processes", jobs=3)
    assert len(seen) == len(VALUES) + 1
    assert [row.failures for row in found.rows if row.failures] == []


def test_a_cell_that_kills_its_process_is_reported(digits) -> None:
    here = os.getpid()

    def build_or_die(decay: Any) -> models.Model:
        if os.getpid() != here and decay == VALUES[1]:
            os.kill(os.getpid(), signal.SIGKILL)
        model = build()
        model.compile(optimizers.AdamW(1e-2, decay=decay), model.losses[0], ["accuracy"])
        return model

    found = searched(digits, build_or_die, workers="processes", jobs=2)
    (failed,) = [row for row in found.rows if row.failures]
    assert failed.candidate.decay == VALUES[1]
    assert "its process died 3 times, with exit code -9" in failed.failures[0]
    assert found.best in (VALUES[0], VALUES[2])


def test_ctrl_c_ends_the_processes_and_keeps_what_is_done(digits, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    called = search_run.Progress.__call__

    def interrupt(self: Any, cell: Any, outcome: Any) -> None:
        called(self, cell, outcome)
        seen.append(outcome.key)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(search_run.Progress, "__call__", interrupt)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        searched(digits, workers="processes", jobs=2, output=tmp_path)
    assert threading.active_count() == before
    assert {path.stem for path in (tmp_path / "cells").iterdir()} >= set(seen)
    assert multiprocessing.active_children() == []
    monkeypatch.undo()
    assert same(searched(digits, workers="processes", output=tmp_path), searched(digits))


def test_what_is_no_way_to_work_is_refused(digits) -> None:
    with pytest.raises(ValueError, match="argument 'workers': expected 'threads' or 'processes', got 'fibres'"):
        searched(digits, workers="fibres")
    with pytest.raises(ValueError, match="argument 'jobs'"):
        searched(digits, workers="processes", jobs=0)
