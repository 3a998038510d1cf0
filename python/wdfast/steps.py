"""One training, evaluation or prediction step as a native Program: input pass → network → loss → update."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Container, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import metrics as metrics_module
from . import ops, regularizers, telemetry
from .graph import Parameter, Tensor
from .program import GraphProgram, signature

if TYPE_CHECKING:
    from .models import Model


_DTYPES = {name: np.dtype(name) for name in ("float32", "int32", "uint8", "float64", "uint16")}


@dataclass(frozen=True)
class Augment:
    """Random changes of training images, made in the input pass: the same for the same seed and step.

    flip: mirror left to right with probability ½. crop: pad by so many pixels (`crop_mode` "zero" or
    "reflect") and cut a random window of the old size. cutout: blank a random square of this side.

    mixup α: then sample i of n becomes λxᵢ + (1 − λ)x₍ₙ₋₁₋ᵢ₎, its loss λL(yᵢ) + (1 − λ)L(y₍ₙ₋₁₋ᵢ₎), λ the larger part
    of a draw from Beta(α, α) for each step (arXiv 1710.09412); any float input may be mixed, and metrics count the
    label of the larger part. Raises ValueError if α is negative or not finite.

    >>> from wdfast.steps import Augment
    >>> Augment(mixup=0.2).shares(seed=0, first=7, steps=2).round(3)
    array([1.   , 0.526], dtype=float32)
    """

    flip: bool = False
    crop: int = 0
    crop_mode: str = "zero"
    cutout: int = 0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.mixup < math.inf:
            raise ValueError(f"Augment: argument 'mixup': expected a finite number ≥ 0, got {self.mixup!r}")

    @property
    def of_images(self) -> dict[str, Any]:
        """What `ops.gather_images` is told."""
        return {name: value for name, value in asdict(self).items() if name != "mixup"}

    def check(self, inputs: Sequence[np.ndarray]) -> None:
        """Raises ValueError where `fit`'s arrays are not what it changes."""
        if (self.flip or self.crop or self.cutout or not self.mixup) and not any(a.ndim == 4 for a in inputs):
            raise ValueError("fit: argument 'augment': expected an image input (N, H, W, C)")
        if self.mixup and any(a.dtype == np.int32 for a in inputs):
            raise ValueError("fit: argument 'augment': mixup: expected float inputs, got integers")

    def shares(self, seed: int, first: int, steps: int) -> np.ndarray:
        """λ of mixup for each of `steps` steps; a function of the seed and the step's number alone."""
        draws = [np.random.default_rng([seed, step]).beta(self.mixup, self.mixup)
                 for step in range(first, first + steps)]
        return np.array([max(draw, 1 - draw) for draw in draws], np.float32)


@dataclass
class Arrays:
    """What a fit sees: one array per model input and per label, first axis the samples."""

    inputs: list[np.ndarray]
    labels: list[np.ndarray]
    weights: np.ndarray | None = None

    @property
    def size(self) -> int:
        return len(self.inputs[0])

    def rows(self, index: Any) -> Arrays:
        weights = None if self.weights is None else self.weights[index]
        return Arrays([x[index] for x in self.inputs], [y[index] for y in self.labels], weights)

    def stage(self, order: np.ndarray, done: int, steps: int, batch: int) -> np.ndarray:
        """The rows of the next batches of `order` after `done` samples: int32 (steps or fewer, batch)."""
        return order[done : done + steps * batch].reshape(steps, batch)

    def close(self) -> None:
        """Ends what works in the background, if anything does; it begins again when it is needed."""

    def described(self, rows: np.ndarray) -> list[np.ndarray]:
        """What tells these data from others: some samples, and all labels."""
        return [*(x[rows] for x in self.inputs), *self.labels, *([] if self.weights is None else [self.weights])]

    @property
    def signature(self) -> tuple[Any, ...]:
        """What a Program depends on besides the batch size."""
        return (*((x.dtype.str, x.shape[1:]) for x in (*self.inputs, *self.labels)),
                None if self.weights is None else self.weights.shape[1:])


