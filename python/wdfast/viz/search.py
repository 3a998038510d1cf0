"""The figure of a search: accuracy, loss, weight norm and sparsity against the decay, and the learning curves."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .report import write_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

    from ..search.result import Result, Row

# Okabe and Ito's palette, as in the report of a training.
_TRAINING, _HELD_OUT, _BEST, _ONE_SE, _GREY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#888888"
_RATES = ("#0072b2", "#e69f00", "#56b4e9", "#d55e00", "#000000", "#999999")
_MOST_LINES = 12  # of single trainings through all decays; more would be a haze
# Candidates that are worse than the best by this many times what the middle one is (and by this part of what the
# worst one is) would squeeze the others: they are drawn at the edge, with their number.
_OUTLYING, _FLOOR = 3.0, 0.2
_LOGARITHMIC = 10.0  # a span of values that a linear axis would squeeze


class _Scale(NamedTuple):
    """Where a decay stands: `at` has the place of each row (by id), weak on the left."""

    at: dict[int, float]
    label: str
    inverted: bool = False
    logarithmic: bool = True
    apart: float | None = None
    """Between none() and the others, on the axis."""
    names: tuple[str, ...] = ()
    """At 0, 1, … where it is not logarithmic."""

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Places and labels, so few that they can be read side by side."""
        if not self.logarithmic:
            return list(enumerate(self.names))
        beside = self.apart is not None and (max if self.inverted else min)(self.at.values())
        logs = np.unique(np.log10([place for place in self.at.values() if not beside or place != beside]))
        gap, chosen = 0.85 * np.ptp(logs) / most, []
        for value in logs[::-1] if self.inverted else logs:  # the weakest is labelled in any case
            if all(abs(value - other) >= gap for other in chosen):
                chosen.append(value)
        ticks = [(10**value, f"{float(f'{10**value:.3g}'):g}") for value in chosen]
        return [*ticks, (beside, "none")] if beside else ticks


def _scale(rows: Sequence[Row]) -> _Scale:
    """The decay's own number if all are of one kind, else τ, else one place after the other."""
    from ..search.space import INVERSE, ordered, strength

    decays = [row.candidate.decay for row in rows]
    none = np.array([not getattr(decay, "terms", True) for decay in decays])
    if ordered(decays) and not none.all():
        kind, grows = next(strength(d)[0] for d in decays if strength(d)[0]), np.array([strength(d)[1] for d in decays])
        inverted = kind in INVERSE
        shown = next(decay for decay, no in zip(decays, none, strict=True) if not no)
        number = 1 / strength(shown)[1] if inverted else strength(shown)[1]
        unit = {"epochs": "τ", "max_norm": "c"}.get(kind, "κ" if inverted else "λ")
        label = "decay." + repr(shown).replace(repr(float(f"{number:.12g}")), unit, 1)
        label += " in epochs" if kind == "epochs" else ""
    else:
        times = np.array([row.timescale for row in rows])
        grows = np.divide(1.0, times, out=np.full(len(times), np.inf), where=times > 0)
        inverted, label = True, "timescale τ in epochs"
    shown = grows[~none]
    if not len(shown) or not np.isfinite(shown).all() or not (shown > 0).all():
        places = {repr(d): float(i) for i, d in enumerate(dict.fromkeys(decays))}
        return _Scale({id(r): places[repr(r.candidate.decay)] for r in rows}, "decay", logarithmic=False,
                      names=tuple(places))
    number = np.divide(1.0, grows, out=np.full(len(grows), np.inf), where=grows > 0) if inverted else grows
    # A step of the grid, and at least an eighth of its span, lies between none() and the weakest.
    logs = np.unique(np.log10(number[~none]))
    step = max(float(np.diff(logs).mean()) if len(logs) > 1 else 0.3, float(np.ptp(logs)) / 8)
    weakest, sign = (logs[-1], 1) if inverted else (logs[0], -1)
    beside = 10 ** (weakest + sign * step * 1.3)
    at = {id(r): float(beside if no else v) for r, no, v in zip(rows, none, number, strict=True)}
    return _Scale(at, label, inverted, apart=10 ** (weakest + sign * step * 0.7) if none.any() else None)


def _set_scale(axes: Axes, scale: _Scale, most: int) -> None:
    """The axis of the decay, the same in every panel, with about `most` labels."""
    from matplotlib.ticker import NullLocator

    places = np.array(list(scale.at.values()))
    if scale.logarithmic:
        axes.set_xscale("log")
        margin = (places.max() / places.min()) ** 0.05 if np.ptp(places) else 2.0
        low, high = places.min() / margin, places.max() * margin
        axes.set_xlabel(f"{scale.label}, stronger →")
    else:
        low, high = -0.5, len(scale.names) - 0.5
    axes.set_xlim(*((high, low) if scale.inverted else (low, high)))
    slant = {} if scale.logarithmic else {"rotation": 30, "ha": "right", "rotation_mode": "anchor", "fontsize": 8}
    axes.set_xticks(*zip(*scale.ticks(most), strict=True), **slant)
    axes.xaxis.set_minor_locator(NullLocator())
    if scale.apart is not None:
        axes.axvline(scale.apart, color=_GREY, linewidth=0.8, linestyle=(0, (2, 3)))
    axes.grid(alpha=0.25)


