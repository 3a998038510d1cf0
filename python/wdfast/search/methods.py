"""How the candidates are gone through. A method has `run(search, candidates)` and calls `search.measure`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .. import decay as decays
from .cell import Outcome
from .gradient import tuned_log
from .space import FAILURES, Candidate, shortened

if TYPE_CHECKING:
    from .run import Search


def _rates(candidates: Sequence[Candidate]) -> list[float | None]:
    """The learning rates of the candidates: those that a method's own are measured with as well."""
    return list(dict.fromkeys(c.learning_rate for c in candidates)) or [None]


class Method(Protocol):
    """What `search.decay(method=…)` takes: one's own may be any object with this method."""

    def run(self, search: Search, candidates: Sequence[Candidate]) -> None:
        """Measures what it wants to; the result of the search is made of all that was measured."""


class Grid:
    """Every candidate on every fold and seed, to the end: a grid, random draws, any list of decays."""

    def run(self, search: Search, candidates: Sequence[Candidate]) -> None:
        search.measure(candidates)


class Halving:
    """Successive halving (arXiv 1502.07943): after each rung only the better half goes on.

    The resource is epochs on all data, never a subset: a decay tuned on few samples is wrong for many. rungs: parts
    of the epochs. keep: the part of the candidates that goes on. restart: each rung is a run of its own with a
    schedule as long as the rung and λ rescaled to keep τ/T (`build` has to take `epochs`); without it the same
    runs go on. Raises ValueError for rungs that do not rise within (0, 1).

    >>> from wdfast import search
    >>> search.Halving(rungs=(0.5,)).rungs
    (0.5,)
    """

    def __init__(self, rungs: Sequence[float] = (0.25, 0.5), keep: float = 0.5, restart: bool = False) -> None:
        self.rungs, self.keep, self.restart = tuple(rungs), keep, restart
        if not all(0 < a < b for a, b in zip(self.rungs, (*self.rungs[1:], 1.0), strict=True)):
            raise ValueError(f"search.Halving: argument 'rungs': expected rising numbers in (0, 1), got {rungs!r}")
        if not 0 < keep < 1:
            raise ValueError(f"search.Halving: argument 'keep': expected in (0, 1), got {keep!r}")

    def run(self, search: Search, candidates: Sequence[Candidate]) -> None:
        if self.restart:
            if not search.problem.restarts:
                raise ValueError("search.Halving: argument 'restart': 'build' has to take 'epochs', the length of the "
                                 "run")
            for candidate in candidates:
                shortened(candidate.decay, self.rungs[0])  # raises now, not after the first trainings
        alive, before = list(candidates), 0
        for rung in self.rungs:
            until = math.ceil(rung * search.problem.epochs)
            if before < until < search.problem.epochs:
                means = search.measure(alive, until, epochs=until if self.restart else None)
                count = max(1, math.ceil(self.keep * len(alive)))
                alive = search.ranked(means)[:count]
                search.drop(set(means) - set(alive))
                before = until
        search.measure(alive)


