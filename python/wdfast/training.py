"""How a model trains, is evaluated and predicts: the loops around the native steps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from . import callbacks as callbacks_module
from . import initializers
from ._fit import EpochMeans, Fit
from ._options import whole
from ._streamed import Streamed
from .data.streaming import ImageStream
from .graph import Parameter, Tensor
from .program import GraphProgram
from .steps import (
    Arrays,
    Augment,
    DataStep,
    Objective,
    Pullback,
    VjpStep,
    input_arrays,
    label_arrays,
    sample_weights,
    with_class_weight,
)
from .telemetry import warn_about_decay

if TYPE_CHECKING:
    from .losses import Loss
    from .optimizers import Optimizer

_PREDICT_PROGRAMS = 4  # kept: full and last batches of two sets


class Training:
    """What a model can do once it is compiled; the base of `models.Model`."""

    inputs: list[Tensor]
    outputs: list[Tensor]
    parameters: list[Parameter]
    optimizer: Optimizer
    losses: list[Loss | None]
    added_losses: dict[str, Tensor]
    threads = 0
    """On how many threads training and evaluation run; 0: `num_threads()`. The results are the same bits."""

    def __init__(self) -> None:
        self.compiled = False
        self.precision = "highest"
        self.stop_training = False
        self.trained: list[Parameter] = []
        self.moving: list[Parameter] = []  # running statistics that training follows
        self.history: callbacks_module.History | None = None
        self._forget_programs()

    def _forget_programs(self) -> None:
        self._programs: dict[Any, Any] = {}
        self._idle_vjp: dict[Any, list[VjpStep]] = {}

    def _ensure_built(self, x: Any) -> None:
        """Sequential makes its weights here, from the first data it sees."""

    def _require_compiled(self, what: str) -> None:
        if not self.compiled:
            raise ValueError(f"{what}: call model.compile(optimizer=…, loss=…) first")

    # ---- data -----------------------------------------------------------------------------------------

    def _arrays(self, x: Any, y: Any, sample_weight: Any = None, class_weight: Any = None) -> Arrays:
        self._ensure_built(x)
        if isinstance(x, ImageStream):
            return self._streamed(x, y, sample_weight, class_weight)
        inputs = input_arrays(self, x)
        samples = len(inputs[0])
        if samples == 0:
            raise ValueError("argument 'x': expected at least one sample, got none")
        arrays = Arrays(inputs, label_arrays(self, y, samples), sample_weights(samples, sample_weight))
        return with_class_weight(arrays, class_weight)

    def _streamed(self, x: ImageStream, y: Any, sample_weight: Any, class_weight: Any) -> Streamed:
        if y is not None:
            raise ValueError("argument 'y': expected None beside a stream, which has its labels")
        samples, *shape = x.shape
        none = input_arrays(self, np.empty((0, *shape), np.uint8))  # looks at the shape
        whole = Arrays(none, label_arrays(self, x.labels, samples), sample_weights(samples, sample_weight))
        whole = with_class_weight(whole, class_weight)
        return Streamed(x, whole.labels, whole.weights, x.batch_size)

    # ---- fit ------------------------------------------------------------------------------------------

    def fit(self, x: Any, y: Any = None, batch_size: int | None = 32, epochs: int = 1, *, verbose: int | str = "auto",
            callbacks: Any = None, validation_split: float = 0.0, validation_data: Any = None,
            shuffle: bool = True, class_weight: dict[int, float] | None = None, sample_weight: Any = None,
            initial_epoch: int = 0, validation_batch_size: int | None = None, seed: int | None = None,
            augment: Augment | None = None, checkpoint: Any = None,
            telemetry: bool = False, decay: str | None = None) -> callbacks_module.History:
        """Trains for `epochs` epochs and returns the history.

        x: samples first, one array or a list (uint8 images stay uint8 in memory), or a `data.stream`, which has its
        labels, batch size and shuffling. y: labels, None if only layers add to the loss. sample_weight: one per sample,
        or per value of the loss, such as a pixel; class_weight: {class: weight}, 1 for the others.
        validation_split: this fraction from the end is held out. seed: fixes order, dropout and
        augmentation; drawn if None. augment: an `Augment`: images flipped and cropped, mixup. checkpoint: a folder;
        written at the end of each epoch and on Ctrl-C; if it holds a checkpoint of this training, the
        run goes on from there, to the same bits. Calling `fit` again goes on where the last one ended.
        decay: "auto" first chooses the optimizer's weight decay by the one-standard-error rule from 8 of τ = 1 to
        `epochs` epochs and none (`wdfast.search`; about four times the work of one fit, twelve times with fewer than
        10,000 samples, where three seeds are taken), says what it chose and why (`model.search` keeps it), and
        trains from the same weights with an optimizer made anew.

        history: `loss` is the data loss with what layers add to it (each also as `<layer>_loss`), `penalty` that
        of regularisers and coupled decay, then metrics, and `val_…`; with `telemetry` also `weight_norm`, `sparsity`,
        `decay_to_gradient` and `nonfinite`, the means over the steps of `wdfast.telemetry.measure`. Warns
        (WeightDecayWarning) of decay that acts twice on a parameter and of a λ too weak to matter. Raises ValueError
        or TypeError, naming the argument, before anything has changed.
        """
        self._require_compiled("fit")
        batch_size = whole("fit", "batch_size", 32 if batch_size is None else batch_size, 1)
        epochs, initial_epoch = whole("fit", "epochs", epochs, 0), whole("fit", "initial_epoch", initial_epoch, 0)
        if validation_batch_size is not None:
            validation_batch_size = whole("fit", "validation_batch_size", validation_batch_size, 1)
        seed = None if seed is None else whole("fit", "seed", seed, 0)
        callbacks = [callbacks] if isinstance(callbacks, callbacks_module.Callback) else list(callbacks or ())
        if decay is not None:
            if decay != "auto":
                raise ValueError(f"fit: argument 'decay': expected 'auto' or None (give a decay to the optimizer), "
                                 f"got {decay!r}")
            seed = initializers.next_seed() if seed is None else seed
            self._choose_decay(x, y, batch_size=batch_size, epochs=epochs, seed=seed, augment=augment,
                               shuffle=shuffle, callbacks=callbacks, validation_split=validation_split,
                               validation_data=validation_data, sample_weight=sample_weight,
                               class_weight=class_weight, checkpoint=checkpoint, verbose=verbose)
        streamed = isinstance(x, ImageStream)
        if streamed:
            batch_size, shuffle = x.batch_size, x.shuffle
        arrays = self._arrays(x, y, sample_weight, class_weight if streamed else None)
        validation = None
        if validation_data is not None:
            if isinstance(validation_data, ImageStream):
                validation_data = validation_data, None
            if not isinstance(validation_data, (list, tuple)) or len(validation_data) not in (2, 3):
                raise ValueError("fit: argument 'validation_data': expected (x, y), (x, y, sample_weight) or a stream")
            validation = self._arrays(*validation_data)
        elif validation_split:
            if not 0 < validation_split < 1:
                raise ValueError(f"fit: argument 'validation_split': expected in (0, 1), got {validation_split}")
            kept = int(arrays.size * (1 - validation_split))
            if kept in (0, arrays.size):
                raise ValueError(
                    f"fit: argument 'validation_split': {validation_split} of {arrays.size} samples leaves none"
                )
            arrays, validation = arrays.rows(slice(kept)), arrays.rows(slice(kept, None))
        if not streamed:
            arrays = with_class_weight(arrays, class_weight)  # validation is not weighted by class, as in Keras
        if augment is not None:
            augment.check(arrays.inputs)
        run = Fit(self, arrays, validation, batch_size=min(batch_size, arrays.size), epochs=epochs, seed=seed,
                   shuffle=shuffle, augment=augment, callbacks=callbacks, verbose=verbose,
                   validation_batch_size=validation_batch_size or batch_size, checkpoint=checkpoint,
                   telemetry=telemetry)
        followed = any(isinstance(c, callbacks_module.LearningRateScheduler) for c in callbacks)
        warn_about_decay(self, epochs - initial_epoch, run.steps_per_epoch, fixed_rate=not followed, stacklevel=2)
        self.history = run.history
        return run(initial_epoch)

    def _choose_decay(self, x: Any, y: Any, **settings: Any) -> None:
        from .search.auto import choose

        self.search = choose(self, x, y, **settings)
        self._set_optimizer(self.optimizer.fresh(decay=self.search.one_se))

    def train_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, class_weight: Any = None, *,
                       return_dict: bool = False) -> Any:
        """One step on one batch. Returns the data loss, then the metrics (or a dict that adds `penalty`)."""
        self._require_compiled("train_on_batch")
        return self._on_batch(self._arrays(x, y, sample_weight, class_weight), True, return_dict)

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, *, return_dict: bool = False) -> Any:
        """The data loss and the metrics of one batch, in inference mode."""
        self._require_compiled("test_on_batch")
        return self._on_batch(self._arrays(x, y, sample_weight), False, return_dict)

    def _on_batch(self, arrays: Arrays, training: bool, return_dict: bool) -> Any:
        step = self._step(arrays, arrays.size, training=training, rows=False)
        flat = [*_as_fed(arrays.inputs), *arrays.labels, *([] if arrays.weights is None else [arrays.weights])]
        values = step.run(1, dict(zip(step.feeds, flat, strict=True)), seed=self._stream_seed)
        means = EpochMeans(step.finish)
        means.add(values, arrays.size)
        logs = means.means()
        return logs if return_dict else self._as_list(logs)

    def _as_list(self, logs: dict[str, float]) -> Any:
        """What Keras returns: the loss, those of several outputs, the metrics; one number by itself."""
        values = [v for name, v in logs.items() if name != "penalty" and name not in self.added_losses]
        return values[0] if len(values) == 1 else values

    @property
    def _stream_seed(self) -> int:
        """The key of random ops outside `fit`, drawn once per model from the global seed."""
        if not hasattr(self, "_drawn_seed"):
            self._drawn_seed = initializers.next_seed()
        return self._drawn_seed

    def _step(self, arrays: Arrays, batch: int, *, training: bool, rows: bool) -> DataStep:
        key = (training, rows, batch, arrays.signature)
        if key not in self._programs or self._programs[key].outdated:
            objective = Objective(self, arrays)
            fed = arrays if rows else Arrays(_as_fed(arrays.inputs), arrays.labels, arrays.weights)
            self._programs[key] = DataStep(self, objective, fed, batch, training=training, rows=rows)
        return self._programs[key]

    # ---- evaluate and predict ------------------------------------------------------------------------

    def evaluate(self, x: Any, y: Any = None, batch_size: int = 256, *, sample_weight: Any = None,
                 return_dict: bool = False, verbose: int | str = 0) -> Any:
        """The loss and the metrics over all samples, in inference mode: [loss, metric, …], or a dict of all parts.

        Keras' loss with regularisers is this one and `penalty()`.
        """
        self._require_compiled("evaluate")
        logs = self._evaluate(self._arrays(x, y, sample_weight), batch_size)
        if verbose in (1, 2):
            print("  ".join(f"{name} {value:.4g}" for name, value in logs.items()))
        return logs if return_dict else self._as_list(logs)

    def penalty(self) -> float:
        """What the regularisers of trained weights add to the loss, the weights as they are: Keras' sum(model.losses).

        >>> from wdfast import layers, models
        >>> model = models.Sequential([layers.Input((3,)), layers.Dense(2, "relu", bias_regularizer="l2")])
        >>> model.compile("sgd", "mse")
        >>> model.parameters[1].assign([1.0, 2.0])
        >>> model.penalty()
        0.05
        """
        return sum((float(p.regularizer(p.value)) for p in self.trained if p.regularizer is not None), start=0.0)

    def _evaluate(self, arrays: Arrays, batch_size: int,
                  step_for: Callable[[int], DataStep] | None = None) -> dict[str, float]:
        """step_for: gives the step of a batch size."""
        if step_for is None:
            objective = Objective(self, arrays)
            step_for = functools.cache(functools.partial(DataStep, self, objective, arrays, training=False, rows=True))
        means = None
        for index in _blocks(arrays, batch_size):
            step = step_for(index.shape[1])
            means = means or EpochMeans(step.finish)
            means.add(step.run(len(index), {step.index: index}), step.batch)
        return means.means()

    def predict(self, x: Any, batch_size: int = 256, *, verbose: int | str = 0) -> Any:
        """The outputs for all samples, in inference mode; one array, or a list for several outputs."""
        self._ensure_built(x)
        if isinstance(x, ImageStream):
            parts = self._predicted(Streamed(x, [], None, x.batch_size), batch_size)
        else:
            inputs = input_arrays(self, x)
            images = any(a.dtype == np.uint8 for a in inputs)  # are converted batch by batch, by an op
            parts = self._predicted(Arrays(inputs, []), batch_size) if images else self._fed(inputs, batch_size)
        if not parts:
            outputs = [np.empty((0, *(d or 0 for d in t.shape[1:])), t.dtype) for t in self.outputs]
        else:
            outputs = [np.concatenate(p) if len(p) > 1 else p[0] for p in zip(*parts, strict=True)]
        return outputs if self.many_outputs else outputs[0]

    def _predicted(self, arrays: Arrays, batch_size: int) -> list[list[np.ndarray]]:
        """The outputs, block by block, of batches that a program picks from the data."""
        steps: dict[int, DataStep] = {}
        parts = []
        for index in _blocks(arrays, batch_size):
            batch = index.shape[1]
            if batch not in steps:
                steps[batch] = DataStep(self, None, arrays, batch, training=False, rows=True, predict=True)
            parts.append(steps[batch].outputs_for(len(index), {steps[batch].index: index}))
        return parts

    def _fed(self, inputs: list[np.ndarray], batch_size: int) -> list[list[np.ndarray]]:
        """The outputs, block by block, of batches that are read where they lie."""
        parts = []
        for begin, steps, batch in _spans(len(inputs[0]), batch_size):
            fed = [a[begin : begin + steps * batch].reshape(steps, batch, *a.shape[1:]) for a in inputs]
            step = self._borrow_step(inputs, batch)
            parts.append(step.outputs_for(steps, dict(zip(step.feeds, fed, strict=True))))
            self._give_back(step)
        return parts

    def predict_on_batch(self, x: Any) -> Any:
        """The outputs for one batch, in inference mode; quicker than `predict` for small work."""
        self._ensure_built(x)
        inputs = _as_fed(input_arrays(self, x))
        step = self._borrow_step(inputs, len(inputs[0]))
        outputs = step.outputs_of(inputs)
        self._give_back(step)
        return outputs if self.many_outputs else outputs[0]

    def _borrow_step(self, inputs: list[np.ndarray], batch: int) -> DataStep:
        """A program for a batch of that size, for this thread alone until it gives it back."""
        step = self._programs.pop(("predict", batch), None)
        return step or DataStep(self, None, Arrays(inputs, []), batch, training=False, rows=False, predict=True)

    def _give_back(self, step: DataStep) -> None:
        """Keeps the program for a later prediction; the last few are kept."""
        if len(self._programs) >= _PREDICT_PROGRAMS:
            kept = [k for k in list(self._programs) if k[0] == "predict"]
            if len(kept) >= _PREDICT_PROGRAMS:
                self._programs.pop(kept[0], None)
        self._programs["predict", step.batch] = step  # the latest is the last

    def _inference_program(self, batch: int) -> GraphProgram:
        program = GraphProgram(batch, training=False, precision=self.precision)
        for tensor in self.inputs:
            program.feed(tensor)
        program.native.compile(program.emit(self.outputs))
        return program

    # ---- loops of one's own ---------------------------------------------------------------------------

    def vjp(self, x: Any) -> tuple[Any, Callable[[Any], Any]]:
        """Outputs in training mode, and the pullback: `pullback(dy)` returns dx and adds to the gradients.

        The gradients of the parameters (`p.grad` of `model.parameters`) grow until `zero_grad`;
        `optimizer.apply(model)` steps (what `fit` leaves in them is not defined: a large matrix steps without one).
        Several pullbacks may be alive at once. What layers add to the loss is in
        neither: `Model(inputs, [output, *model.added_losses.values()])` has it as outputs.

        >>> import numpy as np
        >>> from wdfast import layers, models
        >>> model = models.Sequential([layers.Input((3,)), layers.Dense(1, use_bias=False)])
        >>> y, pullback = model.vjp(np.ones((2, 3), np.float32))
        >>> pullback(np.ones_like(y)).shape
        (2, 3)
        >>> model.parameters[0].grad.ravel()
        array([2., 2., 2.], dtype=float32)
        """
        self._ensure_built(x)
        arrays = [np.array(a) for a in _as_fed(input_arrays(self, x))]  # the caller may overwrite x before the pullback
        batch = len(arrays[0])
        trained = tuple(p for p in self.parameters if p.moves)
        key = (batch, tuple(map(id, trained)))
        idle = self._idle_vjp.setdefault(key, [])
        step = idle.pop() if idle else VjpStep(self, trained, batch)
        self._vjp_count = getattr(self, "_vjp_count", -1) + 1
        outputs = step.forward(arrays, self._vjp_count, self._stream_seed)
        return outputs if self.many_outputs else outputs[0], Pullback(step, idle.append)

    def zero_grad(self) -> None:
        """Sets every parameter's gradient to zero."""
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad[...] = 0


