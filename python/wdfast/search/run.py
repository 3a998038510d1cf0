"""`search.decay`: cells are measured, each once, whatever the method; the result is made of all outcomes."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from .. import decay as decays
from .. import losses
from ..callbacks import Callback
from ..data.streaming import ImageStream
from ..progress import shown
from ..steps import Augment
from . import folds as folds_module
from . import methods, space
from .cell import Cell, Outcome, Problem
from .folds import Split
from .local import Local
from .processes import Processes
from .result import Result
from .space import FAILURES, Candidate
from .store import Store

_METHODS: dict[str, Callable[[], methods.Method]] = {
    "grid": methods.Grid, "halving": methods.Halving, "gradient": methods.Gradient, "optuna": methods.Optuna,
    "constrained": methods.Constrained}
_MEASURE_ALL = (methods.Grid, methods.Constrained)  # whatever the metric
_LOWER_IS_BETTER = frozenset({*losses.names(), "loss", "error", "divergence", "penalty", "false_positives",
                              "false_negatives"})


class Search:
    """A search under way: what a method works with."""

    def __init__(self, problem: Problem, seeds: Sequence[int], executor: Any, store: Store, metric: str, *,
                 larger: bool, report: Callable[[Cell, Outcome], None]) -> None:
        self.problem, self.seeds, self.executor, self.store = problem, list(seeds), executor, store
        self.metric, self.larger, self._report = metric, larger, report
        self.outcomes: dict[Cell, Outcome] = {}
        self.order: dict[Candidate, None] = {}  # as they were asked for, however soon each was done
        self.warnings: list[str] = []

    @property
    def cells_per_candidate(self) -> int:
        """How many trainings a candidate is measured by."""
        return len(self.seeds) * len(self.problem.splits)

    def measure(self, candidates: Sequence[Candidate], until: int | None = None, *,
                epochs: int | None = None) -> dict[Candidate, float]:
        """Trains every candidate on every fold and seed up to epoch `until`; the mean score of each, NaN if one failed.

        epochs: the length of the runs, if it is not the search's. A cell that was measured before is not run again.
        """
        length = epochs or self.problem.epochs
        until = until or length
        self.order |= dict.fromkeys(candidates)
        cells = list(dict.fromkeys(Cell(c, seed, fold, length) for seed in self.seeds
                                   for fold in range(len(self.problem.splits)) for c in candidates))
        tasks = []
        for cell in cells:
            key = self.problem.key(cell)
            known = self.store.get(key)
            if known is not None and (known.failure or known.done >= until):
                self._check(known)
                if until == length or known.failure:
                    self.store.drop(key)  # a kill may have come between the outcome and that
                self.outcomes[cell] = known
                self._report(cell, known)
            else:
                tasks.append((cell, until, self.store.checkpoint(key, needed=until < length)))
        for cell, outcome in self.executor.run(tasks):
            self._check(outcome)
            before = self.store.get(outcome.key)
            outcome.seconds += before.seconds if before else 0.0
            self.store.put(outcome, finished=until == length or bool(outcome.failure))
            self.outcomes[cell] = outcome
            self._report(cell, outcome)
        scores: dict[Candidate, list[float]] = {candidate: [] for candidate in candidates}
        for cell in cells:
            scores[cell.candidate].append(score(self.outcomes[cell], self.metric, until))
        return {candidate: float(np.mean(own)) for candidate, own in scores.items()}

    def _check(self, outcome: Outcome) -> None:
        """Raises ValueError for a metric that has a value for each class, of which one has to be named."""
        if not outcome.failure and self.metric not in outcome.history:
            raise ValueError(f"search: argument 'metric': expected one of {', '.join(outcome.history)}, "
                             f"got {self.metric!r}")

    def ranked(self, means: dict[Candidate, float]) -> list[Candidate]:
        """The best first; those that failed last."""
        sign = -1 if self.larger else 1
        return sorted(means, key=lambda c: (math.isnan(means[c]), sign * means[c] if not math.isnan(means[c]) else 0))

    def warn(self, text: str) -> None:
        """Tells it when the search is done: while it is under way, warnings are silenced."""
        self.warnings.append(text)

    def drop(self, candidates: Iterable[Candidate]) -> None:
        """Gives up candidates: their checkpoints are removed, what they came to so far stays."""
        gone = set(candidates)
        for cell, outcome in self.outcomes.items():
            if cell.candidate in gone:
                self.store.drop(outcome.key)


def score(outcome: Outcome, metric: str, until: int) -> float:
    """The metric after epoch `until`, never the best one of the run; NaN for a cell that failed before.

    A cell of a search that goes on may know more epochs: what it came to later must not change what is dropped.
    """
    if outcome.failure and outcome.done <= until:
        return math.nan
    return outcome.history[metric][until - 1]


def decay(build: Callable[..., Any], x: Any, y: Any, values: Sequence[Any] | None = None, *, folds: Any = 5,
          epochs: int = 10, batch_size: int = 32, seed: int = 0, seeds: int = 1,
          learning_rates: Sequence[float] | None = None, method: str | methods.Method = "grid",
          metric: str | None = None, groups: Any = None, repeats: int = 1, validation_split: float | None = None,
          validation_data: Any = None, sample_weight: Any = None, class_weight: dict[int, float] | None = None,
          augment: Augment | None = None, shuffle: bool = True,
          callbacks: Callable[[], Sequence[Callback]] | None = None, jobs: int | None = None, workers: str = "threads",
          client: Any = None, output: str | Path | None = None, report: bool = True,
          verbose: int | str = "auto") -> Result:
    """Finds the weight decay for a network and its data. Every candidate meets the same weights, order and folds.

    build: a function that returns a compiled model. Arguments of its own named `decay`, `learning_rate` and `epochs`
    are given; without them the optimizer of the model it returns is made anew with the candidate's.
    x, y, sample_weight, class_weight, augment, shuffle, batch_size, epochs: as in `Model.fit`.
    values: decays (`decay.decoupled(0.01)`, `decay.none()` among them if wanted; see `search.grid`, `search.random`);
    by default none() and 8 of `decay.epochs` from 1 to `epochs`. learning_rates: searched as well, each with each
    decay, also one that the method makes (optuna chooses both); with decays in `decay.epochs` the two axes are η and
    ηλ, which are nearly independent (arXiv 1711.05101).
    folds: how many parts, stratified where y are class numbers; or an iterable of (train, held out) rows, or what
    has scikit-learn's `split`. groups: samples of one group stay in one part. repeats: of the folds, shuffled anew.
    validation_split: one split instead. validation_data: (x, y) to measure on instead; all of x is trained on.
    seeds: how many trainings per candidate and fold, with the seeds `seed`, `seed` + 1, …
    method: "grid" (all of `values`), "halving", "gradient", "optuna", "constrained", or `search.Halving(…)` and so on.
    callbacks: a function that returns those of one training, such as a LearningRateScheduler.
    metric: of the history; by default `val_accuracy` where it is measured, else `val_loss`. Of one that has the name
    of a loss, or ends with one, the lower is the better.
    jobs: trainings at a time, as many as there are cores by default. workers: "threads", or "processes" (forked), which
    are faster where a step takes less than about a tenth of a millisecond. client: a `dask.distributed.Client`, or the
    address of a scheduler: cells are trained by its workers, without `jobs` and `workers`.
    output: a folder for the results (results.csv, results.json, and with `report` report.png and report.html where
    matplotlib is installed); a search that was killed goes on from it, and no cell is run twice.

    A cell whose loss is no number, or that does not fit into memory, is reported in the table and ends nothing.
    Ctrl-C keeps what is done. Raises ValueError or TypeError, naming the argument, before anything is trained.

    >>> import numpy as np
    >>> from wdfast import data, decay, layers, losses, models, optimizers, search
    >>> digits = data.load("digits")
    >>> def build():
    ...     model = models.Sequential([layers.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10)])
    ...     model.compile(optimizers.AdamW(1e-2), losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"])
    ...     return model
    >>> x, y = digits.x_train[:300] / np.float32(16), digits.y_train[:300]
    >>> values = [decay.none(), *search.grid(decay.epochs, 1, 2, 2)]
    >>> result = search.decay(build, x, y, values, folds=2, epochs=2, verbose=0)
    >>> result.best in values, len(result.rows)
    (True, 3)
    """
    for name, value, least in (("seeds", seeds, 1), ("seed", seed, 0), ("epochs", epochs, 1)):
        if not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"search: argument '{name}': expected an int ≥ {least}, got {value!r}")
    x, y, sample_weight, splits = _parts(x, y, sample_weight, folds, groups, repeats, validation_split,
                                         validation_data, seed)
    chosen = _method(method)
    candidates = _candidates(values, learning_rates, epochs, chosen)
    problem = Problem(build, x, y, splits, batch_size=batch_size, epochs=epochs, sample_weight=sample_weight,
                      class_weight=class_weight, augment=augment, shuffle=shuffle, callbacks=callbacks,
                      durable=output is not None or client is not None)
    cell, probe = _probe(problem, candidates, seed)
    metric = _metric(metric, ["loss", *problem.objective(probe).scalars])
    store = Store(None if output is None else Path(output), problem.describe(probe, cell),
                  None if type(chosen) in _MEASURE_ALL else metric)
    progress = Progress(verbose, metric, len(candidates) * seeds * len(splits))
    with closing(store), closing(progress), closing(_executor(problem, jobs, workers, client)) as executor:
        search = Search(problem, range(seed, seed + seeds), executor, store, metric, larger=_larger(metric),
                        report=progress)
        with warnings.catch_warnings():  # here, not around each training: what it puts back is of the whole process
            warnings.simplefilter("ignore")
            chosen.run(search, candidates)
    result = Result(search, probe)
    if output is not None:
        result.save(output, report=report)
    for text in search.warnings:
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    return result


def _probe(problem: Problem, candidates: Sequence[Candidate], seed: int) -> tuple[Cell, Any]:
    """The first cell that a model can be made for, and that model. Raises the first one's error if there is none."""
    first: BaseException | None = None
    for candidate in candidates:
        rate = candidate.learning_rate if problem.takes_rate else None
        cell = Cell(Candidate(candidate.decay, rate), seed, 0, problem.epochs)
        try:
            return cell, problem.model(cell)
        except FAILURES as error:  # that of a network too large for the memory, say: its cells will be told as failed
            first = first or error
    raise first


def _executor(problem: Problem, jobs: int | None, workers: str, client: Any) -> Any:
    if workers not in ("threads", "processes"):
        raise ValueError(f"search: argument 'workers': expected 'threads' or 'processes', got {workers!r}")
    if client is None:
        return Processes(problem, jobs) if workers == "processes" else Local(problem, jobs)
    from .distributed import Dask

    if workers != "threads":
        raise ValueError(f"search: argument 'workers': with 'client', Dask's workers train the cells, got {workers!r}")
    if jobs is not None:
        raise ValueError("search: argument 'jobs': on Dask's workers, their threads say how many cells train at a time")
    return Dask(problem, client)


def _parts(x: Any, y: Any, sample_weight: Any, folds: Any, groups: Any, repeats: int, validation_split: float | None,
           validation_data: Any, seed: int) -> tuple[Any, Any, Any, list[Split]]:
    """The data as one, and which of it is trained and measured on."""
    if isinstance(x, ImageStream):
        raise ValueError("search: argument 'x': expected arrays, which can be split, got a stream")
    samples = _count("x", x)
    _finite("x", x)
    _finite("y", y)
    classes = _classes(y)
    if classes is not None and len(classes) > 1 and (classes == classes[0]).all():
        raise ValueError(f"search: argument 'y': expected samples of at least two classes, got only class {classes[0]}")
    if groups is not None and (validation_split is not None or validation_data is not None):
        raise ValueError("search: argument 'groups': is for folds, not for 'validation_split' or 'validation_data'")
    if validation_data is not None:
        if not isinstance(validation_data, (list, tuple)) or len(validation_data) not in (2, 3):
            raise ValueError("search: argument 'validation_data': expected (x, y) or (x, y, sample_weight)")
        given = list(validation_data)
        count = _count("validation_data", given[0])
        _finite("validation_data", given)
        x, y = _joined("x", x, given[0]), _joined("y", y, given[1])
        if sample_weight is not None or len(given) > 2:
            ones = np.ones(samples), np.ones(count)
            sample_weight = np.concatenate([ones[0] if sample_weight is None else sample_weight,
                                            given[2] if len(given) > 2 else ones[1]])
        return x, y, sample_weight, [Split(np.arange(samples), np.arange(samples, samples + count))]
    if classes is not None and len(classes) != samples:
        raise ValueError(f"search: argument 'y': expected {samples} samples as in 'x', got {len(classes)}")
    if validation_split is not None:
        return x, y, sample_weight, folds_module.hold_out(samples, validation_split, labels=classes, seed=seed)
    if isinstance(folds, (int, np.integer)) and not isinstance(folds, bool):
        return x, y, sample_weight, folds_module.k_fold(samples, int(folds), labels=classes, groups=groups,
                                                        repeats=repeats, seed=seed)
    if hasattr(folds, "split") and not isinstance(folds, str):
        given = list(folds.split(np.zeros((samples, 1)), y if classes is None else classes, groups))
    else:
        try:
            given = [(train, held) for train, held in folds]
        except (TypeError, ValueError):
            raise TypeError("search: argument 'folds': expected an int, an iterable of (train, held out) rows, or a "
                            f"splitter of scikit-learn, got {folds!r}") from None
    splits = [Split(*(folds_module.rows_of(part, samples) for part in pair)) for pair in given]
    if not splits:
        raise ValueError("search: argument 'folds': expected at least one fold, got none")
    folds_module.check(splits, samples, classes)
    return x, y, sample_weight, splits


def _count(name: str, x: Any) -> int:
    """How many samples there are."""
    for array in _arrays_of(x):
        if not np.ndim(array):
            raise ValueError(f"search: argument '{name}': expected arrays with the samples as their first axis, "
                             f"got {array!r}")
        return len(array)
    raise ValueError(f"search: argument '{name}': expected at least one array, got none")


def _arrays_of(value: Any) -> list[Any]:
    """The arrays of a model with one or several inputs or outputs; none of None."""
    if isinstance(value, dict):
        return list(value.values())
    several = isinstance(value, (list, tuple)) and len(value) and (value[0] is None or np.ndim(value[0]))
    return [part for item in value for part in _arrays_of(item)] if several else [] if value is None else [value]


def _finite(name: str, value: Any) -> None:
    """Raises ValueError for NaN or infinity. A sum in float64 has them if a part has, and needs no memory."""
    for array in map(np.asarray, _arrays_of(value)):
        if array.dtype.kind == "f" and not math.isfinite(array.sum(dtype=np.float64)):
            raise ValueError(f"search: argument '{name}': expected finite numbers")


def _joined(name: str, one: Any, two: Any) -> Any:
    """The samples of `one`, then those of `two`, of each array."""
    if isinstance(one, dict):
        return {key: _joined(name, array, two[key]) for key, array in one.items()}
    if one is None or len(_arrays_of(one)) > 1:
        return None if one is None else [_joined(name, a, b) for a, b in zip(one, two, strict=True)]
    a, b = np.asarray(one), np.asarray(two)
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"search: argument 'validation_data': expected the shape of '{name}', {a.shape[1:]} a sample, "
                         f"got {b.shape[1:]}")
    if name == "x" and (a.dtype == np.uint8) != (b.dtype == np.uint8):  # pixels from 0 to 255 beside others
        raise ValueError(f"search: argument 'validation_data': expected the dtype of 'x', {a.dtype}, got {b.dtype}")
    return np.concatenate([a, b])


