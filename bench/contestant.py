"""What runs in a contestant's process: one peer (or wdfast itself), one case at a time."""

from __future__ import annotations

import importlib
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from .nets import NETS, MaxPool, Shape, initial_weights, output_shape, random_batches
from .peers import MODULES, SEARCHES, AdamW, SearchCase

_TRIAL_STEPS = 30  # of an epoch
_TRIAL_SECONDS = 0.5
"""How long a variant is tried before the fastest is kept: enough to tell factors, not percents."""


def module_of(peer: str) -> Any:
    name = "..ours" if peer == "wdfast" else f".{MODULES[peer]}"
    return importlib.import_module(name, f"{__package__}.peers")


class StepContestant:
    """Whole training steps of one net."""

    def __init__(self, peer: str) -> None:
        self.kind = module_of(peer).Peer

    def open(self, net: str, batch: int, count: int, precision: str, threads: int, seed: int,
             compiled: bool) -> dict[str, Any]:
        """Builds every variant, keeps the fastest; says which, and how long the others took."""
        self.case = (NETS[net], batch, threads, precision, seed)
        self.data = random_batches(NETS[net], batch, count, seed)
        variants = self.kind.variants + (self.kind.compiled_variants if compiled else ())
        trials: dict[str, float] = {}
        self.best: Any = None
        for variant in variants:
            peer = self._build(AdamW(), variant, True)
            peer.load(*self.data)
            trials[variant] = peer.timed(_TRIAL_SECONDS)[0] if len(variants) > 1 else math.inf
            if self.best is None or trials[variant] <= min(trials.values()):
                self.best = peer
        return {"version": self.kind.version(), "variant": self.best.variant, "epsilon_hat": self.kind.epsilon_hat,
                "variants_ms": {v: 1e3 * s for v, s in trials.items() if math.isfinite(s)}}

    def _build(self, rule: AdamW, variant: str, kinks: bool) -> Any:
        net, batch, threads, precision, seed = self.case
        weights = initial_weights(net.layers, net.input_shape, seed, kinks)
        return self.kind(net, weights, batch, threads, precision, rule, variant)

    def prove(self, rule: AdamW, steps: int) -> tuple[list[np.ndarray], float]:
        """The weights and the last loss after `steps` steps from the common start."""
        peer = self._build(rule, self.best.variant, False)
        peer.load(*self.data)
        loss = peer.run(steps)
        return peer.weights(), loss

    def timed(self, seconds: float) -> tuple[float, int, float]:
        return self.best.timed(seconds)


