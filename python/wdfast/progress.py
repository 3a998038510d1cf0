"""What is printed: tables, and of `fit` a bar per epoch where tqdm is installed, on a terminal, else a line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any


class Table(list[tuple[str, ...]]):
    """Rows of text, the heading first; prints as columns."""

    def __repr__(self) -> str:
        return table(self)


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows of text as columns; the first is the heading, the first two columns are left-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
             for row in rows]
    lines.insert(1, "  ".join("─" * w for w in widths))
    return "\n".join(line.rstrip() for line in lines)


_SILENT = {"penalty", "sparsity", "decay_to_gradient", "nonfinite"}


def format_logs(logs: Mapping[str, float]) -> str:
    """`loss 0.1234  accuracy 0.9876`: four significant digits, names as in the history; what decay and telemetry
    count is left out where it is 0 or not known.
    """
    return "  ".join(f"{name} {value:.4g}" for name, value in logs.items() if value > 0 or name not in _SILENT)


def shown(where: str, verbose: int | str) -> tuple[Any, bool]:
    """(tqdm's bar, or None where there is to be none; whether lines are printed instead).

    verbose: 0 silent, 1 a bar, 2 lines, "auto" a bar on a terminal. A bar that is not installed becomes lines.
    """
    if verbose not in (0, 1, 2, "auto"):
        raise ValueError(f"{where}: argument 'verbose': expected 0, 1, 2 or 'auto', got {verbose!r}")
    if verbose == 1 or (verbose == "auto" and sys.stderr.isatty()):
        try:
            from tqdm import tqdm
        except ModuleNotFoundError:
            return None, True
        return tqdm, False
    return None, verbose != 0


class Progress:
    """Progress of a fit. verbose: 0 silent, 1 a bar, 2 a line per epoch, "auto" a bar on a terminal.

    >>> from wdfast.progress import Progress
    >>> progress = Progress(2, epochs=1, images_per_epoch=64)
    >>> progress.begin(0); progress.update(64, lambda: {"loss": 0.5}); progress.end({"loss": 0.5})  # doctest: +ELLIPSIS
    epoch 1/1  ...s  ... images/s  loss 0.5
    """

    def __init__(self, verbose: int | str, *, epochs: int, images_per_epoch: int) -> None:
        self._make_bar, self._lines = shown("fit", verbose)
        self._epochs = epochs
        self._images = images_per_epoch
        self._bar: Any = None

    def begin(self, epoch: int, done: int = 0) -> None:
        """Starts an epoch; `done` images of it were seen before an interruption."""
        self._epoch = epoch
        self._start = time.perf_counter()
        self._resumed_at = self._done = done
        if self._make_bar:
            self._bar = self._make_bar(total=self._images, initial=done, unit=" images", unit_scale=True,
                                       desc=f"epoch {epoch + 1}/{self._epochs}", dynamic_ncols=True)

    def update(self, images: int, logs: Callable[[], Mapping[str, float]]) -> None:
        """`images` more have been seen; `logs` tells the epoch's means so far, if they are shown."""
        self._done += images
        if self._bar is not None:
            self._bar.set_postfix_str(format_logs(logs()), refresh=False)
            self._bar.update(images)

    def end(self, logs: Mapping[str, float]) -> None:
        """Ends an epoch with its final values, validation among them."""
        seconds = time.perf_counter() - self._start
        if self._bar is not None:
            self._bar.set_postfix_str(format_logs(logs))
            self._bar.close()
            self._bar = None
        elif self._lines:
            rate = (self._done - self._resumed_at) / max(seconds, 1e-9)
            print(f"epoch {self._epoch + 1}/{self._epochs}  {seconds:.1f} s  {rate:,.0f} images/s  {format_logs(logs)}",
                  flush=True)

    def close(self) -> None:
        """Leaves the terminal clean after an interruption."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
