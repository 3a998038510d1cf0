"""λ that is tuned while the network trains, by the gradient of the loss on held-out samples."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import decay as decays
from .._fit import DelayedInterrupt
from ..callbacks import Callback
from ..schedules import LearningRateSchedule
from .space import Candidate

if TYPE_CHECKING:
    from .cell import Problem

_BATCH = 256  # held-out samples per look at the slope


class _Strength(LearningRateSchedule):
    """λ of the next step, where a `_Tuner` has moved its log."""

    def __init__(self) -> None:
        self.log = 0.0

    def rates(self, steps: np.ndarray) -> np.ndarray:
        return np.full(np.shape(steps), math.exp(self.log))

    def get_config(self) -> dict[str, Any]:
        return {}  # the log is the tuner's state


class _Tuner(Callback):
    """Moves log λ against the sign of dC₂/dλ = −η p·∇C₂ after every `every` steps."""

    def __init__(self, rate: float, every: int) -> None:
        self.rate, self.every = rate, every
        self.strength = _Strength()
        self.logs: list[float] = []

    def watch(self, problem: Problem, model: Any, cell: Any) -> None:
        """Makes the held-out loss a model of its own, whose outputs are differentiated."""
        from ..models import Model

        objective, held = problem.objective(model), problem.held_out(cell)
        self.inputs, self.index = [*held.inputs, *held.labels], held.index
        self.loss = Model([*objective.inputs, *objective.labels], objective.total)
        self.decayed = [p for p in model.trained if p.role in decays.DECAYED_ROLES]
        self.seed = [cell.seed, cell.fold]

    def get_state(self) -> dict[str, Any]:
        return {"log": self.strength.log, "logs": self.logs}

    def set_state(self, state: dict[str, Any]) -> None:
        self.strength.log, self.logs = float(state["log"]), [float(log) for log in state["logs"]]

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        optimizer = self.model.optimizer
        if optimizer.iterations % self.every:
            return
        draws = np.random.default_rng([*self.seed, len(self.logs)])  # the same where a run goes on
        rows = draws.choice(self.index, min(_BATCH, len(self.index)), replace=False)
        moving = [p.numpy() for p in self.model.moving]  # held-out samples must not enter running statistics
        loss, pullback = self.loss.vjp([a[rows] for a in self.inputs])
        self.loss.zero_grad()
        pullback(np.ones_like(loss))
        for p, before in zip(self.model.moving, moving, strict=True):
            p.assign(before)
        slope = -sum(float(np.vdot(p.value, p.grad)) for p in self.decayed)
        if not math.isfinite(slope):
            raise ValueError(f"the slope of the held-out loss is {slope} after {optimizer.iterations} steps")
        self.strength.log -= self.rate * float(np.sign(slope))
        self.logs.append(self.strength.log)


def tuned_log(problem: Problem, learning_rate: float | None, seed: int, fold: int, start: float | None, rate: float,
              every: int, folder: Path | None = None) -> float:
    """log λ that one run of at least `every` steps comes to; it goes on from its checkpoint in `folder`.

    Raises ValueError where a loss is no number.
    """
    from .cell import Cell

    tuner = _Tuner(rate, every)
    cell = Cell(Candidate(decays.decoupled(tuner.strength), learning_rate), seed, fold, problem.epochs)
    model = problem.model(cell)
    run = problem.fit(model, cell, tuner, folder)
    tuner.strength.log = math.log(start or 1 / (model.optimizer._peak_rate() * run.steps_per_epoch * problem.epochs))
    tuner.watch(problem, model, cell)
    run.begin()
    with DelayedInterrupt() as interrupt:
        run.advance(problem.epochs, interrupt)
    final = run.history.last_logs["loss"]
    if not math.isfinite(final):
        raise ValueError(f"the loss is {final} after {len(tuner.logs)} looks at the slope")
    return float(np.mean(tuner.logs[len(tuner.logs) // 2 :]))