def _peak_bytes() -> int:
    """The most memory that this process ever held. Not `ru_maxrss`, which after exec still has that of the parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/self/status has no VmHWM")


class FreshContestant:
    """The first steps of a process: `open` is called once, so that nothing is warm."""

    def __init__(self, peer: str) -> None:
        begin = time.perf_counter()
        self.kind = module_of(peer).Peer
        self.import_seconds = time.perf_counter() - begin

    def variants(self) -> tuple[str, ...]:
        return self.kind.variants

    def open(self, net: str, batch: int, threads: int, variant: str, seed: int, steps: int) -> dict[str, Any]:
        """The model is built and the data in memory before the clock starts; peak memory is that after `steps`."""
        layers, shape = NETS[net].layers, NETS[net].input_shape
        data = random_batches(NETS[net], batch, 1, seed)
        imported = _peak_bytes()
        peer = self.kind(NETS[net], initial_weights(layers, shape, seed), batch, threads, "highest", AdamW(), variant)
        peer.load(*data)
        begin = time.perf_counter()
        loss = peer.run(1)
        first = time.perf_counter() - begin
        peer.run(steps - 1)
        return {"import_ms": 1e3 * self.import_seconds, "first_ms": 1e3 * first, "loss": loss,
                "base_mb": imported / 1e6, "peak_mb": _peak_bytes() / 1e6, "version": self.kind.version()}


class PredictContestant:
    """Inference of one net, a batch a call."""

    def __init__(self, peer: str) -> None:
        self.kind = module_of(peer).Predictor

    def open(self, net: str, weights: list[np.ndarray], x: np.ndarray, threads: int, seconds: float) -> dict[str, Any]:
        """Builds every variant for batches x (count, batch, …) and keeps the fastest."""
        trials: dict[str, float] = {}
        self.best: Any = None
        for variant in self.kind.variants:
            made = self.kind(NETS[net], weights, x.shape[1], threads, variant=variant)
            made.load(x)
            trials[variant] = made.timed(seconds)[0]
            if trials[variant] <= min(trials.values()):
                self.best = made
        return {"version": self.kind.version(), "variant": self.best.variant,
                "variants_ms": {name: 1e3 * spent for name, spent in trials.items()}}

    def outputs(self, rows: np.ndarray) -> np.ndarray:
        return self.best.outputs()[rows]

    def timed(self, seconds: float) -> tuple[float, int, float]:
        return self.best.timed(seconds)


class SearchContestant:
    """A search for λ: every λ on every fold."""

    def __init__(self, peer: str) -> None:
        module, self.variant = SEARCHES[peer]
        self.kind = importlib.import_module(module, f"{__package__}.peers").Search

    def open(self, case: SearchCase, threads: int) -> dict[str, Any]:
        """What comes before the clock starts: imports, the data in memory, a fold of one λ for one epoch."""
        few = case._replace(lambdas=case.lambdas[:1], epochs=1, splits=case.splits[:2], halving=False)
        self.kind(few, threads, self.variant).run()
        self.search = self.kind(case, threads, self.variant)
        return {"version": self.kind.version(), "variant": self.search.variant}

    def run(self) -> tuple[float, dict[int, list[float]]]:
        """(seconds, accuracies of the folds by λ)."""
        begin = time.perf_counter()
        scores = self.search.run()
        return time.perf_counter() - begin, scores


class BlockContestant:
    """Forward and backward of a few layers, pass by pass."""

    def __init__(self, peer: str) -> None:
        self.kind = module_of(peer).Block

    def open(self, layers: tuple[Any, ...], shape: Shape, batch: int, threads: int, data_gradient: bool,
             apart: bool, seed: int) -> dict[str, Any]:
        self.best: Any = None  # frees the case before
        arguments = block_data(layers, shape, batch, seed)
        trials = {}
        for variant in self.kind.variants:
            block = self.kind(layers, *arguments, threads, variant, data_gradient, apart)
            trials[variant] = sum(_settled(block, _TRIAL_SECONDS / 2))
            if trials[variant] <= min(trials.values()):
                self.best = block
        return {"variant": self.best.variant}

    def results(self) -> Any:
        return self.best.results()

    def timed(self, seconds: float) -> tuple[float, ...]:
        return _settled(self.best, seconds)


class UpdateContestant:
    """Optimizer steps of one array."""

    def __init__(self, peer: str) -> None:
        self.kind = module_of(peer).Update

    def open(self, n: int, threads: int, rule: AdamW, seed: int) -> None:
        self.arguments = (*update_data(n, seed), threads, rule)
        self.timed_one = self.kind(*self.arguments)

    def results(self, steps: int) -> np.ndarray:
        update = self.kind(*self.arguments)
        update.run(steps)
        return update.value()

    def timed(self, seconds: float) -> tuple[float]:
        """Seconds a step, after an untimed one."""
        self.timed_one.run(1)
        steps, unit, begin = 0, 1, time.perf_counter()
        while True:
            self.timed_one.run(unit)
            steps += unit
            spent = time.perf_counter() - begin
            if spent >= seconds:
                return (spent / steps,)
            unit *= 2


def _settled(block: Any, seconds: float) -> tuple[float, ...]:
    """Mean seconds of each pass over about `seconds`, after an untimed pass."""
    block.seconds(1)
    begin = time.perf_counter()
    block.seconds(1)
    one = time.perf_counter() - begin
    return block.seconds(max(1, int(seconds / max(one, 1e-6))))


def block_data(layers: tuple[Any, ...], shape: Shape, batch: int, seed: int) -> tuple[Any, ...]:
    """(weights, x, dy), the same in every process.

    With a max pool x and the weights are multiples of powers of two: float32 adds them up without rounding, so that
    of millions of windows none has another winner in float64, whose gradient would go elsewhere.
    """
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, *shape), dtype=np.float32)
    dy = rng.standard_normal((batch, *output_shape(layers, shape)), dtype=np.float32)
    weights = initial_weights(layers, shape, seed)
    if any(isinstance(layer, MaxPool) for layer in layers):
        x = np.round(4 * x) / 4
        weights = [np.round(64 * w) / 64 for w in weights]
    return weights, x, dy


def update_data(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(p, g), the same in every process."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal(n, dtype=np.float32), rng.standard_normal(n, dtype=np.float32)


class EpochContestant:
    """Whole epochs of augmented uint8 images."""

    def __init__(self, peer: str) -> None:
        from .peers import EPOCHS

        self.kind = importlib.import_module(EPOCHS[peer], f"{__package__}.peers").Epoch

    def open(self, net: str, images: int, batch: int, crop: int, threads: int) -> dict[str, Any]:
        """Tries every variant for some steps and keeps the fastest."""
        data = epoch_data(NETS[net], images)
        trials: dict[str, float] = {}
        self.best: Any = None
        for variant in self.kind.variants:
            made = self.kind(NETS[net], data, batch, crop, threads, variant)
            if len(self.kind.variants) > 1:
                made.epoch(_TRIAL_STEPS)  # starts the workers
                trials[variant] = made.epoch(_TRIAL_STEPS)[0]
            if self.best is None or trials[variant] <= min(trials.values()):
                self.best = made
        return {"version": self.kind.version(), "variant": self.best.variant, "variants_s": trials}

    def augmented(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        return self.best.augmented(count)

    def epoch(self) -> tuple[float, float]:
        return self.best.epoch()


def epoch_data(net: Any, images: int, seed: int = 29) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images of noise about a colour of their class, and labels: a net that learns sees its loss fall."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, net.classes, images, dtype=np.int32)
    x = rng.integers(0, 192, (images, *net.input_shape), dtype=np.uint8)
    x += rng.integers(0, 64, (net.classes, 1, 1, net.input_shape[-1]), dtype=np.uint8)[y]
    return x, y