def _as_fed(inputs: list[np.ndarray]) -> list[np.ndarray]:
    """uint8 images as float32: a batch that is fed directly passes no input op."""
    return [x.astype(np.float32) if x.dtype == np.uint8 else x for x in inputs]


def _spans(samples: int, batch_size: int) -> Iterator[tuple[int, int, int]]:
    """(first sample, steps, batch): full batches, then what is left."""
    if batch_size < 1:
        raise ValueError(f"argument 'batch_size': expected an int ≥ 1, got {batch_size}")
    done = 0
    while done < samples:
        batch = min(batch_size, samples - done)
        steps = (samples - done) // batch
        yield done, steps, batch
        done += steps * batch


def _blocks(arrays: Arrays, batch_size: int) -> Iterator[np.ndarray]:
    """The rows of all samples in their order, as (steps or fewer, batch) arrays: full batches, then what is left."""
    if isinstance(arrays, Streamed):
        batch_size = arrays.batch_size
    order = np.arange(arrays.size, dtype=np.int32)
    try:
        for begin, steps, batch in _spans(arrays.size, batch_size):
            end = begin + steps * batch
            while begin < end:
                index = arrays.stage(order, begin, (end - begin) // batch, batch)
                yield index
                begin += index.size
    finally:
        arrays.close()