def _plain_logarithmic(axes: Axes, span: float) -> None:
    """A logarithmic axis of values with numbers as one writes them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 100 else (1, 3) if span < 1e3 else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _by_rate(rows: Sequence[Row]) -> dict[float | None, list[Row]]:
    """The rows of each learning rate, lowest first."""
    rates = sorted({row.candidate.learning_rate for row in rows}, key=lambda rate: rate or 0.0)
    return {rate: [row for row in rows if row.candidate.learning_rate == rate] for rate in rates}


def _drawn_line(scale: _Scale, rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The rows from weak to strong: those apart from the line, such as none(), and those that it joins."""
    order = sorted(rows, key=lambda row: scale.at[id(row)], reverse=scale.inverted)
    apart = [row for row in order if scale.apart is not None and not row.candidate.decay.terms]
    return apart, [row for row in order if row not in apart]


# ---- panels ---------------------------------------------------------------------------------------------


def _named(metric: str) -> str:
    held_out = metric.startswith("val_")
    return metric.removeprefix("val_").replace("_", " ") + (", held out" if held_out else ", training")


def _scores(axes: Axes, result: Result, scale: _Scale) -> None:
    """Mean and standard error against the decay, every training faintly, the two choices ringed."""
    best, chosen = result.best_row, result.one_se_row
    full = [row for row in result.rows if row.epochs == best.epochs and math.isfinite(row.mean)]
    rates = _by_rate(result.rows)
    within = result.within_one_se
    if len(within) > 1:
        axes.plot([scale.at[id(row)] for row in within], [row.mean for row in within], linestyle="", marker="o",
                  markersize=15, color=_BEST, alpha=0.25, markeredgewidth=0, zorder=1,
                  label="worse by no more than a standard error")
    for (rate, rows), colour in zip(rates.items(), _colours(len(rates)), strict=True):
        _trainings(axes, scale, [row for row in rows if row in full], colour)
        label = None if rate is None else f"learning rate {rate:g}"
        for part in _drawn_line(scale, [row for row in rows if row in full]):
            if part:
                axes.errorbar([scale.at[id(row)] for row in part], [row.mean for row in part],
                              yerr=[np.nan_to_num(row.standard_error) for row in part], color=colour, marker="o",
                              markersize=5, capsize=3, linewidth=1.6, zorder=3, label=label,
                              linestyle="-" if scale.logarithmic else "")
                label = None
    early = [row for row in result.rows if row.epochs < best.epochs and math.isfinite(row.mean)]
    for length in sorted({row.epochs for row in early}):
        own = [row for row in early if row.epochs == length]
        grey = str(0.75 - 0.4 * length / best.epochs)
        axes.plot([scale.at[id(row)] for row in own], [row.mean for row in own], linestyle="", marker="o",
                  markersize=4.5, markerfacecolor="white", zorder=2, color=grey,
                  label=f"given up after {length} of {best.epochs} epochs")
    for row, marker, colour, name in ((best, "*", _BEST, "best"), (chosen, "D", _ONE_SE, "one-SE choice")):
        axes.plot(scale.at[id(row)], row.mean, marker=marker, markersize=13 if marker == "*" else 12, linestyle="",
                  markerfacecolor="none" if marker == "D" else colour, markeredgecolor=colour, markeredgewidth=2,
                  zorder=4, label=f"{name}: {row.candidate}")
    _limit(axes, result, full, scale)
    _failed(axes, result, scale)
    _set_scale(axes, scale, most=12)
    trainings = max(len(row.scores) for row in result.rows)
    axes.set_title(f"{_named(result.metric)}: mean of {trainings} trainings ± standard error" if trainings > 1
                   else f"{_named(result.metric)}: one training each")
    axes.set_ylabel(_named(result.metric))
    axes.legend(framealpha=0.85, edgecolor="none", fontsize=8)


def _colours(count: int) -> list[str]:
    return [_RATES[i % len(_RATES)] for i in range(count)]