class Part(Arrays):
    """Some samples of arrays that stay where they are: `index` says which."""

    def __init__(self, arrays: Arrays, index: np.ndarray) -> None:
        super().__init__(arrays.inputs, arrays.labels, arrays.weights)
        self.index = np.ascontiguousarray(index, np.int32)

    @property
    def size(self) -> int:
        return len(self.index)

    def rows(self, index: Any) -> Arrays:
        return Part(self, self.index[index])

    def stage(self, order: np.ndarray, done: int, steps: int, batch: int) -> np.ndarray:
        return self.index[super().stage(order, done, steps, batch)]

    def described(self, rows: np.ndarray) -> list[np.ndarray]:
        return [self.index, *super().described(self.index[rows])]


def _samples(name: str, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.ndim == 0:
        raise ValueError(f"argument '{name}': expected an array with the samples as its first axis, got a scalar")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"argument '{name}': expected numbers, got dtype {array.dtype}")
    return array


def _fits(shape: Sequence[int], want: Sequence[int | None]) -> bool:
    return shape == want or all(w in (None, n) for w, n in zip(want, shape, strict=True))


def _readable(array: np.ndarray) -> np.ndarray:
    """`array`, or a copy, as a native op reads it."""
    return array if array.flags.carray else np.require(array, requirements=["C", "A"])


def input_arrays(model: Model, x: Any) -> list[np.ndarray]:
    """`x` as one array per input: float32 (float64 is converted), int32, or uint8 images as they are."""
    if type(x) is np.ndarray and len(model.inputs) == 1:  # as most often: small work feels what is looked at below
        (tensor,) = model.inputs
        same = x.ndim == tensor.ndim and x.shape[1:] == tensor.shape[1:] and x.dtype == _DTYPES[tensor.dtype]
        if same and x.flags.carray:
            return [x]
    if isinstance(x, dict):
        names = [t.name for t in model.inputs]
        missing = [n for n in names if n not in x]
        if missing:
            raise ValueError(f"argument 'x': no entry for the inputs {missing}; there are {list(x)}")
        x = [x[n] for n in names]
    given = list(x) if isinstance(x, (list, tuple)) and len(model.inputs) > 1 else [x]
    if len(given) != len(model.inputs):
        raise ValueError(f"argument 'x': expected {len(model.inputs)} arrays, got {len(given)}")
    arrays = []
    for tensor, value in zip(model.inputs, given, strict=True):
        array = _samples("x", value)
        want = tensor.shape[1:]
        if array.ndim == len(want) and want[-1:] == (1,):  # (N, H, W) for (N, H, W, 1)
            array = array[..., None]
        if array.ndim != len(want) + 1 or not _fits(array.shape[1:], want):
            shape = ", ".join(["N", *map(str, want)])
            raise ValueError(f"argument 'x': expected ({shape}) {tensor.dtype}, got {array.shape} {array.dtype}")
        if not (array.dtype == np.uint8 and tensor.dtype == "float32" and array.ndim == 4):
            array = _converted("x", array, tensor.dtype)
        arrays.append(_readable(array))
    if len(arrays) > 1 and len({len(a) for a in arrays}) != 1:
        raise ValueError(f"argument 'x': the inputs have different numbers of samples: {[len(a) for a in arrays]}")
    return arrays


def label_arrays(model: Model, y: Any, samples: int) -> list[np.ndarray]:
    """`y` as one array per output that has a loss, in the dtype and shape its loss wants."""
    active = [(t, loss) for t, loss in zip(model.outputs, model.losses, strict=True) if loss is not None]
    arrays = []
    for (tensor, loss), value in zip(active, _labels_by_output(model, y), strict=True):
        array = _samples("y", value)
        if len(array) != samples:
            raise ValueError(f"argument 'y': expected {samples} samples as in 'x', got {len(array)}")
        classes = tensor.shape[-1]
        if loss.labels == "sparse":
            if array.ndim == tensor.ndim and array.shape[-1] == 1:
                array = array[..., 0]
            if array.ndim != tensor.ndim - 1:
                raise ValueError(
                    f"argument 'y': {type(loss).__name__}: expected integer labels with {tensor.ndim - 1} dimensions,"
                    f" got {array.shape} {array.dtype}"
                )
            if array.size and classes is not None and (array.min() < 0 or array.max() >= classes):
                got = f"{array.min()} to {array.max()}"
                raise ValueError(f"argument 'y': expected labels from 0 to {classes - 1}, got {got}")
        elif array.ndim == tensor.ndim - 1 and classes == 1:
            array = array[..., None]
        elif loss.labels == "same" and (array.ndim != tensor.ndim or not _fits(array.shape, tensor.shape)):
            shape = ("N", *tensor.shape[1:])
            raise ValueError(f"argument 'y': {type(loss).__name__}: expected shape {shape}, got {array.shape}")
        arrays.append(_readable(_converted("y", array, loss.label_dtype)))
    return arrays