def _classes(y: Any) -> np.ndarray | None:
    """Class numbers, which are stratified; None for measured values, pixels, several outputs."""
    several = isinstance(y, dict) or (isinstance(y, (list, tuple)) and len(y) and np.ndim(y[0]))
    if y is None or several:
        return None
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and set(np.unique(labels)) <= {0, 1} and (labels.sum(axis=1) == 1).all():
        return labels.argmax(axis=1)  # one-hot
    return labels if labels.ndim == 1 and labels.dtype.kind in "iub" else None


def _method(method: Any) -> Any:
    if isinstance(method, str):
        if method not in _METHODS:
            raise ValueError(f"search: argument 'method': expected one of {', '.join(_METHODS)}, got {method!r}")
        return _METHODS[method]()
    if not hasattr(method, "run"):
        raise TypeError(f"search: argument 'method': expected a name or a method, got {method!r}")
    return method


def _candidates(values: Sequence[Any] | None, learning_rates: Sequence[float] | None, epochs: int,
                method: Any) -> list[Candidate]:
    """The candidates without those named twice."""
    if values is None:
        asks = isinstance(method, (methods.Optuna, methods.Gradient, methods.Constrained))
        values = [decays.none(), *([] if asks else space.grid(decays.epochs, 1, max(epochs, 2)))]
    for name, value, what in (("values", values, "decays"), ("learning_rates", learning_rates, "numbers")):
        if value is not None and not isinstance(value, Iterable):
            raise TypeError(f"search: argument '{name}': expected a list of {what}, got {value!r}")
    given = [decays.get(value) for value in values]
    if not given:
        raise ValueError("search: argument 'values': expected at least one decay, got none")
    rates = [None] if learning_rates is None else [float(rate) for rate in learning_rates]
    if not rates or any(rate is not None and not 0 < rate < math.inf for rate in rates):
        raise ValueError(f"search: argument 'learning_rates': expected numbers above 0, got {learning_rates!r}")
    return list({Candidate(value, rate): None for rate in rates for value in given})