def _trainings(axes: Axes, scale: _Scale, rows: Sequence[Row], colour: str) -> None:
    """Every training as a faint point; a line joins those of the same fold and seed, which are paired."""
    _, joined = _drawn_line(scale, rows)
    for row in rows:
        axes.plot([scale.at[id(row)]] * len(row.scores), row.scores, color=colour, marker=".", markersize=5,
                  linestyle="", alpha=0.25)
    trainings = {len(row.scores) for row in joined}
    if scale.logarithmic and len(joined) > 1 and len(trainings) == 1 and max(trainings) <= _MOST_LINES:
        axes.plot([scale.at[id(row)] for row in joined], np.array([row.scores for row in joined]), color=colour,
                  linewidth=0.7, alpha=0.25)


def _limit(axes: Axes, result: Result, full: Sequence[Row], scale: _Scale) -> None:
    """Keeps far worse candidates from squeezing the others: they stand at the edge, with their number."""
    sign = 1.0 if result.larger else -1.0
    losses = {id(row): sign * (result.best_row.mean - row.mean) for row in full}
    middle = max(float(np.median(list(losses.values()))), np.nan_to_num(result.best_row.standard_error))
    bound = max(_OUTLYING * middle, _FLOOR * max(losses.values()))
    inside = [row for row in full if losses[id(row)] <= bound]
    shown = np.concatenate([np.r_[row.scores, row.mean + np.nan_to_num(row.standard_error) * np.array((-1, 1))]
                            for row in inside])
    low, high = float(np.nanmin(shown)), float(np.nanmax(shown))
    margin = 0.08 * (high - low or 0.1 * abs(high) or 1.0)
    worse = [row for row in result.rows if math.isfinite(row.mean) and row not in inside
             and not low - margin <= row.mean <= high + margin]
    below, above = (2.5, 1.0) if result.larger and worse else (1.0, 2.5) if worse else (1.0, 1.0)
    axes.set_ylim(low - below * margin, high + above * margin)
    edge, arrow, shift, anchor = (0.02, "v", 9, "bottom") if result.larger else (0.98, "^", -9, "top")
    for row in worse:
        complete = row in full
        axes.plot(scale.at[id(row)], edge, transform=axes.get_xaxis_transform(), marker=arrow, color=_GREY,
                  markerfacecolor=_GREY if complete else "white", markersize=6, linestyle="", zorder=5)
        if complete:
            axes.annotate(f"{row.mean:.3g}", (scale.at[id(row)], edge), xycoords=axes.get_xaxis_transform(),
                          xytext=(0, shift), textcoords="offset points", ha="center", va=anchor, fontsize=7,
                          color=_GREY)


def _failed(axes: Axes, result: Result, scale: _Scale) -> None:
    """A cross at the foot for every candidate of which a training failed."""
    failed = [scale.at[id(row)] for row in result.rows if row.failures]
    if failed:
        axes.plot(failed, [0.05] * len(failed), transform=axes.get_xaxis_transform(), color="#b00000", marker="x",
                  markersize=8, markeredgewidth=2, linestyle="", label="a training failed", zorder=6)


def _final(axes: Axes, result: Result, scale: _Scale, lines: Sequence[tuple[str, str, str]], title: str) -> None:
    """What logs came to after the last epoch against the decay; `lines` are (log, label, colour).

    Of several learning rates each has a line, and the first log alone is drawn.
    """
    rates = _by_rate(result.rows)
    several = len(rates) > 1
    values: list[float] = []
    for (rate, rows), of_rate in zip(rates.items(), _colours(len(rates)), strict=True):
        for name, label, colour in lines[:1] if several else lines:
            label, colour = (f"learning rate {rate:g}", of_rate) if several else (label, colour)
            trained = [row for row in rows if row.epochs == result.best_row.epochs and name in row.curves]
            for part in _drawn_line(scale, trained):
                if not part:
                    continue
                finals = [row.curves[name][:, -1] for row in part]
                places = [scale.at[id(row)] for row in part]
                for place, final in zip(places, finals, strict=True):
                    axes.plot([place] * len(final), final, ".", color=colour, alpha=0.25, markersize=5)
                axes.plot(places, [final.mean() for final in finals], color=colour, marker="o", markersize=4,
                          label=label, linestyle="-" if scale.logarithmic else "")
                label = None
                values += [float(final.mean()) for final in finals]
    if values and min(values) > 0 and max(values) / min(values) > _LOGARITHMIC:
        _plain_logarithmic(axes, max(values) / min(values))
    elif values and max(values) == 0:
        axes.set_ylim(-0.02, 1)
    _set_scale(axes, scale, most=5)
    axes.set_title(f"{title}, {lines[0][1]}" if several and len(lines) > 1 else title)
    if several or len(lines) > 1:
        axes.legend(frameon=False, fontsize=8)