def _labels_by_output(model: Model, y: Any) -> list[Any]:
    """The part of `y` for each output that has a loss; `y` may leave out those that have none."""
    active = [name for name, loss in zip(model.output_names, model.losses, strict=True) if loss is not None]
    if y is None:
        if active:
            raise ValueError(f"argument 'y': expected labels for the outputs {active}, got None")
        return []
    if isinstance(y, dict):
        missing = [name for name in active if name not in y]
        if missing:
            raise ValueError(f"argument 'y': no entry for the outputs {missing}; there are {list(y)}")
        return [y[name] for name in active]
    if not isinstance(y, (list, tuple)) or len(model.outputs) == 1:
        y = [y]
    if len(y) == len(model.outputs):
        y = [item for item, loss in zip(y, model.losses, strict=True) if loss is not None]
    if len(y) != len(active):
        raise ValueError(f"argument 'y': expected {len(active)} arrays, got {len(y)}")
    return list(y)


def _converted(argument: str, array: np.ndarray, dtype: str) -> np.ndarray:
    """`array` in this dtype. Raises ValueError where integers were expected and the numbers are none."""
    if dtype == "float32" or not array.size:
        return array.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    if not (array.min() >= limits.min and array.max() <= limits.max) or (array.astype(dtype) != array).any():
        raise ValueError(f"argument '{argument}': expected whole numbers that fit in {dtype}, got {array.dtype} values "
                         f"from {array.min()} to {array.max()}")
    return array.astype(dtype, copy=False)


def sample_weights(samples: int, sample_weight: Any) -> np.ndarray | None:
    """One float32 weight per sample, or per value of the loss (a pixel, a step), or None."""
    if sample_weight is None:
        return None
    weights = np.asarray(sample_weight, np.float32)
    weights = weights.reshape(-1) if weights.size == samples else weights  # (N, 1) among others
    if len(weights) != samples:
        raise ValueError(f"argument 'sample_weight': expected {samples} weights, got {len(weights)}")
    if not np.isfinite(weights).all():
        raise ValueError("argument 'sample_weight': expected finite numbers")
    return np.require(weights, requirements=["C", "A"])


def with_class_weight(arrays: Arrays, class_weight: dict[int, float] | None) -> Arrays:
    """`arrays` whose sample weights are multiplied by those of their classes; a class not named has 1.

    Labels of pixels or steps have a weight each.
    """
    if class_weight is None:
        return arrays
    if len(arrays.labels) != 1:
        raise ValueError("argument 'class_weight': works for a model with one output")
    y = arrays.labels[0]
    numbers = y.ndim == 1 or y.dtype == np.int32  # what is not class numbers is one-hot, or 0 and 1
    classes = y if numbers else np.argmax(y, axis=-1) if y.shape[-1] > 1 else y[..., 0]
    table = {int(k): float(v) for k, v in class_weight.items()}
    if not all(math.isfinite(v) for v in table.values()):
        raise ValueError(f"argument 'class_weight': expected finite numbers, got {class_weight}")
    known, index = np.unique(classes, return_inverse=True)
    weights = np.array([table.get(int(c), 1.0) for c in known], np.float32)[index.reshape(classes.shape)]
    if arrays.weights is not None:
        given = arrays.weights
        weights = weights * given.reshape(*given.shape, *[1] * (weights.ndim - given.ndim))
    return replace(arrays, weights=weights)


def unused(name: str, names: Container[str]) -> str:
    """`name`, or if it is among `names`, with the first number that makes it another."""
    if name not in names:
        return name
    return next(f"{name}_{k}" for k in itertools.count(1) if f"{name}_{k}" not in names)