class Constrained:
    """No search: CPR (arXiv 2311.09058), which bounds each weight's norm by what it is after a warm start.

    warm_start: the part of the run's steps after which the norms are taken (the paper: twice the warm-up of the
    learning rate). One candidate for each learning rate beside the others, by default beside none(): what a search
    has to beat. Raises ValueError unless 0 < warm_start < 1.
    """

    def __init__(self, warm_start: float = 0.1) -> None:
        if not 0 < warm_start < 1:
            raise ValueError(f"search.Constrained: argument 'warm_start': expected in (0, 1), got {warm_start!r}")
        self.warm_start = warm_start

    def run(self, search: Search, candidates: Sequence[Candidate]) -> None:
        problem = search.problem
        steps = -(-len(problem.splits[0].train) // problem.batch_size) * problem.epochs
        moment = max(1, round(self.warm_start * steps))
        bound = decays.constrained(warm_start=moment)
        search.measure([*candidates, *(Candidate(bound, rate) for rate in _rates(candidates))])


class Optuna:
    """Optuna's samplers through its ask/tell interface: `unit(v)` for v between `low` and `high`, logarithmically.

    trials: how many candidates, asked for in groups as large as the cores can train at once. sampler: one of
    Optuna's; TPE with the search's seed if None. Of several learning rates it is asked for one as well.
    Raises ImportError where Optuna is not installed.
    """

    def __init__(self, unit: Callable[[float], Any] = decays.epochs, low: float = 1.0, high: float | None = None,
                 trials: int = 16, sampler: Any = None) -> None:
        import optuna

        self._optuna = optuna
        self.unit, self.low, self.high, self.trials, self.sampler = unit, low, high, trials, sampler
        if trials < 1:
            raise ValueError(f"search.Optuna: argument 'trials': expected an int ≥ 1, got {trials!r}")

    def run(self, search: Search, candidates: Sequence[Candidate]) -> None:
        optuna = self._optuna
        rates = _rates(candidates)
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            sampler = self.sampler or optuna.samplers.TPESampler(seed=search.seeds[0])
            study = optuna.create_study(direction="maximize" if search.larger else "minimize", sampler=sampler)
            search.measure(candidates)
            group = max(1, math.ceil(search.executor.jobs / search.cells_per_candidate))
            for done in range(0, self.trials, group):
                trials = [study.ask() for _ in range(min(group, self.trials - done))]
                high = self.high or max(float(search.problem.epochs), 2 * self.low)
                asked = [Candidate(self.unit(t.suggest_float("decay", self.low, high, log=True)),
                                   t.suggest_categorical("learning_rate", rates) if len(rates) > 1 else rates[0])
                         for t in trials]
                means = search.measure(asked)
                for trial, candidate in zip(trials, asked, strict=True):
                    failed = math.isnan(means[candidate])
                    study.tell(trial, None if failed else means[candidate],
                               state=optuna.trial.TrialState.FAIL if failed else None)
        finally:
            optuna.logging.set_verbosity(before)


class Gradient:
    """In-run tuning, T1–T2 (arXiv 1511.06727): λ follows the gradient of the held-out loss while the weights train.

    After a step p ← p − η(u + λp) the held-out loss C₂ changes with λ by dC₂/dλ = −η p·∇C₂(p). After every `every`
    steps log λ moves by `rate` against the sign of that, on a batch of held-out samples; the sign, where the paper
    has the slope times a learning rate of its own, needs no unit. It starts at λ = `start`, by default that of
    τ = the run's length. What a run per fold and seed comes to, the geometric mean over its last half, becomes one
    decoupled decay for each learning rate, which is measured like any candidate. The rule looks one step ahead, so it
    favours small λ. A run that fails is left out, with a warning. Raises ValueError for a start or rate that is not
    above 0, and where a run has fewer steps than `every`.
    """

    def __init__(self, start: float | None = None, rate: float = 0.05, every: int = 4) -> None:
        if not (rate > 0 and every >= 1 and (start is None or start > 0)):
            raise ValueError(f"search.Gradient: expected start, rate > 0 and every ≥ 1, got {start}, {rate}, {every}")
        self.start, self.rate, self.every = start, rate, every

    def run(self, search: Search, candidates: Sequence[Candidate]) -> None:
        problem = search.problem
        steps = min(-(-len(split.train) // problem.batch_size) for split in problem.splits) * problem.epochs
        if steps < self.every:
            raise ValueError(f"search.Gradient: argument 'every': expected at most the {steps} steps of a run, "
                             f"got {self.every}")
        search.measure(candidates)
        found = []
        for rate in _rates(candidates):
            runs = {(seed, fold): self._tuned(search, rate, seed, fold)
                    for seed in search.seeds for fold in range(len(problem.splits))}
            logs = [run.history["log_lambda"][-1] for run in runs.values() if not run.failure]
            failures = [f"seed {seed} fold {fold}: {run.failure}" for (seed, fold), run in runs.items() if run.failure]
            if failures:
                of = "" if rate is None else f" at learning rate {rate:g}"
                search.warn(f"search.Gradient: {len(failures)} of {len(runs)} runs that tune λ{of} failed, "
                            f"{'and are left out' if logs else 'so that it finds no decay'}: {'; '.join(failures)}")
            if logs:
                found.append(Candidate(decays.decoupled(float(f"{math.exp(np.mean(logs)):.4g}")), rate))
        search.measure(found)

    def _tuned(self, search: Search, learning_rate: float | None, seed: int, fold: int) -> Outcome:
        """What one run comes to; kept like a cell: a search that goes on does not run it again, or from its start."""
        key = search.problem.named("gradient", self.start, self.rate, self.every, learning_rate, seed, fold)
        known = search.store.get(key)
        if known is None:
            known = Outcome(key)
            try:
                log = tuned_log(search.problem, learning_rate, seed, fold, self.start, self.rate, self.every,
                                search.store.checkpoint(key, needed=False))
            except FAILURES as error:
                known.failure = f"{type(error).__name__}: {error}"
            else:
                known.done, known.history = search.problem.epochs, {"log_lambda": [log]}
            search.store.put(known, finished=True)
        return known