def _metric(metric: str | None, names: list[str]) -> str:
    """The name of what is compared, checked against what will be in the history."""
    known = [*names, *(f"val_{name}" for name in names)]
    if metric is not None and re.sub(r"_\d+$", "", metric) not in known and metric not in known:  # of classes: recall_0
        raise ValueError(f"search: argument 'metric': expected one of {', '.join(known)}, got {metric!r}")
    return metric or ("val_accuracy" if "accuracy" in names else "val_loss")


def _larger(metric: str) -> bool:
    """Whether a larger value is the better one: of an accuracy, not of a loss."""
    parts = metric.split("_")
    return not any("_".join(parts[k:]) in _LOWER_IS_BETTER for k in range(len(parts)))


class Progress:
    """What is printed while cells are trained: a bar on a terminal where tqdm is installed, else a line for each."""

    def __init__(self, verbose: int | str, metric: str, total: int) -> None:
        make_bar, self._lines = shown("search", verbose)
        self._bar = make_bar(total=total, unit=" cells", dynamic_ncols=True) if make_bar else None
        self._metric, self._total, self._done = metric, total, 0

    def __call__(self, cell: Cell, outcome: Outcome) -> None:
        self._done += 1
        told = f"failed: {outcome.failure}" if outcome.failure else (
            f"{self._metric} {outcome.history[self._metric][-1]:.4f} after {outcome.done} epochs")
        if self._bar is not None:
            self._bar.total = max(self._total, self._done)
            self._bar.set_postfix_str(f"{cell.candidate}: {told}", refresh=False)
            self._bar.update(1)
        elif self._lines:
            print(f"cell {self._done}  {cell.candidate}  seed {cell.seed}  fold {cell.fold}  {told}  "
                  f"{outcome.seconds:.1f} s", flush=True)

    def close(self) -> None:
        """Leaves the terminal clean."""
        if self._bar is not None:
            self._bar.close()