def _symbolic_labels(arrays: Arrays) -> tuple[list[Tensor], Tensor | None]:
    """Labels and sample weights of a batch, as tensors that are given their values later."""
    labels = [Tensor((None, *y.shape[1:]), str(y.dtype)) for y in arrays.labels]
    return labels, None if arrays.weights is None else Tensor((None, *arrays.weights.shape[1:]))


class Objective:
    """The loss and the metrics of a compiled model: symbolic scalars, or the sums that `finish` makes a metric of.

    With `mixed`, `share` is λ of mixup and `partners` holds labels and weights of the sample that each is mixed with.
    """

    def __init__(self, model: Model, arrays: Arrays, *, mixed: bool = False) -> None:
        self.inputs = model.inputs
        self.labels, self.weights = _symbolic_labels(arrays)
        self.share = Tensor(()) if mixed else None
        self.partners = _symbolic_labels(arrays) if mixed else ([], None)
        labels, partners = iter(self.labels), iter(self.partners[0])
        many = len(model.outputs) > 1
        terms: list[Any] = []
        self.scalars: dict[str, Tensor] = {}
        self.finish: dict[str, Callable[[np.ndarray], Any]] = {}
        measured: dict[str, Tensor] = {}
        for name, output, mask, loss, factor, wanted in zip(
                model.output_names, model.outputs, model.masks, model.losses, model.loss_weights, model.metrics_wanted,
                strict=True):
            if loss is None:
                continue
            label = next(labels)
            masked = {} if mask is None else {"mask": mask}  # a loss of one's own may not take it
            term = loss(label, output, sample_weight=self.weights, **masked)
            if self.share is not None:
                other = loss(next(partners), output, sample_weight=self.partners[1], **masked)
                term = ops.add(other, ops.multiply(self.share, ops.subtract(term, other)))
            terms.append(term if factor == 1 else ops.multiply(term, factor))
            prefix = f"{name}_" if many else ""
            if many:
                self.scalars[f"{name}_loss"] = term
            for item in wanted:
                metric = metrics_module.get(item, loss=loss, output_shape=output.shape)
                key = unused(prefix + metric.name, measured)
                measured[key], finish = metric.measured(label, output, mask)
                if finish is not None:
                    self.finish[key] = finish
        terms += model.added_losses.values()
        self.scalars |= model.added_losses
        if not terms:
            raise ValueError(f"Model '{model.name}': compile(loss=…) has to name a loss before training or evaluation")
        total = terms[0]
        for term in terms[1:]:
            total = ops.add(total, term)
        self.total = total
        self.scalars |= measured
        self._weights = model.parameters

    @functools.cached_property
    def signature(self) -> Any:
        """What it computes, as `program.signature` tells it."""
        fed = [*self.inputs, *self.labels, self.weights, self.share, *self.partners[0], self.partners[1]]
        return signature([self.total, *self.scalars.values()], [*(t for t in fed if t is not None), *self._weights])


def _feed_inputs(program: GraphProgram, tensors: Sequence[Tensor], arrays: Sequence[np.ndarray], rows: bool,
                 index: int, augment: Augment | None) -> list[int]:
    """Lets each tensor be a row-gather of its array (bound once), or a feed of its own."""
    feeds = []
    native = program.native
    for tensor, array in zip(tensors, arrays, strict=True):
        if rows:
            image = array.ndim == 4 and tensor.dtype == "float32" and (array.dtype == np.uint8 or augment is not None)
            source, op, attrs = native.bind(array), "gather_rows", {}
            if image:
                op, attrs = "gather_images", {"scale": 1.0, **(augment or Augment()).of_images}
            inputs = [source, index, -1, -1] if image else [source, index]
            program.assign(tensor, native.op(op, inputs, attrs)[0])
        else:
            feeds.append(program.feed(tensor))
    return feeds


def _mix(program: GraphProgram, objective: Objective) -> None:
    """Mixup: each float input becomes a mixture with that of the batch in reverse, which gives the partners too."""
    program.feed(objective.share)
    backwards = program.id(np.arange(program.batch, dtype=np.int32)[::-1].copy())

    def reverse(tensor: Tensor) -> int:
        return program.native.op("gather_rows", [program.id(tensor), backwards], {})[0]

    for tensor in objective.inputs:
        own, other = Tensor(tensor.shape), Tensor(tensor.shape)
        program.assign(own, program.id(tensor))
        program.assign(other, reverse(tensor))
        mixed = ops.add(other, ops.multiply(objective.share, ops.subtract(own, other)))
        program.assign(tensor, program.emit([mixed])[0])
    labels, weights = objective.partners
    for own, other in [*zip(objective.labels, labels, strict=True), (objective.weights, weights)]:
        if other is not None:
            program.assign(other, reverse(own))


