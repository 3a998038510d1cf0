"""What a search found: the table, the choice and the one-standard-error choice, and whether two candidates differ."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..io.files import atomic_write, write_json
from ..progress import Table
from .space import Candidate, ordered, strength

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .run import Search


@dataclass(frozen=True)
class Row:
    """A candidate: its scores after `epochs` epochs by (seed, fold), and what the trainings came to."""

    candidate: Candidate
    epochs: int
    timescale: float
    """τ in epochs: the run's length over −log of what decay alone leaves of a weight; inf without decay."""
    seeds: list[int]
    folds: list[int]
    scores: np.ndarray
    """(n,): one per training, NaN where it failed."""
    mean: float
    standard_error: float
    seconds: float
    failures: list[str]
    curves: dict[str, np.ndarray]
    """(n, epochs) by the names of the history: of the trainings that did not fail."""


class Difference(NamedTuple):
    """The two best candidates compared on the same seeds and folds."""

    first: Candidate
    second: Candidate
    mean: float
    """The mean difference of their scores, first less second."""
    standard_error: float
    """Of that mean; corrected for the samples that the folds' trainings share (Nadeau and Bengio 2003)."""
    p_value: float
    """Of Student's t, two-sided: how often so large a difference comes about if there is none."""


class Result:
    """The rows of a search and what follows from them."""

    def __init__(self, search: Search, probe: Any) -> None:
        self.metric, self.larger = search.metric, search.larger
        self.rows = _rows(search, probe)
        full = [r for r in self.rows if r.epochs == search.problem.epochs and not math.isnan(r.mean)]
        if not full:
            first = next((f for r in self.rows for f in r.failures), "none was trained to the end")
            raise ValueError(f"search: every training failed; the first: {first}")
        self._ranked = sorted(full, key=lambda r: -r.mean if self.larger else r.mean)
        split = search.problem.splits[0]
        held_out = 0 if len(search.problem.splits) == 1 else len(split.held_out)
        self._overlap = held_out / len(split.train)
        self.settings = _settings(search, probe)

    @property
    def best(self) -> Any:
        """The decay with the best mean."""
        return self.best_row.candidate.decay

    @property
    def best_row(self) -> Row:
        """The row of the best mean."""
        return self._ranked[0]

    @property
    def one_se(self) -> Any:
        """The strongest decay that is worse than the best by no more than one standard error, that of the difference.

        The difference is that of the same seeds and folds; its error counts for no more than that of the best mean,
        so that one fold gone wrong lets nothing in. With a single training of each, the error is that of an accuracy
        of so many held-out samples. `best` where the decays cannot be ordered.
        """
        return self.one_se_row.candidate.decay

    @property
    def one_se_row(self) -> Row:
        """The row of `one_se`, among those of the best row's learning rate."""
        within = self.within_one_se
        if not ordered([r.candidate.decay for r in within]):
            return self.best_row
        return max(within, key=lambda r: strength(r.candidate.decay)[1])

    @property
    def within_one_se(self) -> list[Row]:
        """Those of the best row's learning rate and kind that are worse by no more than `_error`."""
        best = self.best_row
        rivals = [r for r in self._ranked if r.candidate.learning_rate == best.candidate.learning_rate]
        within = [r for r in rivals if abs(r.mean - best.mean) <= self._error(r)]
        return [r for r in within if r is best or ordered([best.candidate.decay, r.candidate.decay])]

    def _error(self, row: Row) -> float:
        """What the mean of a row may be worse by."""
        own, gaps = float(np.nan_to_num(self.best_row.standard_error)), row.scores - self.best_row.scores
        return own if len(gaps) < 2 else min(own, float(np.std(gaps, ddof=1) / math.sqrt(len(gaps))))

    @property
    def difference(self) -> Difference | None:
        """The paired comparison of the two best; None with a single candidate or a single training of each."""
        if len(self._ranked) < 2 or len(self._ranked[0].scores) < 2:
            return None
        one, two = self._ranked[:2]
        gaps = one.scores - two.scores
        n = len(gaps)
        error = float(np.std(gaps, ddof=1) * math.sqrt(1 / n + self._overlap))
        t = abs(float(gaps.mean())) / error if error else math.inf
        p_value = _two_sided(t, n - 1) if gaps.any() else 1.0
        return Difference(one.candidate, two.candidate, float(gaps.mean()), error, p_value)

    @property
    def table(self) -> Table:
        """A row per candidate: decay, learning rate, τ, mean, standard error, the score of every training, seconds."""
        rates = any(r.candidate.learning_rate is not None for r in self.rows)
        trainings = max(len(r.scores) for r in self.rows)
        many = len({s for r in self.rows for s in r.seeds}) > 1
        widest = max(self.rows, key=lambda r: len(r.scores))
        heads = [f"seed {s} fold {f}" if many else f"fold {f}" for s, f in zip(widest.seeds, widest.folds, strict=True)]
        rows = Table([("Decay", "Choice", *(["Learning rate"] if rates else []), "τ", "Epochs", "Mean", "SE", *heads,
                       "Seconds")])
        choices = {id(self.best_row): "best", id(self.one_se_row): "one SE"}
        if self.best_row is self.one_se_row:
            choices[id(self.best_row)] = "best, one SE"
        for row in self.rows:
            scores = [f"{v:.4g}" if math.isfinite(v) else "failed" for v in row.scores]
            rate = [f"{row.candidate.learning_rate:g}"] if rates else []
            rows.append((repr(row.candidate.decay), choices.get(id(row), ""), *rate, f"{row.timescale:.3g}",
                         str(row.epochs), _number(row.mean), _number(row.standard_error),
                         *scores, *[""] * (trainings - len(scores)), f"{row.seconds:.1f}"))
        return rows

    @property
    def reasons(self) -> list[str]:
        """Sentences: what is best, what the one-standard-error rule chooses and why, whether the two best differ."""
        best, one, error = self.best_row, self.one_se_row, self.best_row.standard_error
        told = [f"best: {best.candidate}, {self.metric} {best.mean:.4g} ± {_number(error)}"]
        if one is not best:
            whose = "of the best" if self._error(one) == error else "of the difference"
            why = (f"the strongest decay that is worse than the best ({abs(one.mean - best.mean):.2g}) by no more than "
                   f"the standard error {whose} ({self._error(one):.2g})")
        elif math.isnan(error):
            why = "the best itself: a single training has no standard error"
        elif not ordered([r.candidate.decay for r in self.within_one_se]):
            why = "the best itself: those within a standard error are of several kinds"
        else:
            why = "the best itself: no stronger decay of its kind comes within a standard error"
        told.append(f"one-standard-error choice: {one.candidate}, {self.metric} {one.mean:.4g}: {why}")
        if (gap := self.difference) is not None:
            told.append(f"best against {gap.second}: {gap.mean:+.3g} ± {gap.standard_error:.2g}, p = {gap.p_value:.2g}")
        if end := self._end():
            told.append(f"the best is the {end} that was tried: go on in that direction")
        return told

    def _end(self) -> str:
        """Which end of the decays the best is at, if at one: nothing is known of what lies beyond."""
        decays = [r.candidate.decay for r in self.rows]
        if not ordered(decays):
            return ""
        grows, own = [strength(d)[1] for d in decays], strength(self.best)[1]
        if not own or min(grows) == max(grows):
            return ""
        return {max(grows): "strongest", min(grows): "weakest"}.get(own, "")

    @property
    def failures(self) -> list[str]:
        """Which trainings failed, and of what."""
        return [f"{r.candidate}: {f}" for r in self.rows for f in r.failures]

    def __repr__(self) -> str:
        return "\n".join([repr(self.table), "", *self.reasons, *(f"failed: {text}" for text in self.failures)])

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """The figure: the metric against the decay, curves, loss, weight norm, sparsity; written to `path` if given.

        Raises ImportError where matplotlib is missing.
        """
        from ..viz.search import draw_search

        figure = draw_search(self)
        if path is not None:
            figure.savefig(path)
        return figure

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        rows = [{**asdict(r), "candidate": _plain(r.candidate), "scores": r.scores.tolist(),
                 "curves": {k: v.tolist() for k, v in r.curves.items()}} for r in self.rows]
        gap = self.difference
        told = None if gap is None else {**gap._asdict(), "first": _plain(gap.first), "second": _plain(gap.second)}
        return {"metric": self.metric, "larger_is_better": self.larger, "settings": self.settings,
                "best": _plain(self.best_row.candidate), "one_se": _plain(self.one_se_row.candidate),
                "difference": told, "rows": rows}

    def save(self, folder: str | os.PathLike[str], *, report: bool = True) -> None:
        """Writes results.csv and results.json, each atomically.

        report: report.png and report.html (self-contained) as well, where matplotlib is installed.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["decay", "learning_rate", "timescale", "epochs", "mean", "standard_error", "seed", "fold",
                         "score"])
        for r in self.rows:
            rate = "" if r.candidate.learning_rate is None else r.candidate.learning_rate
            about = [repr(r.candidate.decay), rate, r.timescale, r.epochs, r.mean, r.standard_error]
            writer.writerows([*about, *own] for own in zip(r.seeds, r.folds, r.scores, strict=True))
        with atomic_write(folder / "results.csv", "w") as file:
            file.write(text.getvalue())
        write_json(folder / "results.json", _finite(self.to_json()))
        if report:
            with contextlib.suppress(ImportError):  # matplotlib is an extra
                from ..viz import write_search

                write_search(folder, self)


def _rows(search: Search, probe: Any) -> list[Row]:
    """A row per candidate, from its longest trainings; those in `decay.ordered` order, weakest first."""
    rows, cells = [], {candidate: [] for candidate in search.order}
    for cell, outcome in search.outcomes.items():
        cells[cell.candidate].append((cell, outcome))
    for candidate, own in cells.items():
        longest = max(cell.epochs for cell, _ in own)
        own = sorted(((c, o) for c, o in own if c.epochs == longest), key=lambda pair: (pair[0].seed, pair[0].fold))
        done = max((outcome.done for _, outcome in own), default=0)
        scores = np.array([math.nan if o.failure else o.history[search.metric][-1] for _, o in own])
        good = [o for _, o in own if not o.failure]
        names = good[0].history if good else {}
        rows.append(Row(
            candidate, done, _timescale(search, probe, candidate), [c.seed for c, _ in own], [c.fold for c, _ in own],
            scores, float(scores.mean()), _standard_error(search, scores), sum(o.seconds for _, o in own),
            [f"seed {c.seed} fold {c.fold}: {o.failure}" for c, o in own if o.failure],
            {name: np.array([o.history[name] for o in good]) for name in names}))
    if ordered([r.candidate.decay for r in rows]):
        rows.sort(key=lambda r: (r.candidate.learning_rate or 0, strength(r.candidate.decay)[1]))
    return rows


def _standard_error(search: Search, scores: np.ndarray) -> float:
    """Over the trainings; of a single one, what drawing its held-out samples makes of an accuracy."""
    if len(scores) > 1:
        return float(np.std(scores, ddof=1) / math.sqrt(len(scores)))
    if "accuracy" in search.metric:
        p = float(scores[0])
        return math.sqrt(max(p * (1 - p), 0.0) / len(search.problem.splits[0].held_out))
    return math.nan


def _timescale(search: Search, probe: Any, candidate: Candidate) -> float:
    terms = getattr(candidate.decay, "terms", None)
    if terms is None:
        return math.nan
    if not terms:
        return math.inf
    optimizer = probe.optimizer.fresh(decay=candidate.decay, learning_rate=candidate.learning_rate)
    problem = search.problem
    steps = -(-len(problem.splits[0].train) // min(problem.batch_size, len(problem.splits[0].train)))
    optimizer.set_run(steps, steps * problem.epochs)
    shrink = optimizer.shrink(terms, steps * problem.epochs)
    if shrink is None or not 0 < shrink < 1:
        return math.nan if shrink is None else math.inf if shrink <= 0 else 0.0
    return -problem.epochs / math.log1p(-shrink)


def _settings(search: Search, probe: Any) -> dict[str, Any]:
    """What was the same for all candidates."""
    from .. import __version__

    problem, optimizer = search.problem, probe.optimizer
    sizes = [sorted({len(part) for part in parts}) for parts in zip(*problem.splits, strict=True)]
    train, held_out = (" or ".join(map(str, own)) for own in sizes)
    return {"metric": search.metric, "network": probe.name, "parameters": probe.count_params(),
            "optimizer": type(optimizer).__name__, "learning rate": f"{optimizer._peak_rate():g}",
            "epochs": problem.epochs, "batch size": problem.batch_size, "splits": len(problem.splits),
            "trained on": train, "held out": held_out, "seeds": ", ".join(map(str, search.seeds)),
            "augmentation": "none" if problem.augment is None else repr(problem.augment),
            "precision": probe.precision, "trainings": len(search.outcomes), "wdfast": __version__}


def _two_sided(t: float, freedom: int) -> float:
    """P(|T| > t) of Student's t: the integral of its density, by u = arctan(T/√ν): of cos^(ν−1) u."""
    begin = math.atan(t / math.sqrt(freedom))
    end = min(math.pi / 2, begin + 12 / math.sqrt(max(freedom - 1, 1e-9)))  # beyond, less than e^−72 of it is left
    u = np.linspace(begin, end, 2001)
    density = np.cos(u) ** (freedom - 1)
    area = float(((density[1:] + density[:-1]) / 2).sum() * (end - begin) / 2000)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    return min(1.0, 2 * scale * area)


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "–"


def _plain(candidate: Candidate) -> dict[str, Any]:
    return {"decay": candidate.decay.get_config(), "text": repr(candidate.decay),
            "learning_rate": candidate.learning_rate}


def _finite(value: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, np.ndarray):
        return _finite(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
