"""How weights begin: Keras' names, arguments and variances; drawn from Philox, so a seed fixes every bit.

`set_seed(n)` fixes all initializers that have no seed of their own; without it they start from entropy.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np

from ._config import config_of

__all__ = [
    "Constant", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "Identity", "Initializer",
    "LecunNormal", "LecunUniform", "Ones", "Orthogonal", "RandomNormal", "RandomUniform", "TruncatedNormal",
    "VarianceScaling", "Zeros", "fans", "get", "seeded", "set_seed",
]

# The standard deviation of a standard normal that is redrawn outside ±2.
_TRUNCATED_STDDEV = 0.87962566103423978
_DRAWN_AT_ONCE = 1 << 20


class _Seeds:
    """The seeds of everything that was given none: children of one root, in the order they are asked for."""

    root: Any = None
    within: ContextVar[Any] = ContextVar("wdfast_seeds", default=None)  # the root inside `seeded`, of this thread

    @classmethod
    def next(cls) -> Any:
        within = cls.within.get()
        if within is not None:
            return within.spawn(1)[0]
        if cls.root is None:
            cls.root = np.random.SeedSequence()
        return cls.root.spawn(1)[0]


def set_seed(seed: int) -> None:
    """Fixes the weights that layers made from now on begin with, and what eager random layers draw.

    >>> from wdfast import initializers
    >>> initializers.set_seed(7); a = initializers.get("he_normal")((3, 3))
    >>> initializers.set_seed(7); b = initializers.get("he_normal")((3, 3))
    >>> bool((a == b).all())
    True
    """
    if _Seeds.within.get() is None:
        _Seeds.root = np.random.SeedSequence(seed)
    else:
        _Seeds.within.set(np.random.SeedSequence(seed))


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """`set_seed` for the block and this thread alone; afterwards the sequence goes on as if nothing had been drawn.

    >>> from wdfast import initializers
    >>> with initializers.seeded(7):
    ...     a = initializers.get("he_normal")((3, 3))
    >>> initializers.set_seed(7); bool((a == initializers.get("he_normal")((3, 3))).all())
    True
    """
    token = _Seeds.within.set(np.random.SeedSequence(seed))
    try:
        yield
    finally:
        _Seeds.within.reset(token)


def next_seed() -> int:
    """A fresh 32-bit seed from the sequence that `set_seed` starts."""
    return int(_Seeds.next().generate_state(1)[0])


def fans(shape: Sequence[int]) -> tuple[float, float]:
    """(fan_in, fan_out) as Keras counts them: the last two axes, each times the receptive field before them.

    >>> from wdfast import initializers
    >>> initializers.fans((3, 3, 16, 32))
    (144, 288)
    """
    if len(shape) < 2:
        n = shape[0] if shape else 1
        return n, n
    receptive = math.prod(shape[:-2])
    return shape[-2] * receptive, shape[-1] * receptive


class Initializer:
    """Base: a callable from a shape to a float32 array. Subclasses keep their arguments as attributes."""

    def __call__(self, shape: Sequence[int]) -> np.ndarray:
        raise TypeError(f"{type(self).__name__}: an initializer must define __call__(self, shape)")

    def get_config(self) -> dict[str, Any]:
        """The keyword arguments that make this initializer again."""
        return config_of(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.get_config().items())})"


class Zeros(Initializer):
    """All 0."""

    def __call__(self, shape: Sequence[int]) -> np.ndarray:
        return np.zeros(shape, np.float32)


class Ones(Initializer):
    """All 1."""

    def __call__(self, shape: Sequence[int]) -> np.ndarray:
        return np.ones(shape, np.float32)


class Constant(Initializer):
    """All `value`, or an array that broadcasts to the shape."""

    def __init__(self, value: Any = 0.0) -> None:
        self.value = value

    def __call__(self, shape: Sequence[int]) -> np.ndarray:
        return np.array(np.broadcast_to(np.asarray(self.value, np.float32), shape))


class _Random(Initializer):
    """A fixed `seed` gives the same values on every call; None draws new ones each time."""

    seed: int | None

    def generator(self) -> Any:
        seed = _Seeds.next() if self.seed is None else self.seed
        return np.random.Generator(np.random.Philox(seed))


def _drawn(draw: Callable[[int], np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """`draw(n)` as float32, as if drawn at once: what is drawn in float64 takes little memory beside it."""
    values = np.empty(tuple(shape), np.float32)
    flat = values.reshape(-1)
    for begin in range(0, flat.size, _DRAWN_AT_ONCE):
        part = flat[begin : begin + _DRAWN_AT_ONCE]
        part[...] = draw(part.size)
    return values


def _truncated_normal(generator: Any, shape: Sequence[int], mean: float, stddev: float) -> np.ndarray:
    values = generator.standard_normal(tuple(shape))
    while (outside := np.abs(values) > 2).any():
        values[outside] = generator.standard_normal(int(outside.sum()))
    return (mean + stddev * values).astype(np.float32)


class RandomNormal(_Random):
    """Normal with `mean` and `stddev`."""

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: int | None = None) -> None:
        self.mean, self.stddev, self.seed = mean, stddev, seed

    def __call__(self, shape: Sequence[int]) -> np.ndarray:
        generator = self.generator()
        return _drawn(lambda n: generator.normal(self.mean, self.stddev, n), shape)


class RandomUniform(_Random):
    """Uniform in [minval, maxval)."""

    def __init__(self, minval: float = -0.05, maxval: float = 0.05, seed: int | None = None) -> None:
        self.minval, self.maxval, self.seed = minval, maxval, seed

    def __call__(self, shape: Sequence[int]) -> np.ndarray:
        generator = self.generator()
        return _drawn(lambda n: generator.uniform(self.minval, self.maxval, n), shape)


class TruncatedNormal(_Random):
    """Normal, redrawn where it is more than 2 `stddev` from `mean`."""

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: int | None = None) -> None:
        self.mean, self.stddev, self.seed = mean, stddev, seed

    def __call__(self, shape: Sequence[int]) -> np.ndarray:
        return _truncated_normal(self.generator(), shape, self.mean, self.stddev)


class VarianceScaling(_Random):
    """Variance scale/fan, so that signals neither grow nor fade with depth.

    mode: "fan_in", "fan_out" or "fan_avg". distribution: "truncated_normal" (its variance corrected for the
    cut), "untruncated_normal" or "uniform". Raises ValueError for others, and for a scale ≤ 0.

    >>> from wdfast import initializers
    >>> w = initializers.VarianceScaling(2.0, "fan_in", "uniform", seed=0)((100, 50))
    >>> bool(abs(w).max() <= (3 * 2.0 / 100) ** 0.5)
    True
    """

    def __init__(self, scale: float = 1.0, mode: str = "fan_in", distribution: str = "truncated_normal",
                 seed: int | None = None) -> None:
        if scale <= 0:
            raise ValueError(f"VarianceScaling: argument 'scale': expected a number > 0, got {scale!r}")
        if mode not in ("fan_in", "fan_out", "fan_avg"):
            raise ValueError(
                f"VarianceScaling: argument 'mode': expected fan_in, fan_out or fan_avg, got {mode!r}"
            )
        if distribution not in ("truncated_normal", "untruncated_normal", "uniform"):
            raise ValueError(
                "VarianceScaling: argument 'distribution': expected truncated_normal, untruncated_normal or "
                f"uniform, got {distribution!r}"
            )
        self.scale, self.mode, self.distribution, self.seed = scale, mode, distribution, seed

    def __call__(self, shape: Sequence[int]) -> np.ndarray:
        fan_in, fan_out = fans(shape)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        variance, generator = self.scale / max(1.0, fan), self.generator()
        if self.distribution == "uniform":
            limit = math.sqrt(3 * variance)
            return _drawn(lambda n: generator.uniform(-limit, limit, n), shape)
        if self.distribution == "truncated_normal":
            return _truncated_normal(generator, shape, 0.0, math.sqrt(variance) / _TRUNCATED_STDDEV)
        return _drawn(lambda n: generator.normal(0.0, math.sqrt(variance), n), shape)


class GlorotUniform(VarianceScaling):
    """Uniform in ±√(6/(fan_in+fan_out)). Glorot & Bengio, AISTATS 2010."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(1.0, "fan_avg", "uniform", seed)


