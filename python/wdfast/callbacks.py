"""Callbacks of `fit`, as in Keras: hooks around the training, each epoch, and each batch.

A callback with a state gives `get_state` and `set_state`, so that a resumed run goes on exactly.
"""

from __future__ import annotations

import csv
import functools
import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

__all__ = [
    "CSVLogger", "Callback", "CallbackList", "EarlyStopping", "History", "LambdaCallback", "LearningRateScheduler",
    "ModelCheckpoint", "ReduceLROnPlateau", "TerminateOnNaN",
]

Logs = dict[str, Any]


class Callback:
    """Base: override the hooks you need. `self.model` and `self.params` (epochs, steps, …) are set by `fit`.

    A hook that watches batches makes `fit` come back to Python after every step.

    >>> from wdfast import callbacks
    >>> class Print(callbacks.Callback):
    ...     def on_epoch_end(self, epoch, logs=None):
    ...         print(epoch, logs["loss"])
    >>> Print().on_epoch_end(0, {"loss": 0.5})
    0 0.5
    """

    model: Any = None
    params: Logs = {}  # noqa: RUF012  # replaced, never changed

    def set_model(self, model: Any) -> None:
        self.model = model

    def set_params(self, params: Logs) -> None:
        self.params = params

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Before the first epoch of a `fit`."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """After the last epoch."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Before an epoch; they count from 0."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """After an epoch and its validation; `logs` has loss, metrics, and `val_…` of them."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a step of the epoch."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a step; `logs` has the means of the epoch so far."""

    def get_state(self) -> Logs:
        """What a resumed run needs to go on: JSON values, and lists of arrays."""
        return {}

    def set_state(self, state: Logs) -> None:
        """Takes over what `get_state` gave; called after `on_train_begin`."""


class CallbackList:
    """The callbacks of one `fit`; every hook goes to each of them in order."""

    def __init__(self, callbacks: Iterable[Any], *, model: Any, params: Logs) -> None:
        self.callbacks = list(callbacks)
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(f"fit: argument 'callbacks': expected Callback instances, got {callback!r}")
            callback.set_model(model)
            callback.set_params(params)
        self._begun = False
        self._waiting: list[tuple[Callback, Logs]] = []

    @functools.cached_property
    def watches_batches(self) -> bool:
        """Whether any of them overrides a hook of a batch."""
        hooks = ("on_train_batch_begin", "on_train_batch_end")
        return any(getattr(type(c), hook) is not getattr(Callback, hook) or hook in vars(c)
                   for c in self.callbacks for hook in hooks)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        for callback in self.callbacks:
            callback.on_train_begin(logs)
        self._begun = True
        self._hand_over()

    def on_train_end(self, logs: Logs | None = None) -> None:
        for callback in self.callbacks:
            callback.on_train_end(logs)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        for callback in self.callbacks:
            callback.on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        for callback in self.callbacks:
            callback.on_epoch_end(epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        for callback in self.callbacks:
            callback.on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        for callback in self.callbacks:
            callback.on_train_batch_end(batch, logs)

    def get_state(self) -> list[Logs]:
        """Class and state of each callback, in order."""
        return [{"class_name": type(c).__name__, "state": c.get_state()} for c in self.callbacks]

    def set_state(self, states: Sequence[Logs]) -> None:
        """Hands each callback its state back (once the training has begun); they must be the same ones."""
        names = [type(c).__name__ for c in self.callbacks]
        before = [state["class_name"] for state in states]
        if names != before:
            raise ValueError(f"fit: argument 'callbacks': the run to resume had {before}, this one has {names}")
        self._waiting = [(c, state["state"]) for c, state in zip(self.callbacks, states, strict=True)]
        if self._begun:
            self._hand_over()

    def _hand_over(self) -> None:
        for callback, state in self._waiting:
            callback.set_state(state)
        self._waiting = []


class _Stateful(Callback):
    """A callback whose state are the attributes named in `_state`."""

    _state: tuple[str, ...] = ()

    def get_state(self) -> Logs:
        return {name: getattr(self, name) for name in self._state}

    def set_state(self, state: Logs) -> None:
        for name in self._state:
            setattr(self, name, state[name])


class History(_Stateful):
    """What `fit` returns: `history.history` has one list per log, `history.epoch` the numbers of the epochs."""

    _state = ("history", "epoch")

    def __init__(self) -> None:
        self.history: dict[str, list[float]] = {}
        self.epoch: list[int] = []

    @property
    def last_logs(self) -> Logs:
        """The logs of the last epoch."""
        return {name: values[-1] for name, values in self.history.items()}

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)


