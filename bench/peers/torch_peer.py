"""PyTorch on the CPU: eager, in both layouts (and compiled, if asked for), fused AdamW."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ..nets import (
    BatchNorm,
    Conv,
    CrossEntropy,
    Dense,
    Flatten,
    GlobalAveragePool,
    MaxPool,
    Recurrent,
    Relu,
    Residual,
    Shape,
    layer_output,
    weights_of,
)
from . import Block as BlockBase
from . import Peer as PeerBase
from . import Predictor as PredictorBase
from . import Update as UpdateBase
from .numpy_peer import same_padding


class _Add(nn.Module):
    def __init__(self, main: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.main, self.shortcut = main, shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.main(x) + self.shortcut(x)


class _FlattenHwc(nn.Module):
    """Free in channels_last, where memory already has this order."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


class _GlobalAverage(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


class _Recurrent(nn.Module):
    """All outputs of nn.RNN, nn.GRU or nn.LSTM. Their second bias only the GRU needs."""

    def __init__(self, cell: str, features: int, units: int) -> None:
        super().__init__()
        kind = {"SimpleRNN": nn.RNN, "GRU": nn.GRU, "LSTM": nn.LSTM}[cell]
        self.module, self.cell, self.units = kind(features, units, batch_first=True), cell, units
        if cell != "GRU":
            nn.init.zeros_(self.module.bias_hh_l0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x)[0]

    def gates(self, of: Callable[[Any], Any]) -> Iterator[list[torch.Tensor]]:
        """The gates of the weights, in Keras' order: the GRU has r before z."""
        order = [1, 0, 2] if self.cell == "GRU" else range(len(self.module.bias_ih_l0) // self.units)
        biases = ["bias_ih_l0", "bias_hh_l0"] if self.cell == "GRU" else ["bias_ih_l0"]
        for names in (["weight_ih_l0"], ["weight_hh_l0"], biases):
            whole = [of(getattr(self.module, name)) for name in names]
            parts = [[w[k * self.units : (k + 1) * self.units].t() for k in order] for w in whole]
            yield parts[0] if len(parts) == 1 else [*parts[0], *parts[1]]


class _CrossEntropy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.labels = torch.zeros(0, dtype=torch.int64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(self.labels) != len(x):
            self.labels = torch.arange(len(x)) % x.shape[1]
        return functional.cross_entropy(x, self.labels, reduction="none")


class Network:
    """The module of a sequence of layers, and the way of its weights from and to Keras' shapes."""

    def __init__(self, layers: tuple[Any, ...], shape: Shape, weights: list[np.ndarray], variant: str) -> None:
        self.channels_last = variant.startswith("channels_last")
        self.weighted: list[tuple[nn.Module, Shape]] = []  # with the (H, W, C) that was flattened before, or ()
        self.module = self._sequence(layers, shape)
        if self.channels_last:
            self.module = self.module.to(memory_format=torch.channels_last)
        self.module.train()
        self.declared = weights_of(layers, shape)
        for target, value in zip(self._views(), weights, strict=True):
            gates = target if isinstance(target, list) else [target]
            parts = np.split(value.reshape(*value.shape[: gates[0].ndim - 1], -1), len(gates), axis=-1)
            for gate, part in zip(gates, parts, strict=True):
                gate.copy_(torch.from_numpy(part).reshape(gate.shape))

    def _sequence(self, layers: tuple[Any, ...], shape: Shape) -> nn.Sequential:
        modules: list[nn.Module] = []
        flattened: Shape = ()
        for layer in layers:
            modules += self._modules(layer, shape, flattened)
            if isinstance(layer, Flatten):
                flattened = () if self.channels_last else shape
            elif isinstance(layer, Dense):
                flattened = ()
            shape = layer_output(layer, shape)
        return nn.Sequential(*modules)

    def _modules(self, layer: Any, shape: Shape, flattened: Shape) -> list[nn.Module]:
        made: list[nn.Module] = []
        match layer:
            case Conv(filters, kernel, stride, padding, bias, groups):
                sides = [same_padding(size, kernel, stride) if padding == "same" else (0, 0) for size in shape[:2]]
                even = all(before == after for before, after in sides)
                if not even:  # torch pads both ends alike
                    made.append(nn.ZeroPad2d((*sides[1], *sides[0])))
                pads = [before if even else 0 for before, _ in sides]
                made.append(nn.Conv2d(shape[-1], filters, kernel, stride, pads, groups=groups, bias=bias))
            case Dense(units):
                made.append(nn.Linear(shape[-1], units))
            case Recurrent(cell, units):
                made.append(_Recurrent(cell, shape[-1], units))
            case BatchNorm(momentum, epsilon):
                made.append(nn.BatchNorm2d(shape[-1], epsilon, 1 - momentum))
            case Relu():
                made.append(nn.ReLU())
            case MaxPool(size):
                made.append(nn.MaxPool2d(size))
            case GlobalAveragePool():
                made.append(_GlobalAverage())
            case Flatten():
                made.append(_FlattenHwc() if self.channels_last else nn.Flatten())
            case CrossEntropy():
                made.append(_CrossEntropy())
            case Residual(main, shortcut):
                made.append(_Add(self._sequence(main, shape), self._sequence(shortcut, shape)))
        if isinstance(layer, (Conv, Dense, Recurrent, BatchNorm)):
            self.weighted.append((made[-1], flattened))
        return made

    def _views(self, of: Callable[[Any], Any] = lambda p: p.detach()) -> Iterator[Any]:
        """The weights (or `of` them: their gradients) in the order of `bench.nets`, seen in Keras' shapes; a
        kernel behind a flattening has its rows as (H, W, C) axes, a recurrent one is a list of its gates."""
        for module, flattened in self.weighted:
            if isinstance(module, nn.Conv2d):
                yield of(module.weight).permute(2, 3, 1, 0)
                if module.bias is not None:
                    yield of(module.bias)
            elif isinstance(module, nn.Linear):
                kernel = of(module.weight).t()
                if flattened:
                    height, width, channels = flattened
                    kernel = kernel.view(channels, height, width, -1).permute(1, 2, 0, 3)
                yield kernel
                yield of(module.bias)
            elif isinstance(module, _Recurrent):
                yield from module.gates(of)
            else:
                yield of(module.weight)
                yield of(module.bias)
                yield module.running_mean
                yield module.running_var

    def weights(self) -> list[np.ndarray]:
        views = zip(self._views(), self.declared, strict=True)
        return [_whole(view).reshape(weight.shape).numpy().copy() for view, weight in views]

    def gradients(self) -> list[np.ndarray]:
        views = zip(self._views(lambda p: p.grad), self.declared, strict=True)
        return [_whole(view).reshape(weight.shape).numpy().copy() for view, weight in views if weight.trainable]

    def kernels(self) -> list[nn.Parameter]:
        return [module.weight for module, _ in self.weighted if not isinstance(module, nn.BatchNorm2d)]

    def array(self, x: np.ndarray) -> torch.Tensor:
        """A tensor of NHWC images (or of rows) in this layout; its own memory."""
        tensor = torch.from_numpy(np.array(x))
        if tensor.ndim == 4:
            tensor = tensor.permute(0, 3, 1, 2)
            tensor = tensor if self.channels_last else tensor.contiguous()
        return tensor


def _whole(view: Any) -> torch.Tensor:
    return torch.cat(view, dim=-1) if isinstance(view, list) else view


def _set_precision(precision: str, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high" if precision == "high" else "highest")


class Peer(PeerBase):
    name = "torch"
    variants = ("channels_last", "contiguous")
    compiled_variants = ("channels_last compiled", "contiguous compiled")

    @staticmethod
    def version() -> str:
        return torch.__version__

    def build(self, weights: list[np.ndarray]) -> None:
        _set_precision(self.precision, self.threads)
        self.network = Network(self.net.layers, self.net.input_shape, weights, self.variant)
        self.module = self.network.module
        kernels = self.network.kernels()
        known = {id(p) for p in kernels}
        others = [p for p in self.module.parameters() if id(p) not in known]
        rule = self.rule
        self.optimizer = torch.optim.AdamW(
            [{"params": kernels, "weight_decay": rule.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=rule.learning_rate, betas=(rule.beta_1, rule.beta_2), eps=rule.epsilon, fused=True,
        )
        if self.variant.endswith("compiled"):
            self.module = torch.compile(self.module)

    def load(self, x: np.ndarray, y: np.ndarray) -> None:
        labels = torch.from_numpy(y.astype(np.int64))
        self.batches = [(self.network.array(a), b) for a, b in zip(x, labels, strict=True)]
        self.cursor = 0

    def run(self, steps: int) -> float:
        for _ in range(steps):
            x, y = self.batches[self.cursor]
            self.cursor = (self.cursor + 1) % len(self.batches)
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "medium"):
                loss = functional.cross_entropy(self.module(x), y)
            loss.backward()
            self.optimizer.step()
        return float(loss.detach())

    def weights(self) -> list[np.ndarray]:
        return self.network.weights()


class Predictor(PredictorBase):
    name = "torch"
    variants = ("channels_last", "contiguous")
    version = staticmethod(Peer.version)

    def build(self, weights: list[np.ndarray]) -> None:
        _set_precision(self.precision, self.threads)
        self.network = Network(self.net.layers, self.net.input_shape, weights, self.variant)
        self.module = self.network.module.eval()

    def load(self, x: np.ndarray) -> None:
        self.batches, self.cursor = [self.network.array(a) for a in x], 0

    @torch.inference_mode()
    def run(self, steps: int) -> float:
        for _ in range(steps):
            self.module(self.batches[self.cursor])
            self.cursor = (self.cursor + 1) % len(self.batches)
        return 0.0

    @torch.inference_mode()
    def outputs(self) -> np.ndarray:
        return self.module(self.batches[0]).numpy()


class Block(BlockBase):
    name = "torch"
    variants = ("channels_last", "contiguous")

    def build(self, weights: list[np.ndarray], x: np.ndarray, dy: np.ndarray) -> None:
        _set_precision("highest", self.threads)
        self.network = Network(self.layers, self.shape, weights, self.variant)
        self.parameters = list(self.network.module.parameters())
        self.x = self.network.array(x).requires_grad_(self.data_gradient)
        self.dy = self.network.array(dy)

    def seconds(self, passes: int) -> tuple[float, ...]:
        begin = time.perf_counter()
        for _ in range(passes):
            y = self.network.module(self.x)
        spent = [time.perf_counter() - begin]
        for data, weights in self.backward.values():
            wanted = [self.x] * data + self.parameters * weights
            begin = time.perf_counter()
            for _ in range(passes):
                torch.autograd.grad(y, wanted, self.dy, retain_graph=True)
            spent.append(time.perf_counter() - begin)
        return tuple(s / passes for s in spent)

    def results(self) -> tuple[np.ndarray, list[np.ndarray]]:
        y = self.network.module(self.x)
        y.backward(self.dy)
        gradients = self.network.gradients()
        if self.data_gradient:
            gradients = [_rows(self.x.grad), *gradients]
        return _rows(y.detach()), gradients


class Update(UpdateBase):
    name = "torch"

    def build(self, p: np.ndarray, g: np.ndarray) -> None:
        _set_precision("highest", self.threads)
        rule = self.rule
        self.p = nn.Parameter(torch.from_numpy(p))
        self.p.grad = torch.from_numpy(g)
        self.optimizer = torch.optim.AdamW([self.p], lr=rule.learning_rate, betas=(rule.beta_1, rule.beta_2),
                                           eps=rule.epsilon, weight_decay=rule.weight_decay, fused=True)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.optimizer.step()

    def value(self) -> np.ndarray:
        return self.p.detach().numpy()


def decayed(p: np.ndarray, g: np.ndarray, rule: str, kind: str, strength: float, rate: float, epsilon: float,
            form: str, threads: int) -> Callable[[], Any] | None:
    """The step of torch's optimizer of a rule with a decay, on an array in place; None if torch has none.

    form: "fused", "foreach" or "loop".
    """
    torch.set_num_threads(threads)
    coupled = {"none": 0.0, "l2": strength}
    if not (kind in coupled or (kind == "decoupled" and rule in ("adam", "amsgrad", "nadam"))):
        return None
    settings: dict[str, Any] = {"lr": rate, "weight_decay": coupled.get(kind, strength)}
    if form == "fused":
        settings["fused"] = True
    else:
        settings["foreach"] = form == "foreach"
    if rule in ("sgd", "momentum", "nesterov"):
        settings |= {"momentum": 0.0 if rule == "sgd" else 0.9, "nesterov": rule == "nesterov"}
        make: Any = torch.optim.SGD
    elif rule == "adagrad":
        make, settings = torch.optim.Adagrad, settings | {"eps": epsilon, "initial_accumulator_value": 0.1}
    elif rule.startswith("rmsprop"):
        make = torch.optim.RMSprop
        settings |= {"alpha": 0.9, "eps": epsilon, "centered": "centered" in rule,
                     "momentum": 0.9 if "momentum" in rule else 0.0}
    elif rule in ("adam", "amsgrad"):
        make = torch.optim.AdamW if kind == "decoupled" else torch.optim.Adam
        settings |= {"eps": epsilon, "amsgrad": rule == "amsgrad"}
    elif rule == "nadam":
        make = torch.optim.NAdam
        settings |= {"eps": epsilon, "momentum_decay": 4e-3, "decoupled_weight_decay": kind == "decoupled"}
    else:
        return None
    if form == "fused" and make in (torch.optim.RMSprop, torch.optim.NAdam):
        return None
    if form == "foreach" and rule == "nesterov":  # it overwrites the gradient, which here stays the same
        return None
    parameter = nn.Parameter(torch.from_numpy(p))
    parameter.grad = torch.from_numpy(g)
    return make([parameter], **settings).step


def _rows(x: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(x.permute(0, 2, 3, 1).numpy() if x.ndim == 4 else x.numpy())
