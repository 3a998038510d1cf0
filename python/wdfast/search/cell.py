"""One training of a search: what it needs, and what it comes to. The same bits wherever and whenever it is run."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import initializers
from .._fit import Fit
from .._programs import Programs
from ..callbacks import Callback
from ..decay import DECAYED_ROLES
from ..layers.base import numbered_anew
from ..steps import Arrays, Augment, Objective, Part, with_class_weight
from .folds import Split
from .space import FAILURES, Candidate, shortened

_SAVE_EVERY = 30.0  # seconds between checkpoints of a running cell: what a kill can cost
_EVALUATION_BATCH = 512  # a few hundred samples are one step of one program
_PAUSED_BYTES = 1 << 28  # of trainings that wait in memory to go on
_building = threading.Lock()  # layers without a name are numbered by one count for all
_pausing = threading.Lock()


class Cell(NamedTuple):
    """One training: a candidate, where its random numbers begin, which samples it sees, and how long it lasts."""

    candidate: Candidate
    seed: int
    fold: int
    epochs: int


@dataclass
class Outcome:
    """What a cell came to. `history` has one list per log, a value per epoch; `failure` is empty if all went well."""

    key: str
    done: int = 0
    history: dict[str, list[float]] = field(default_factory=dict)
    weights: str = ""
    seconds: float = 0.0
    failure: str = ""


class Stop:
    """Asks cells to save and end: `requested` is looked at after each native call."""

    requested = False


class _Watch(Callback):
    """Ends a training whose loss is no longer a number; follows the norm of the decayed weights and their zeros."""

    def __init__(self) -> None:
        self.failure = ""
        self.paths: dict[str, list[float]] = {"weight_norm": [], "sparsity": []}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        wrong = [name for name in ("loss", "val_loss") if not math.isfinite(logs.get(name, 0.0))]
        if wrong:
            self.failure = f"{wrong[0]} is {logs[wrong[0]]} after epoch {epoch + 1}"
            self.model.stop_training = True
        decayed = [p.value.reshape(-1) for p in self.model.trained if p.role in DECAYED_ROLES]
        zeros = sum(len(w) - np.count_nonzero(w) for w in decayed)
        self.paths["weight_norm"].append(math.sqrt(sum(float(np.dot(w, w)) for w in decayed)))
        self.paths["sparsity"].append(zeros / max(sum(map(len, decayed)), 1))

    def get_state(self) -> dict[str, Any]:
        return dict(self.paths)

    def set_state(self, state: dict[str, Any]) -> None:
        self.paths = {name: list(values) for name, values in state.items()}


class Problem:
    """What all cells of a search share: the data, the parts they are split into, the network and how it is trained.

    `build` returns a compiled model; those of its parameters that are named `decay`, `learning_rate` and `epochs`
    are given, and where it does not take a decay or a rate, the optimizer of what it returns is made anew with them.
    durable: a training that waits to go on is on disk as well as in memory: another may go on with it, or a kill come.
    """

    def __init__(self, build: Callable[..., Any], x: Any, y: Any, splits: Sequence[Split], *, batch_size: int,
                 epochs: int, sample_weight: Any = None, class_weight: dict[int, float] | None = None,
                 augment: Augment | None = None, shuffle: bool = True,
                 callbacks: Callable[[], Sequence[Callback]] | None = None, durable: bool = True) -> None:
        if not callable(build) or hasattr(build, "compile"):
            raise TypeError("search: argument 'build': expected a function that returns a compiled model, "
                            f"got {build!r}")
        for name, value in (("batch_size", batch_size), ("epochs", epochs)):
            if not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"search: argument '{name}': expected an int ≥ 1, got {value!r}")
        self.build = build
        self.x, self.y, self.sample_weight, self.class_weight = x, y, sample_weight, class_weight
        self.splits = list(splits)
        self.batch_size, self.epochs = int(batch_size), int(epochs)
        self.augment, self.shuffle, self.callbacks, self.durable = augment, shuffle, callbacks, durable
        self._arrays: tuple[Arrays, Arrays] | None = None
        self._first: list[Any] = []  # the weights of the first model
        self._paused: dict[str, tuple[Fit, _Watch]] = {}  # by the key of their cell
        self._programs = Programs()
        self.fingerprint = self._fingerprint()

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_arrays": None, "_first": [], "_paused": {}}  # are made again where they are needed

    # ---- the network -----------------------------------------------------------------------------------

    def model(self, cell: Cell) -> Any:
        """The compiled model of a cell before its first step."""
        wanted = {"decay": cell.candidate.decay, "learning_rate": cell.candidate.learning_rate, "epochs": cell.epochs}
        if cell.epochs != self.epochs:
            wanted["decay"] = shortened(cell.candidate.decay, cell.epochs / self.epochs)
        with _building, initializers.seeded(cell.seed), numbered_anew():
            model = self.build(**{k: v for k, v in wanted.items() if k in self._takes and v is not None})
            if not getattr(model, "compiled", False):
                raise ValueError(f"search: argument 'build': expected it to return a compiled model, got {model!r}")
            model._ensure_built(self.x)
            weights = [*model.trained, *model.moving]
            if {id(p) for p in weights} & {id(p) for p in self._first}:
                raise TypeError("search: argument 'build': expected a new model at each call, got weights that another "
                                "model trains")
            self._first = self._first or weights
            left = {k: v for k, v in wanted.items() if k not in self._takes and k != "epochs"}
            if any(v is not None for v in left.values()):
                model._set_optimizer(model.optimizer.fresh(**left))
            if self._arrays is None:
                plain = model._arrays(self.x, self.y, self.sample_weight)
                self._arrays = with_class_weight(plain, self.class_weight), plain
        return model

    @functools.cached_property
    def _takes(self) -> set[str]:
        return set(inspect.signature(self.build).parameters)

    @property
    def takes_rate(self) -> bool:
        """Whether `build` is given the learning rate."""
        return "learning_rate" in self._takes

    @property
    def restarts(self) -> bool:
        """Whether `build` can make a model for a shorter run."""
        return "epochs" in self._takes

    # ---- what tells cells apart --------------------------------------------------------------------------

    def _fingerprint(self) -> dict[str, Any]:
        """What has to be the same for results to belong together."""
        data = [*(self.x if isinstance(self.x, (list, tuple)) else [self.x]),
                *(self.y if isinstance(self.y, (list, tuple)) else [self.y]), self.sample_weight]
        folds = [rows for split in self.splits for rows in split]
        weights = sorted((self.class_weight or {}).items())
        augment = None if self.augment is None else asdict(self.augment)
        return {"data": _sha(*data), "folds": _sha(*folds), "batch_size": self.batch_size, "epochs": self.epochs,
                "class_weight": _sha(weights), "augment": augment, "shuffle": self.shuffle,
                "callbacks": _source(self.callbacks)}

    def describe(self, model: Any, cell: Cell) -> dict[str, Any]:
        """The network, its first weights, and how it is compiled, of a cell's model; in the fingerprint from now on.

        A learning rate that the candidates bring is theirs: then the shape of its schedule counts alone.
        """
        network = [[node.op, node.attrs] for node in model.nodes], [list(p.shape) for p in model.parameters]
        config = {k: v for k, v in model.optimizer.get_config().items() if k not in ("decay", "learning_rate")}
        losses = [[type(loss).__name__, getattr(loss, "get_config", dict)()] for loss in model.losses]
        metrics = [[item if isinstance(item, str) else getattr(item, "name", repr(type(item))) for item in wanted]
                   for wanted in model.metrics_wanted]
        acts = [[p.role, p.trainable, repr(p.decay), repr(p.regularizer)] for p in model.parameters]
        rates = model.optimizer.rates(np.arange(0, 4096, 64))
        if self.takes_rate and cell.candidate.learning_rate is not None:
            rates = rates / model.optimizer._peak_rate()
        self.fingerprint |= {"network": _sha(network, acts), "weights": _sha(*(p.value for p in model.parameters)),
                             "losses": _sha(losses, model.loss_weights),
                             "metrics": _sha(metrics), "precision": model.precision,
                             "optimizer": [type(model.optimizer).__name__, _sha(config), _sha(rates)]}
        return self.fingerprint

    def held_out(self, cell: Cell) -> Part:
        """The samples that a cell is measured on."""
        return Part(self._arrays[1], self.splits[cell.fold].held_out)

    def objective(self, model: Any) -> Objective:
        """The loss and metrics of one of its models."""
        return Objective(model, self._arrays[1])

    def key(self, cell: Cell) -> str:
        """The name of a cell: a hash of all that its result depends on, the processor aside."""
        decay = cell.candidate.decay.get_config()
        return self.named(decay, cell.candidate.learning_rate, cell.seed, cell.fold, cell.epochs)

    def named(self, *values: Any) -> str:
        """A hash of these and of what all cells share."""
        return _sha(self.fingerprint, *values)

    # ---- training ----------------------------------------------------------------------------------------

    def train(self, cell: Cell, until: int, folder: Path | None = None, *, stop: Any = Stop,
              started: Callable[[Any], None] = lambda model: None) -> Outcome:
        """Trains a cell up to `until` epochs: goes on where it was left in memory or in its checkpoint in `folder`.

        A network that cannot be trained (a loss that is no number, memory that is not there) is an outcome with a
        failure. Raises KeyboardInterrupt, with the place saved, where `stop.requested`.
        """
        outcome = Outcome(self.key(cell))
        begin = time.perf_counter()
        try:
            run, watch = self._left(outcome.key) or self._begun(cell, folder)
            started(run.model)
            run.advance(until, stop)
            for step in run.release():
                self._programs.give(step)
            if run.epoch < cell.epochs and not watch.failure:
                if self.durable:
                    run.save()
                self._leave(outcome.key, run, watch)
            elif not watch.failure:
                run.end()
        except FAILURES as error:
            outcome.failure = f"{type(error).__name__}: {error}"
        else:
            outcome.failure, outcome.done = watch.failure, run.epoch
            outcome.history = {k: list(map(float, v)) for k, v in (run.history.history | watch.paths).items()}
            outcome.weights = _sha(*(p.value for p in run.model.parameters))
        outcome.seconds = time.perf_counter() - begin
        return outcome

    def _begun(self, cell: Cell, folder: Path | None) -> tuple[Fit, _Watch]:
        watch = _Watch()
        run = self.fit(self.model(cell), cell, watch, folder)
        run.begin()
        return run, watch

    def _left(self, key: str) -> tuple[Fit, _Watch] | None:
        with _pausing:
            return self._paused.pop(key, None)

    def _leave(self, key: str, run: Fit, watch: _Watch) -> None:
        """Keeps a training in memory till it goes on; where that is full, those that were left first go to disk."""
        gone = []
        with _pausing:
            self._paused[key] = run, watch
            full = sum(_held(run) for run, _ in self._paused.values()) - _PAUSED_BYTES
            for other, (first, _) in list(self._paused.items()):
                if full <= 0:
                    break
                del self._paused[other]
                full -= _held(first)
                gone.append(first)
        for first in gone:
            if not self.durable:
                first.save()

    def forget(self) -> None:
        """Lets the trainings in memory go."""
        self._paused.clear()

    def fit(self, model: Any, cell: Cell, watch: Callback, folder: Path | None = None) -> Fit:
        """The `fit` of a cell's model, not begun."""
        callbacks = [*(self.callbacks() if self.callbacks else ()), watch]
        split = self.splits[cell.fold]
        train, _ = self._arrays
        return Fit(model, Part(train, split.train), self.held_out(cell),
                   batch_size=min(self.batch_size, len(split.train)), epochs=cell.epochs, seed=cell.seed,
                   shuffle=self.shuffle, augment=self.augment, callbacks=callbacks, verbose=0,
                   validation_batch_size=_EVALUATION_BATCH, checkpoint=folder, telemetry=False, save_every=_SAVE_EVERY,
                   make_step=self._programs.take)


def _held(run: Fit) -> int:
    """About the bytes that a training holds while it waits: weights, their gradients and two of a state."""
    return 4 * sum(p.value.nbytes for p in run.model.parameters)


def _source(function: Any) -> str:
    """A hash of a function's text, if it has one that is known; not of what it calls."""
    try:
        return "" if function is None else _sha(inspect.getsource(function))
    except (OSError, TypeError):
        return ""


def _sha(*values: Any) -> str:
    """The first 16 digits of the SHA-256 of arrays and JSON values."""
    digest = hashlib.sha256()
    for value in values:
        if isinstance(value, np.ndarray) or hasattr(value, "__array__"):
            array = np.ascontiguousarray(value)
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.data if array.size else b"")
        else:
            digest.update(json.dumps(value, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]