class LearningRateScheduler(Callback):
    """Sets the learning rate before each epoch to `schedule(epoch)` or `schedule(epoch, learning_rate)`.

    Here ×0.1 every 10 epochs: η = 0.2 in epochs 0 … 9, then 0.1¹ of it, from epoch 20 on 0.1². η is that of the
    start; one made from the second argument, the current rate, would shrink in every epoch. Raises TypeError if
    the schedule gives no number.

    >>> import numpy as np
    >>> from wdfast import callbacks, layers, models, optimizers
    >>> lr = 0.2
    >>> by_ten = callbacks.LearningRateScheduler(lambda epoch: lr if epoch < 10 else lr * 0.1 ** (epoch // 10))
    >>> model = models.Sequential([layers.Input((3,)), layers.Dense(1)])
    >>> model.compile(optimizers.SGD(lr), "mse")
    >>> rates = []
    >>> note = callbacks.LambdaCallback(
    ...     on_epoch_end=lambda epoch, logs: rates.append(round(model.optimizer.learning_rate, 6)))
    >>> _ = model.fit(np.ones((4, 3)), np.ones((4, 1)), epochs=21, verbose=0, callbacks=[by_ten, note])
    >>> rates[9], rates[10], rates[19], rates[20]
    (0.2, 0.02, 0.02, 0.002)
    """

    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        self.schedule, self.verbose = schedule, verbose
        import inspect  # not at import: it is slow to load, and needed here alone

        try:
            inspect.signature(schedule).bind(0, 0.0)
            self._takes_rate = True
        except TypeError:
            self._takes_rate = False

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        rate = self.schedule(epoch, _learning_rate(self)) if self._takes_rate else self.schedule(epoch)
        if not _is_number(rate):
            raise TypeError(
                f"LearningRateScheduler: argument 'schedule': expected it to give a number, got {rate!r}"
            )
        self.model.optimizer.learning_rate = float(rate)
        if self.verbose:
            print(f"Epoch {epoch + 1}: learning rate {float(rate):g}")


def _is_number(value: Any) -> bool:
    return hasattr(value, "__float__") and not isinstance(value, (str, bool))


def _learning_rate(callback: Callback) -> float:
    rate = callback.model.optimizer.learning_rate
    if not _is_number(rate):
        raise TypeError(f"{type(callback).__name__}: expected a number as the optimizer's learning rate, got {rate!r}")
    return float(rate)


class _Monitor(_Stateful):
    """A callback that watches one log and knows which of two values is better."""

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"{type(self).__name__}: argument 'mode': expected auto, min or max, got {mode!r}")
        self.monitor, self.mode, self.min_delta = monitor, mode, abs(min_delta)
        name = monitor.removeprefix("val_")
        grows = name.endswith(("acc", "accuracy", "auc")) or name.startswith("fmeasure")
        self._sign = -1.0 if mode == "max" or (mode == "auto" and grows) else 1.0

    def improves(self, value: float, best: float | None) -> bool:
        if best is None:
            return not math.isnan(value)
        return self._sign * value < self._sign * best - self.min_delta

    def current(self, logs: Logs | None) -> float:
        if self.monitor not in (logs or {}):
            raise ValueError(
                f"{type(self).__name__}: argument 'monitor': there is no '{self.monitor}' among {sorted(logs or {})}"
            )
        return float(logs[self.monitor])


class EarlyStopping(_Monitor):
    """Stops when `monitor` has not improved by `min_delta` for `patience` epochs.

    mode: "min", "max", or "auto" (max for accuracies). baseline: what has to be beaten at all.
    restore_best_weights: ends with the weights of the best epoch. start_from_epoch: epochs before are not
    watched. Raises ValueError if the log does not exist.
    """

    _state = ("best", "best_epoch", "wait", "stopped_epoch", "best_weights")

    def __init__(self, monitor: str = "val_loss", min_delta: float = 0.0, patience: int = 0, verbose: int = 0,
                 mode: str = "auto", baseline: float | None = None, restore_best_weights: bool = False,
                 start_from_epoch: int = 0) -> None:
        super().__init__(monitor, mode, min_delta)
        self.patience, self.verbose, self.baseline = patience, verbose, baseline
        self.restore_best_weights, self.start_from_epoch = restore_best_weights, start_from_epoch
        self._reset()

    def _reset(self) -> None:
        self.best: float | None = None
        self.best_weights: list[Any] | None = None
        self.best_epoch = self.wait = self.stopped_epoch = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._reset()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if epoch < self.start_from_epoch:
            return
        current = self.current(logs)
        self.wait += 1
        if self.improves(current, self.best):
            self.best, self.best_epoch = current, epoch
            if self.restore_best_weights:
                self.best_weights = self.model.get_weights()
            if self.baseline is None or self.improves(current, self.baseline):
                self.wait = 0
            return
        if self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.stopped_epoch and self.verbose:
            print(f"Epoch {self.stopped_epoch + 1}: early stopping")
        if self.best_weights is not None:
            self.model.set_weights(self.best_weights)
            if self.verbose:
                print(f"Restored the weights of epoch {self.best_epoch + 1}")