class GlorotNormal(VarianceScaling):
    """Truncated normal of variance 2/(fan_in+fan_out). Glorot & Bengio, AISTATS 2010."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(1.0, "fan_avg", "truncated_normal", seed)


class HeUniform(VarianceScaling):
    """Uniform in ±√(6/fan_in), for relu. arXiv 1502.01852."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(2.0, "fan_in", "uniform", seed)


class HeNormal(VarianceScaling):
    """Truncated normal of variance 2/fan_in, for relu. arXiv 1502.01852."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(2.0, "fan_in", "truncated_normal", seed)


class LecunUniform(VarianceScaling):
    """Uniform in ±√(3/fan_in). LeCun et al., Efficient BackProp, 1998."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(1.0, "fan_in", "uniform", seed)


class LecunNormal(VarianceScaling):
    """Truncated normal of variance 1/fan_in. LeCun et al., Efficient BackProp, 1998."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(1.0, "fan_in", "truncated_normal", seed)


class Orthogonal(_Random):
    """`gain` times an orthogonal matrix, over all leading axes × the last. arXiv 1312.6120."""

    def __init__(self, gain: float = 1.0, seed: int | None = None) -> None:
        self.gain, self.seed = gain, seed

    def __call__(self, shape: Sequence[int]) -> np.ndarray:
        if len(shape) < 2:
            raise ValueError(f"Orthogonal: argument 'shape': expected at least 2 axes, got {tuple(shape)}")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        normal = self.generator().standard_normal((max(rows, columns), min(rows, columns)))
        q, r = np.linalg.qr(normal)
        q *= np.sign(np.diag(r))  # without it the distribution would not be uniform (math-ph/0609050)
        q = q.T if rows < columns else q
        return (self.gain * q).reshape(tuple(shape)).astype(np.float32)


class Identity(Initializer):
    """`gain` times the identity matrix; for two axes only."""

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain

    def __call__(self, shape: Sequence[int]) -> np.ndarray:
        if len(shape) != 2:
            raise ValueError(f"Identity: argument 'shape': expected 2 axes, got {tuple(shape)}")
        return (self.gain * np.eye(*shape)).astype(np.float32)


_NAMES: dict[str, type[Initializer]] = {
    "zeros": Zeros, "zero": Zeros, "ones": Ones, "one": Ones, "constant": Constant,
    "random_normal": RandomNormal, "normal": RandomNormal,
    "random_uniform": RandomUniform, "uniform": RandomUniform,
    "truncated_normal": TruncatedNormal,
    "variance_scaling": VarianceScaling, "glorot_uniform": GlorotUniform, "glorot_normal": GlorotNormal,
    "he_uniform": HeUniform, "he_normal": HeNormal, "lecun_uniform": LecunUniform, "lecun_normal": LecunNormal,
    "orthogonal": Orthogonal, "OrthogonalInitializer": Orthogonal,
    "identity": Identity, "IdentityInitializer": Identity,
}
_CLASSES = {cls.__name__: cls for cls in _NAMES.values()}


def get(identifier: Any) -> Callable[[Sequence[int]], np.ndarray]:
    """An initializer from its name ("he_normal", "HeNormal"), config, class, or a callable shape → array.

    Raises ValueError for an unknown name.
    """
    name, config = identifier, {}
    if isinstance(identifier, dict):
        name, config = identifier.get("class_name"), identifier.get("config", {})
    if isinstance(name, str):
        cls = _NAMES.get(name) or _CLASSES.get(name)
        if cls is None:
            raise ValueError(f"initializer: expected one of {sorted(_NAMES)}, got {name!r}")
        return cls(**config)
    if isinstance(identifier, type) and issubclass(identifier, Initializer):
        return identifier()
    if callable(identifier):
        return identifier
    raise ValueError(f"initializer: expected a name, a config or a callable, got {identifier!r}")
