"""The results of a search on disk: one file for each finished cell, so that none is ever run again."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ..io.files import read_json, write_json
from .cell import Outcome


class Store:
    """A folder: `search.json` says which search, `cells/` has the outcomes, `running/` the checkpoints.

    metric: what decides which cells are trained, None where nothing does: outcomes hold all metrics.
    Without a folder the outcomes stay in memory, and checkpoints, if any are needed, in a temporary place.
    Raises ValueError where the folder holds another search (other data among others), naming what differs.
    """

    def __init__(self, folder: Path | None, fingerprint: dict[str, Any], metric: str | None = None) -> None:
        self.folder = folder
        self._outcomes: dict[str, Outcome] = {}
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._running = None if folder is None else folder / "running"
        if folder is not None:
            self._claim(folder / "search.json", fingerprint, metric)
            (folder / "cells").mkdir(exist_ok=True)

    def _claim(self, path: Path, fingerprint: dict[str, Any], metric: str | None) -> None:
        told = {} if metric is None else {"metric": metric}
        if path.exists():
            known = read_json(path)
            known = known.get("fingerprint", {}) if isinstance(known, dict) else {}
            differs = [name for name, value in fingerprint.items() if known.get(name) != value]
            if metric is not None and known.get("metric", metric) != metric:
                differs.append("metric")
            if differs:
                raise ValueError(f"{path.parent}: holds another search (other {', '.join(differs)}); "
                                 "give another folder as output=, or remove it")
            told = told or {name: known[name] for name in ("metric",) if name in known}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"fingerprint": fingerprint | told})

    def get(self, key: str) -> Outcome | None:
        """The outcome of a cell, if there is one. Raises ValueError for a file that is damaged."""
        if key not in self._outcomes and self.folder is not None:
            path = self.folder / "cells" / f"{key}.json"
            if path.exists():
                row = read_json(path)
                if not isinstance(row, dict) or set(row) != {f.name for f in fields(Outcome)} or row["key"] != key:
                    raise ValueError(f"{path}: not an outcome of this wdfast, or a damaged one; "
                                     "remove it to run the cell again")
                self._outcomes[key] = Outcome(**row)
        return self._outcomes.get(key)

    def put(self, outcome: Outcome, *, finished: bool) -> None:
        """Keeps an outcome; the checkpoint of a cell that will not go on is removed."""
        self._outcomes[outcome.key] = outcome
        if self.folder is not None:
            write_json(self.folder / "cells" / f"{outcome.key}.json", asdict(outcome))
        if finished:
            self.drop(outcome.key)

    def drop(self, key: str) -> None:
        """Removes the checkpoint of a cell."""
        if self._running is not None:
            shutil.rmtree(self._running / key, ignore_errors=True)

    def checkpoint(self, key: str, *, needed: bool) -> Path | None:
        """The folder for the state of a cell that is not finished; None where only memory is left to lose."""
        if needed and self._running is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="wdfast-search-")
            self._running = Path(self._temporary.name)
        return None if self._running is None else self._running / key

    def close(self) -> None:
        """Removes what was temporary."""
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = self._running = None
