"""One call of `fit`: its data, its programs, its place in the run."""

from __future__ import annotations

import functools
import signal
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from . import callbacks as callbacks_module
from . import initializers
from .progress import Progress
from .steps import Arrays, Augment, DataStep, Objective

# A native call returns about this often: soon enough for Ctrl-C and a smooth bar, rarely enough that the
# cost of a call (about 20 µs) does not show.
_SECONDS_PER_CALL = 0.1
_FEW = 1 << 16  # samples whose orders are kept for a while


class DelayedInterrupt:
    """Ctrl-C inside the block sets `requested` instead of raising, so a step is never half booked.

    A second Ctrl-C raises at once. Outside the main thread signals go elsewhere, and this does nothing.
    """

    requested = False

    def __enter__(self) -> DelayedInterrupt:
        self._before = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGINT)
            if self._before is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, number: int, frame: Any) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._before is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._before)


class EpochMeans:
    """What the batches of an epoch come to: means weighted by their sizes, and what `finish` makes of sums.

    In float64, one batch after another, so that a resumed epoch adds up the same.
    """

    def __init__(self, finish: dict[str, Callable[[np.ndarray], Any]]) -> None:
        self.finish = finish
        self.sums: dict[str, Any] = {}
        self.count = 0

    def add(self, values: dict[str, np.ndarray], batch: int) -> None:
        for name, rows in values.items():
            terms = rows.astype(np.float64)
            if name not in self.finish:
                terms *= batch
            terms[0] += self.sums.get(name, 0.0)
            # In their order, however many steps a call ran.
            self.sums[name] = terms[0] if len(terms) == 1 else np.add.accumulate(terms)[-1]
        self.count += batch * len(rows)

    def means(self) -> dict[str, float]:
        logs: dict[str, float] = {}
        for name, total in self.sums.items():
            if name not in self.finish:
                logs[name] = float(total / max(self.count, 1))
                continue
            value = np.asarray(self.finish[name](total))
            names = [name] if value.ndim == 0 else [f"{name}_{i}" for i in range(value.size)]
            logs.update(zip(names, value.ravel().tolist(), strict=True))
        return logs


@functools.lru_cache(maxsize=64)  # the models of a search see the samples in the same orders
def _shuffled(seed: int, epoch: int, n: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n).astype(np.int32)


