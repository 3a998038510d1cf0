"""A search for λ over PyTorch models: one after the other, or in processes of one thread each."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from . import AdamW, SearchCase, kept
from .torch_peer import Peer

_EVALUATION_BATCH = 256


class Cell:
    """One training; the data are in memory in the layout of the net, as float32."""

    def __init__(self, case: SearchCase, x: torch.Tensor, y: torch.Tensor, place: int, fold: int, layout: str,
                 threads: int) -> None:
        self.case, self.x, self.y, self.fold = case, x, y, fold
        rule = AdamW(weight_decay=case.lambdas[place])
        self.peer = Peer(case.net, case.weights, case.batch, threads, rule=rule, variant=layout)
        self.images = x.ndim == 4
        self.last = self.images and layout == "channels_last"
        self.epoch = 0

    def batch(self, rows: np.ndarray) -> torch.Tensor:
        x = self.x[torch.from_numpy(rows)]
        return x.permute(0, 3, 1, 2) if self.last else x

    def train(self, until: int) -> float:
        """The held-out accuracy after `until` epochs."""
        module, optimizer = self.peer.module, self.peer.optimizer
        module.train()
        for epoch in range(self.epoch, until):
            order = self.case.order(self.fold, epoch)
            for begin in range(0, len(order), self.case.batch):
                rows = order[begin : begin + self.case.batch]
                optimizer.zero_grad(set_to_none=True)
                functional.cross_entropy(module(self.batch(rows)), self.y[torch.from_numpy(rows)]).backward()
                optimizer.step()
        self.epoch = until
        held, right = self.case.splits[self.fold][1], 0
        module.eval()
        with torch.inference_mode():
            for begin in range(0, len(held), _EVALUATION_BATCH):
                rows = held[begin : begin + _EVALUATION_BATCH]
                right += int((module(self.batch(rows)).argmax(1) == self.y[torch.from_numpy(rows)]).sum())
        return right / len(held)


class _Worker:
    """What a process keeps of the data, which it reads from the file that the parent wrote."""

    path = ""

    @classmethod
    def train(cls, path: str, layout: str, place: int, fold: int, until: int, state: Any) -> tuple[float, Any]:
        torch.set_num_threads(1)
        if cls.path != path:
            cls.path, cls.case = path, np.load(path, allow_pickle=True)[()]
            cls.x, cls.y = tensors(cls.case, layout)
        cell = Cell(cls.case, cls.x, cls.y, place, fold, layout, 1)
        if state is not None:
            cell.epoch = state[0]
            cell.peer.module.load_state_dict(state[1])
            cell.peer.optimizer.load_state_dict(state[2])
        score = cell.train(until)
        goes_on = until < cls.case.epochs
        return score, (until, cell.peer.module.state_dict(), cell.peer.optimizer.state_dict()) if goes_on else None


def tensors(case: SearchCase, layout: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images as rows that a gather leaves in the layout."""
    x = torch.from_numpy(case.images)
    if x.ndim == 4 and layout != "channels_last":
        x = x.permute(0, 3, 1, 2).contiguous()
    return x, torch.from_numpy(case.y.astype(np.int64))


class Search:
    """Every λ on every fold; at each rung the better half goes on."""

    version = staticmethod(Peer.version)

    def __init__(self, case: SearchCase, threads: int, variant: str) -> None:
        self.case, self.threads, self.processes = case, threads, variant == "processes"
        self.variant = self._fastest()

    def _fastest(self) -> str:
        """The layout whose epoch is shorter, by one on few samples."""
        if len(self.case.net.input_shape) == 1:
            return "contiguous"
        few = self.case._replace(splits=[(train[: 8 * self.case.batch], held[:16]) for train, held in self.case.splits])
        spent = {}
        for layout in Peer.variants:
            cell = Cell(few, *tensors(few, layout), 0, 0, layout, 1 if self.processes else self.threads)
            cell.train(1)
            begin = time.perf_counter()
            cell.train(2)
            spent[layout] = time.perf_counter() - begin
        return min(spent, key=spent.__getitem__)

    def run(self) -> dict[int, list[float]]:
        """The held-out accuracies of the folds, of every λ (by its place) that was trained to the end."""
        return self._in_processes() if self.processes else self._in_a_loop()

    def _in_a_loop(self) -> dict[int, list[float]]:
        x, y = tensors(self.case, self.variant)
        folds = range(len(self.case.splits))
        cells: dict[tuple[int, int], Cell] = {}
        alive = list(range(len(self.case.lambdas)))
        scores: dict[int, list[float]] = {}
        for until in self.case.rungs:
            scores = {i: [] for i in alive}
            for i in alive:
                for fold in folds:
                    cell = cells.pop((i, fold), None) or Cell(self.case, x, y, i, fold, self.variant, self.threads)
                    scores[i].append(cell.train(until))
                    if until < self.case.epochs:
                        cells[i, fold] = cell
            alive = kept(scores)
        return scores

    def _in_processes(self) -> dict[int, list[float]]:
        from tempfile import TemporaryDirectory

        from joblib import Parallel, delayed

        folds = range(len(self.case.splits))
        states: dict[tuple[int, int], Any] = {}
        alive = list(range(len(self.case.lambdas)))
        scores: dict[int, list[float]] = {}
        with TemporaryDirectory() as folder, Parallel(n_jobs=self.threads) as parallel:
            path = os.path.join(folder, "case.npy")
            np.save(path, _boxed(self.case), allow_pickle=True)
            for until in self.case.rungs:
                pairs = [(i, fold) for i in alive for fold in folds]
                found = parallel(delayed(_Worker.train)(path, self.variant, i, fold, until, states.get((i, fold)))
                                 for i, fold in pairs)
                states = {pair: state for pair, (_, state) in zip(pairs, found, strict=True)}
                scores = {i: [score for (j, _), (score, _) in zip(pairs, found, strict=True) if j == i] for i in alive}
                alive = kept(scores)
        return scores


def _boxed(case: SearchCase) -> np.ndarray:
    box = np.empty((), object)
    box[()] = case
    return box