class DataStep:
    """A Program over one batch of data: with `rows`, the batch is picked from bound arrays by an index feed.

    telemetry: whether a step also returns what `telemetry.measure` makes of the optimizer's statistics.
    """

    def __init__(self, model: Model, objective: Objective | None, arrays: Arrays, batch: int, *, training: bool,
                 rows: bool, augment: Augment | None = None, predict: bool = False, telemetry: bool = False) -> None:
        self.model = model
        self.batch = batch
        self.rows = rows
        trained = model.trained if training else []
        program = GraphProgram(batch, training=training, trained=[*trained, *model.moving],
                               precision=model.precision, by_factors=training)
        native = self.native = program.native
        self.index = native.feed([batch], "int32") if rows else -1
        self.augment, self.share = augment, -1
        self.telemetry = telemetry
        self.feeds = _feed_inputs(program, model.inputs, arrays.inputs, rows, self.index, augment)
        outputs = list(model.outputs) if predict else []
        self.names: list[str] = []
        self.finish = {} if objective is None else objective.finish
        if objective is not None:
            extra = [*objective.labels, *([objective.weights] if objective.weights is not None else [])]
            values = [*arrays.labels, *([arrays.weights] if arrays.weights is not None else [])]
            self.feeds += _feed_inputs(program, extra, values, rows, self.index, None)
            if objective.share is not None:
                _mix(program, objective)
                self.share = program.id(objective.share)
            outputs += [objective.total, *objective.scalars.values()]
            self.names = ["loss", *objective.scalars]
        added = regularizers.penalty(trained)
        if added is not None:
            outputs.append(added)
            self.names.append("penalty")
        ids = program.emit(outputs)
        self.outputs = ids[: len(model.outputs)] if predict else []
        self.scalars = ids[len(self.outputs) :]
        self.hyper = -1
        self.stats: list[int] = []
        if training:
            minimised = [self.scalars[0], *(self.scalars[-1:] if added is not None else [])]
            received = set(native.differentiate([(i, -1) for i in minimised]))
            stepped = program.reached(model.trained, received)
            self.plan = model.optimizer.plan(stepped)
            self.hyper, self.stats = self.plan.append(native, measured=telemetry, factors=program.factors())
            self._stepped = [at for at, p in enumerate(model.parameters) if any(p is other for other in stepped)]
        native.compile([*ids, *self.stats])
        self.computes: Any = None  # what `_programs` knows it by
        self._weights = program.weights(model.parameters)
        self._specs = {i: native.spec(i) for i in (*ids, *self.stats)}

    def leave(self) -> bool:
        """Parts from its model; False where no other can adopt it."""
        self.model = None
        if self.hyper >= 0:
            self._appended, self.plan = self.plan.appended, None
        return self.hyper < 0 or self._appended is not None

    def adopt(self, model: Model, objective: Objective) -> bool:
        """Becomes the step of another model, of which all is the same but the numbers; False if it cannot."""
        if self.hyper >= 0:
            self.plan = model.optimizer.plan([model.parameters[at] for at in self._stepped])
            if not self.plan.take_over(self._appended, self.native):
                return False
        for at, tensor, trained in self._weights:
            p = model.parameters[at]
            self.native.rebind(tensor, p.value, p.grad if trained else None)
        self.model, self.names, self.finish = model, ["loss", *objective.scalars], objective.finish
        return True

    @property
    def outdated(self) -> bool:
        """Whether the optimizer's state lies elsewhere since: it was given further parameters."""
        return self.hyper >= 0 and self.plan.outdated

    def _rows(self, steps: int, tensors: Sequence[int]) -> dict[int, np.ndarray]:
        """Room for what each of `tensors` is at each step."""
        room = {}
        for i in tensors:
            shape, dtype = self._specs[i]
            room[i] = np.empty((steps, *shape), dtype)
        return room

    def run(self, steps: int, feeds: dict[int, np.ndarray], *, seed: int = 0,
            seconds: Any = None) -> dict[str, np.ndarray]:
        """Runs `steps` steps; returns each scalar (or the sums of a metric) per step.

        When it trains also `penalty`, and what telemetry adds.
        """
        first = self.model.optimizer.iterations if self.hyper >= 0 else 0
        results = self._rows(steps, [*self.scalars, *self.stats])
        if self.hyper >= 0:
            feeds = {**feeds, self.hyper: self.plan.hyper(first, steps)}
        if self.share >= 0:
            feeds = {**feeds, self.share: self.augment.shares(seed, first, steps)}
        # A scalar that is named twice (loss and metric the same tensor) has one id; results are per id.
        self.native.run(steps, feeds, results, first_step=first, seed=seed, threads=self.model.threads,
                        seconds=seconds)
        values = {name: results[i] for name, i in zip(self.names, self.scalars, strict=True)}
        if self.hyper >= 0:
            self.model.optimizer.iterations = first + steps
            statistics = [results[i] for i in self.stats]
            penalty = self.plan.penalty(statistics, feeds[self.hyper])
            values["penalty"] = np.full(steps, penalty) + values.get("penalty", 0.0)  # 0 where nothing trains
            if self.telemetry:
                values |= telemetry.measure(self.plan, statistics, feeds[self.hyper])
        return values

    def outputs_of(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Runs one prediction step; returns each output."""
        return self.native.evaluate(self.feeds, inputs, self.outputs)

    def outputs_for(self, steps: int, feeds: dict[int, np.ndarray]) -> list[np.ndarray]:
        """Runs `steps` prediction steps; returns each output with the batches joined."""
        results = self._rows(steps, self.outputs)
        self.native.run(steps, feeds, results)
        return [results[i].reshape(-1, *results[i].shape[2:]) for i in self.outputs]


class Pullback:
    """The second half of `Model.vjp`: call it with the outputs' gradient. Adds to the parameters' `.grad`."""

    def __init__(self, step: VjpStep, release: Callable[[VjpStep], None]) -> None:
        self._step = step
        self._release = release

    def __call__(self, dy: Any) -> Any:
        """Returns the gradient of the model's input(s)."""
        return self._step.backward(dy)

    def __del__(self) -> None:
        self._release(self._step)


class VjpStep:
    """A Program in two parts: forward, then (whenever asked) backward from given output gradients."""

    def __init__(self, model: Model, trained: Sequence[Parameter], batch: int) -> None:
        self.model = model
        program = GraphProgram(batch, training=True, trained=trained, precision=model.precision)
        native = self.native = program.native
        self._program = program
        self.inputs = [program.feed(t, needs_grad=t.dtype == "float32") for t in model.inputs]
        self.outputs = program.emit(model.outputs)
        self.seeds = [native.feed(*native.spec(i)) for i in self.outputs]
        received = native.differentiate(list(zip(self.outputs, self.seeds, strict=True)), accumulate=True)
        self.gradients = [native.grad_of(i) if i in received else -1 for i in self.inputs]
        native.compile([*self.outputs, *(g for g in self.gradients if g >= 0)], repeat=True)

    def forward(self, arrays: list[np.ndarray], step: int, seed: int) -> list[np.ndarray]:
        self._key = {"first_step": step, "seed": seed}
        self.native.run(1, dict(zip(self.inputs, arrays, strict=True)), {}, part=0, **self._key)
        return [self.native.read(i) for i in self.outputs]

    def backward(self, dy: Any) -> Any:
        given = list(dy) if isinstance(dy, (list, tuple)) else [dy]
        feeds = {}
        for i, gradient in zip(self.seeds, given, strict=True):
            shape = tuple(self.native.spec(i)[0])
            array = ops.as_array("pullback", "dy", gradient)
            if array.shape != shape:
                raise ValueError(f"pullback: argument 'dy': expected shape {shape}, got {array.shape}")
            feeds[i] = array
        self.native.run(1, feeds, {}, part=1, **self._key)
        results = [self.native.read(g) if g >= 0 else None for g in self.gradients]
        return results if len(results) > 1 else results[0]