class ModelCheckpoint(_Monitor):
    """Saves the model (or its weights) after every epoch, or after those in which `monitor` improved.

    filepath: may hold fields, `{epoch:02d}` (from 1) and logs, `{val_loss:.2f}`; folders are made. Raises
    ValueError for a field or a monitor that does not exist.
    """

    _state = ("best",)

    def __init__(self, filepath: str | os.PathLike[str], monitor: str = "val_loss", verbose: int = 0,
                 save_best_only: bool = False, save_weights_only: bool = False, mode: str = "auto",
                 initial_value_threshold: float | None = None) -> None:
        super().__init__(monitor, mode)
        self.filepath, self.verbose = os.fspath(filepath), verbose
        self.save_best_only, self.save_weights_only = save_best_only, save_weights_only
        self.best = initial_value_threshold

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.save_best_only:
            current = self.current(logs)
            if not self.improves(current, self.best):
                return
            self.best = current
        try:
            path = self.filepath.format(**{**(logs or {}), "epoch": epoch + 1})
        except KeyError as missing:
            raise ValueError(
                f"ModelCheckpoint: argument 'filepath': no field {missing}; there are 'epoch' and {sorted(logs or {})}"
            ) from None
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        (self.model.save_weights if self.save_weights_only else self.model.save)(path)
        if self.verbose:
            print(f"Epoch {epoch + 1}: saved {path}")


class ReduceLROnPlateau(_Monitor):
    """Multiplies the learning rate by `factor` when `monitor` has not improved for `patience` epochs.

    cooldown: epochs after a reduction in which nothing is counted. min_lr: the floor. Raises ValueError for
    a factor ≥ 1 and for a log that does not exist.
    """

    _state = ("best", "wait", "cooldown_counter")

    def __init__(self, monitor: str = "val_loss", factor: float = 0.1, patience: int = 10, verbose: int = 0,
                 mode: str = "auto", min_delta: float = 1e-4, cooldown: int = 0, min_lr: float = 0.0) -> None:
        super().__init__(monitor, mode, min_delta)
        if factor >= 1:
            raise ValueError(f"ReduceLROnPlateau: argument 'factor': expected a number < 1, got {factor!r}")
        self.factor, self.patience, self.verbose = factor, patience, verbose
        self.cooldown, self.min_lr = cooldown, min_lr
        self._reset()

    def _reset(self) -> None:
        self.best: float | None = None
        self.wait = self.cooldown_counter = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._reset()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        current, rate = self.current(logs), _learning_rate(self)
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.wait = 0
        if self.improves(current, self.best):
            self.best, self.wait = current, 0
        elif self.cooldown_counter <= 0:
            self.wait += 1
            if self.wait >= self.patience and rate > self.min_lr:
                self.model.optimizer.learning_rate = max(rate * self.factor, self.min_lr)
                self.cooldown_counter, self.wait = self.cooldown, 0
                if self.verbose:
                    print(f"Epoch {epoch + 1}: learning rate {self.model.optimizer.learning_rate:g}")


class CSVLogger(Callback):
    """Writes one row per epoch to a CSV file: epoch, then the logs of the first epoch.

    append: goes on in a file that exists. A resumed run cuts the file where its checkpoint was made and goes
    on from there, so that no epoch is there twice.
    """

    def __init__(self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False) -> None:
        self.filename, self.separator, self.append = os.fspath(filename), separator, append
        self._keys: list[str] | None = None
        self._end = 0  # bytes of the file that are done

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._keys, self._end = None, 0

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        logs = logs or {}
        size = os.path.getsize(self.filename) if os.path.exists(self.filename) else 0
        if self._keys is None:
            self._end = size if self.append else 0
            self._keys = list(logs)
            if self.params.get("do_validation") and not any(key.startswith("val_") for key in logs):
                self._keys += [f"val_{key}" for key in logs]  # validation comes in a later epoch
        if size > self._end:
            os.truncate(self.filename, self._end)
        with open(self.filename, "a", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, delimiter=self.separator)
            if min(size, self._end) == 0:
                rows.writerow(["epoch", *self._keys])
            rows.writerow([epoch, *(logs.get(key, "NA") for key in self._keys)])
        self._end = os.path.getsize(self.filename)

    def get_state(self) -> Logs:
        return {"keys": self._keys, "end": self._end}

    def set_state(self, state: Logs) -> None:
        self._keys, self._end = state["keys"], state["end"]


class TerminateOnNaN(Callback):
    """Stops the training after a step whose loss is not finite."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            print(f"Batch {batch}: the loss is {float(loss)}; training stops")
            self.model.stop_training = True


class LambdaCallback(Callback):
    """Hooks as functions: `LambdaCallback(on_epoch_end=lambda epoch, logs: …)`.

    Raises TypeError for a hook that does not exist.
    """

    def __init__(self, **hooks: Callable[..., Any]) -> None:
        for name, hook in hooks.items():
            if not name.startswith("on_") or not hasattr(Callback, name):
                raise TypeError(f"LambdaCallback: there is no hook '{name}'")
            setattr(self, name, hook)