class Fit:
    """One call of `fit`: its data, its programs, its place in the run."""

    def __init__(self, model: Any, arrays: Arrays, validation: Arrays | None, *, batch_size: int, epochs: int,
                 seed: int | None, shuffle: bool, augment: Augment | None, callbacks: Sequence[Any], verbose: int | str,
                 validation_batch_size: int, checkpoint: Any, telemetry: bool, save_every: float = 0.0,
                 make_step: Callable[..., DataStep] = DataStep) -> None:
        self.model = model
        self.arrays = arrays
        self.validation = validation
        self.batch_size = batch_size
        self.epochs = epochs
        self.seed = seed
        self.shuffle = shuffle
        self.augment = augment
        self.validation_batch_size = validation_batch_size
        self.telemetry = telemetry
        self.save_every = save_every  # seconds; 0: after each epoch
        self._saved = time.monotonic()
        self.steps_per_epoch = -(-arrays.size // batch_size)
        self.history = callbacks_module.History()
        self.callbacks = callbacks_module.CallbackList([self.history, *callbacks], model=model, params={
            "epochs": epochs, "steps": self.steps_per_epoch, "batch_size": batch_size, "verbose": verbose})
        self.progress = Progress(verbose, epochs=epochs, images_per_epoch=arrays.size)
        self.checkpoint = None
        if checkpoint is not None:
            from .io.checkpoint import Checkpoint

            self.checkpoint = Checkpoint(checkpoint, self)
        self._make_step = make_step
        self._objective = Objective(model, arrays, mixed=augment is not None and augment.mixup > 0)
        same = validation is not None and validation.signature == arrays.signature and self._objective.share is None
        self._validation_objective = self._objective if same or validation is None else Objective(model, validation)
        self._steps: dict[tuple[bool, int], DataStep] = {}  # whether it trains, the batch size
        self._steps_per_call = 1
        self.epoch = 0
        self.done = 0  # samples of the epoch that are booked
        self.means = EpochMeans(self._objective.finish)
        model.optimizer.set_run(self.steps_per_epoch, self.steps_per_epoch * epochs)

    def __call__(self, initial_epoch: int) -> callbacks_module.History:
        self.begin(initial_epoch)
        with DelayedInterrupt() as interrupt:
            self.advance(self.epochs, interrupt)
        self.end()
        return self.history

    def begin(self, initial_epoch: int = 0) -> None:
        """Goes to where the run begins: an epoch, or what the checkpoint says."""
        self.model.stop_training = False
        self.epoch = initial_epoch
        if self.checkpoint is not None:
            self.checkpoint.restore()
        if self.seed is None:
            self.seed = initializers.next_seed()
        self.callbacks.on_train_begin()

    def advance(self, epochs: int, interrupt: Any) -> None:
        """Trains until so many epochs are done. Where `interrupt.requested`, raises KeyboardInterrupt when the
        place is saved.
        """
        try:
            while self.epoch < epochs and not self.model.stop_training:
                self._run_epoch(interrupt)
        finally:
            self.arrays.close()
            self.progress.close()

    def end(self) -> None:
        """What follows the last epoch."""
        self.model.optimizer.finalize_variable_values(self.model.trained)
        self.callbacks.on_train_end(self.history.last_logs)

    def release(self) -> list[DataStep]:
        """Its steps, which it makes anew if it goes on."""
        steps, self._steps = list(self._steps.values()), {}
        return steps

    def _step(self, batch: int) -> DataStep:
        step = self._steps.get((True, batch))
        if step is None or step.outdated:
            step = self._steps[True, batch] = self._make_step(
                self.model, self._objective, self.arrays, batch, training=True, rows=True, augment=self.augment,
                telemetry=self.telemetry)
        return step

    def _validation_step(self, batch: int) -> DataStep:
        if (False, batch) not in self._steps:
            self._steps[False, batch] = self._make_step(self.model, self._validation_objective, self.validation, batch,
                                                        training=False, rows=True)
        return self._steps[False, batch]

    def _order(self) -> np.ndarray:
        n = self.arrays.size
        if not self.shuffle:
            return np.arange(n, dtype=np.int32)
        return (_shuffled if n <= _FEW else _shuffled.__wrapped__)(self.seed, self.epoch, n)

    def _run_epoch(self, interrupt: DelayedInterrupt) -> None:
        self._begin_epoch()
        self.progress.begin(self.epoch, self.done)
        order = self._order()
        while self.done < len(order):
            self._run_steps(order)
            if self.model.stop_training:
                break
            if interrupt.requested:
                self.save()
                raise KeyboardInterrupt
        logs = self.means.means()
        if self.validation is not None:
            measured = self.model._evaluate(self.validation, self.validation_batch_size, self._validation_step)
            logs |= {f"val_{name}": value for name, value in measured.items()}
        self.progress.end(logs)
        self.callbacks.on_epoch_end(self.epoch, logs)
        self.epoch += 1
        self.done = 0
        self.means = EpochMeans(self._objective.finish)
        self.save(self.save_every)
        if interrupt.requested:
            self.save()
            raise KeyboardInterrupt

    def _begin_epoch(self) -> None:
        if self.done == 0:
            self.callbacks.on_epoch_begin(self.epoch)
            return
        # Resumed inside an epoch: what this hook did then to the learning rate and to the callbacks' states is
        # in the checkpoint, and must not be done twice.
        optimizer, callbacks = self.model.optimizer.state_dict(), self.callbacks.get_state()
        self.callbacks.on_epoch_begin(self.epoch)
        self.model.optimizer.load_state_dict(optimizer)
        self.callbacks.set_state(callbacks)

    def _run_steps(self, order: np.ndarray) -> None:
        """A few steps in one native call, then their bookkeeping."""
        left = len(order) - self.done
        batch = min(self.batch_size, left)
        watched = self.callbacks.watches_batches
        steps = 1 if watched else min(self._steps_per_call, left // batch)
        step = self._step(batch)
        index = self.arrays.stage(order, self.done, steps, batch)
        steps = len(index)  # of a stream, those that are ready
        number = self.done // self.batch_size
        if watched:
            self.callbacks.on_train_batch_begin(number)
        start = time.perf_counter()
        values = step.run(steps, {step.index: index}, seed=self.seed)
        seconds = time.perf_counter() - start
        most = 4 * max(steps, self._steps_per_call)  # an epoch's end makes a call short, not its steps slow
        self._steps_per_call = max(1, min(int(steps * _SECONDS_PER_CALL / max(seconds, 1e-9)), most))
        self.means.add(values, batch)
        self.done += steps * batch
        if watched:
            self.callbacks.on_train_batch_end(number, self.means.means())
        self.progress.update(steps * batch, self.means.means)

    def save(self, seconds: float = 0.0) -> None:
        """Writes the checkpoint, if there is one, unless less than `seconds` have gone since the last."""
        if self.checkpoint is not None and time.monotonic() - self._saved >= seconds:
            self.checkpoint.save()
            self._saved = time.monotonic()