def _curves(axes: Axes, result: Result, scale: _Scale, name: str) -> None:
    """The mean over the trainings after each epoch; dark is strong, none() dashed black."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    rate = result.best_row.candidate.learning_rate
    rows = [row for row in result.rows if row.candidate.learning_rate == rate and name in row.curves]
    apart, joined = _drawn_line(scale, rows)
    places = [scale.at[id(row)] for row in joined]
    graded = scale.logarithmic and len(set(places)) > 1
    norm, colours = LogNorm(min(places), max(places)) if graded else None, _strengths(scale)
    cycle = iter(_colours(len(joined)))
    for row in (*joined, *apart):
        mean = row.curves[name].mean(axis=0)
        chosen = row in (result.best_row, result.one_se_row)
        colour = "black" if row in apart else colours(norm(scale.at[id(row)])) if norm else next(cycle)
        label = None if norm and row not in apart else repr(row.candidate.decay)
        axes.plot(np.arange(1, len(mean) + 1), mean, color=colour, linestyle="--" if row in apart else "-",
                  linewidth=2.6 if chosen else 1.2, zorder=3 if chosen else 2, label=label,
                  marker="o" if len(mean) == 1 else "")
    if norm:
        bar = axes.figure.colorbar(ScalarMappable(norm, colours), ax=axes, pad=0.02, aspect=30)
        bar.ax.set_ylabel(scale.label, fontsize=8)
        bar.ax.yaxis.set_inverted(scale.inverted)
        ticks = [tick for tick in scale.ticks(8) if tick[1] != "none"]
        bar.set_ticks([place for place, _ in ticks], labels=[text for _, text in ticks])
        bar.ax.tick_params(labelsize=8)
        bar.ax.minorticks_off()
    if apart or not norm:
        axes.legend(frameon=False, fontsize=8)
    told = "" if rate is None else f", learning rate {rate:g}"
    axes.set_title(f"{_named(name)}{told}")
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.25)


def _strengths(scale: _Scale) -> Colormap:
    """From pale, but not too pale for lines, to dark."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    shades = colormaps["viridis"](np.linspace(0, 0.9, 256))
    return ListedColormap(shades if scale.inverted else shades[::-1])


# ---- the whole ------------------------------------------------------------------------------------------


def draw_search(result: Result, *, title: str = "") -> Figure:
    """The figure of a `search.Result`: the metric against the decay with the choices, curves, loss, norm, sparsity.

    The decay's axis is logarithmic, weak on the left and none() apart from the rest; decays of several kinds are
    set by their timescale τ, or side by side where one has none. Raises ImportError where matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("a plot needs matplotlib: pip install wdfast[plot]") from None

    scale = _scale(result.rows)
    figure = Figure(figsize=(14, 9), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13, x=0.01, ha="left")
    rows = figure.add_gridspec(2, 1, height_ratios=(1.25, 1))
    above, below = rows[0].subgridspec(1, 2, width_ratios=(1.75, 1)), rows[1].subgridspec(1, 3)
    _scores(figure.add_subplot(above[0]), result, scale)
    _curves(figure.add_subplot(above[1]), result, scale, result.metric)
    losses = [("val_loss", "held out", _HELD_OUT), ("loss", "training", _TRAINING)]
    _final(figure.add_subplot(below[0]), result, scale, losses, "data loss at the end")
    _final(figure.add_subplot(below[1]), result, scale, [("weight_norm", "‖w‖", _TRAINING)],
           "‖w‖ of all that decay, at the end")
    zeros = [row.curves["sparsity"][:, -1].max() for row in result.rows if "sparsity" in row.curves]
    _final(figure.add_subplot(below[2]), result, scale, [("sparsity", "zeros", _BEST)],
           "share of exact zeros, at the end" if any(zeros) else "share of exact zeros: none is exactly 0")
    return figure


def write_search(folder: str | os.PathLike[str], result: Result, *, title: str = "The search for a decay",
                 settings: Mapping[str, object] | None = None) -> list[Path]:
    """Writes report.png and report.html, which has the figure, the choice and why, the table and the settings.

    settings: shown before those of the search. Raises ImportError where matplotlib is missing; returns the paths.
    """
    from .. import _native

    table: list[Sequence[object]] = [*result.table]
    told: dict[str, Sequence[Sequence[object]]] = {"All candidates": table}
    if result.failures:
        told["Trainings that failed"] = [("training",), *((text,) for text in result.failures)]
    seconds = sum(row.seconds for row in result.rows)
    about = {**(settings or {}), **result.settings, "seconds of training": f"{seconds:.1f}",
             "isa": _native.active_isa(), "threads": _native.num_threads()}
    told["Settings"] = [("setting", "value"), *((k, v) for k, v in about.items() if v is not None)]
    return write_page(folder, draw_search(result, title=title), title=title, tables=told, notes=result.reasons,
                      alt="the metric, the loss, weight norm and sparsity against the decay, and learning curves")
