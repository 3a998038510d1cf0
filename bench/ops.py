"""`wdfast bench ops`: fused ops, convolutions of well-known networks and recurrent layers, by pass, against torch
and their roof."""

from __future__ import annotations

import argparse
import functools
import os
import re
import statistics
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import _native
from . import ceilings, record, shapes
from .contestant import block_data, update_data
from .nets import (
    CASES,
    NETS,
    BatchNorm,
    Conv,
    CrossEntropy,
    Dense,
    MaxPool,
    Recurrent,
    Relu,
    Residual,
    Shape,
    layer_flops,
    layer_output,
    leaves,
    output_shape,
    trained_parameters,
    weights_of,
)
from .peers import AdamW, backward_passes
from .remote import Remote, RemoteError, alternate

PEERS = ("numpy", "torch")
_SEED = 11

TOLERANCE = 1e-5
"""Of ‖a − reference‖ / ‖reference‖, the worst array: some hundred float32 roundings. Where NumPy in float32
strays further, four times that."""

_PROOF_RULE = AdamW(weight_decay=20.0, epsilon=1e-3)  # every term moves p by as much: see bench.step
_PROOF_STEPS = 3


class Case(NamedTuple):
    net: str
    batch: int
    layers: tuple[Any, ...]  # none: the optimizer's step of the whole net
    shape: Shape
    data_gradient: bool

    @property
    def apart(self) -> bool:
        """Whether the two gradients are timed apart: for a single convolution, where they are two kernels."""
        return self.net in shapes.NETWORKS

    @property
    def label(self) -> str:
        if not self.layers:
            return f"adamw {trained_parameters(NETS[self.net])}"
        names = []
        for layer, at in leaves(self.layers, self.shape):
            match layer:
                case Conv(filters=filters, kernel=kernel, stride=stride, groups=groups):
                    step = f"/{stride}" if stride > 1 else ""
                    name, seen = ("conv2d", f"x{at[-1]}") if groups == 1 else ("depthwise", "")
                    names.append(f"{name} {kernel}x{kernel}{seen}x{filters}{step}")
                case Dense(units):
                    names.append(f"dense {at[-1]}x{units}")
                case Recurrent(cell, units):
                    names.append(f"{cell} {at[-1]}x{units}")
                case _:
                    names.append(re.sub("(?<=[a-z])(?=[A-Z])", "_", type(layer).__name__).lower())
        return "+".join(names)

    @property
    def title(self) -> str:
        return f"{self.net} b{self.batch} {self.label} on {'x'.join(map(str, self.shape))}"


def _groups(layers: tuple[Any, ...], shape: Shape) -> Iterator[tuple[tuple[Any, ...], Shape]]:
    """Runs of layers that one op can do: a convolution, dense or normalisation with what follows it."""
    group: tuple[Any, ...] = ()
    start = shape
    for layer in layers:
        follows = group and isinstance(layer, (Relu, MaxPool)) and isinstance(group[0], (Conv, Dense, BatchNorm))
        if group and not follows:
            yield group, start
            group = ()
        if isinstance(layer, Residual):
            yield from _groups(layer.main, shape)
            yield from _groups(layer.shortcut, shape)
        else:
            group, start = (*group, layer), start if group else shape
        shape = layer_output(layer, shape)
    if group:
        yield group, start


GROUPS = ("nets", *shapes.NETWORKS, "recurrent")


def cases(groups: Sequence[str] = GROUPS) -> list[Case]:
    """Of the nets every distinct fused op, the parts of convolution blocks alone, loss and optimizer; of the
    well-known networks every distinct convolution; recurrent layers."""
    found: dict[Case, None] = {}
    for group in groups:
        for conv, shape in shapes.NETWORKS[group]() if group in shapes.NETWORKS else ():
            found[Case(group, shapes.BATCH, (conv,), shape, shape[-1] > 3)] = None
    for layer, shape in shapes.recurrent() if "recurrent" in groups else ():
        found[Case("recurrent", shapes.SEQUENCES, (layer,), shape, True)] = None
    for name, batch in CASES if "nets" in groups else ():
        net = NETS[name]
        for layers, shape in _groups(net.layers, net.input_shape):
            first = shape == net.input_shape
            found[Case(name, batch, layers, shape, not first)] = None
            if len(layers) == 3:  # what fusion saves: its parts one by one
                for layer in layers:
                    found[Case(name, batch, (layer,), shape, not (first and layer is layers[0]))] = None
                    shape = layer_output(layer, shape)
        found[Case(name, batch, (CrossEntropy(),), (net.classes,), True)] = None
        found[Case(name, batch, (), (), False)] = None
    return [case for case in found if case.label != "flatten"]


# ---- work and roofs -------------------------------------------------------------------------------------


def work(case: Case) -> dict[str, tuple[float, float]]:
    """{pass: (FLOP of products, compulsory bytes)}: each array that must be read or written, once."""
    if not case.layers:
        return {"step": (0.0, 28.0 * trained_parameters(NETS[case.net]))}
    flops = case.batch * sum(layer_flops(*leaf) for leaf in leaves(case.layers, case.shape))
    x = 4.0 * case.batch * np.prod(case.shape)
    y = 4.0 * case.batch * np.prod(output_shape(case.layers, case.shape))
    w = 4.0 * sum(np.prod(weight.shape) for weight in weights_of(case.layers, case.shape) if weight.trainable)
    reads_x = w > 0 or isinstance(case.layers[0], CrossEntropy)
    found = {"forward": (flops, x + w + y)}
    for name, (data, weights) in backward_passes(case.data_gradient, case.apart).items():
        size = y + data * (w + x) + weights * (w + x * reads_x)  # for dx the weights, for dW the inputs are read
        found[name] = (flops * (data + weights), size)
    return found


@functools.lru_cache(maxsize=64)
def _bandwidth(threads: int, megabytes: int) -> float:
    """GB/s over a working set of this size: what fits into a cache has the cache's roof."""
    floats = megabytes * 2**18
    return max(ceilings.triad_gbs(threads, floats // 3, 0.05), ceilings.update_gbs(threads, floats // 4, 0.05))


def roof(flops: float, size: float, limits: dict[str, Any]) -> tuple[float, str]:
    """(ms, "compute" or "memory"): the later of the two roofs."""
    megabytes = 1 << max(0, round(np.log2(max(size, 1) / 2**20)))
    compute = flops / (1e6 * ceilings.fastest_fma(limits))
    memory = size / (1e6 * _bandwidth(limits["threads"], megabytes))
    return (compute, "compute") if compute >= memory else (memory, "memory")


# ---- proof ----------------------------------------------------------------------------------------------


def error_of(arrays: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """max over arrays of ‖a − expected‖ / ‖expected‖; infinite if anything is not finite."""
    worst = 0.0
    for a, e in zip(arrays, expected, strict=True):
        if a.shape != e.shape:
            return float("inf")
        apart, size = np.linalg.norm((a - e).ravel()), np.linalg.norm(e.ravel())
        worst = max(worst, float(apart / size)) if np.isfinite(apart) and size > 0 else float("inf")
    return worst


def _expected(case: Case, threads: int, wide: bool) -> list[np.ndarray]:
    from .peers import numpy_peer

    if not case.layers:
        kind = numpy_peer.ReferenceUpdate if wide else numpy_peer.Update
        p, g = update_data(trained_parameters(NETS[case.net]), _SEED)
        update = kind(p, g, threads, _PROOF_RULE)
        update.run(_PROOF_STEPS)
        return [update.value() - p]
    block = (numpy_peer.ReferenceBlock if wide else numpy_peer.Block)(
        case.layers, *block_data(case.layers, case.shape, case.batch, _SEED), threads, "", case.data_gradient
    )
    y, gradients = block.results()
    return [y, *gradients]


def _answer(case: Case, contestant: Remote) -> list[np.ndarray]:
    if not case.layers:
        value = contestant.call("results", _PROOF_STEPS)
        return [value.astype(np.float64) - update_data(len(value), _SEED)[0]]
    y, gradients = contestant.call("results")
    return [y, *gradients]


# ---- the command ----------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--groups", default="nets", help=f"of {','.join(GROUPS)}, or all (nets)")
    parser.add_argument("--filter", default="", help="only cases whose title matches this regular expression")
    parser.add_argument("--list", action="store_true", help="print the titles and stop")
    parser.add_argument("--peers", default=",".join(PEERS), help="of numpy,torch (both; NumPy not for convolutions)")
    record.add_timing(parser, 5, 0.3)


class Contestants:
    """The processes, from case to case; one that broke down is started anew for the next."""

    def __init__(self, names: Sequence[str], threads: int) -> None:
        self.names, self.threads = names, threads
        self._remotes: dict[tuple[str, str], Remote] = {}

    def open(self, case: Case) -> tuple[dict[str, Remote], dict[str, str]]:
        """(those that are ready for the case, why the others are not)."""
        kind, arguments = "BlockContestant", (case.layers, case.shape, case.batch, self.threads, case.data_gradient,
                                              case.apart, _SEED)
        if not case.layers:
            kind, arguments = "UpdateContestant", (trained_parameters(NETS[case.net]), self.threads, _PROOF_RULE, _SEED)
        ready: dict[str, Remote] = {}
        missing: dict[str, str] = {}
        for name in self.names:
            if case.apart and name == "numpy":
                continue
            try:
                if (kind, name) not in self._remotes:
                    self._remotes[kind, name] = Remote(f"{__package__}.contestant:{kind}", self.threads, name)
                self._remotes[kind, name].call("open", *arguments)
                ready[name] = self._remotes[kind, name]
            except RemoteError as error:
                missing[name] = str(error)
                if remote := self._remotes.pop((kind, name), None):
                    remote.close()
        return ready, missing

    def close(self) -> None:
        for remote in self._remotes.values():
            remote.close()


def prove(case: Case, contestants: dict[str, Remote], threads: int) -> tuple[dict[str, float], float]:
    """(error of each, tolerance)."""
    expected = _expected(case, threads, True)
    errors = {name: error_of(_answer(case, contestant), expected) for name, contestant in contestants.items()}
    if all(error <= TOLERANCE for error in errors.values()):
        return errors, TOLERANCE
    return errors, max(TOLERANCE, 4 * error_of(_expected(case, threads, False), expected))


def run_case(case: Case, contestants: Contestants, limits: dict[str, Any], args: argparse.Namespace
             ) -> list[dict[str, Any]]:
    """One row for each pass: proof, then turns in alternation."""
    threads = limits["threads"]
    ready, missing = contestants.open(case)
    errors, tolerance = prove(case, ready, threads)
    turns = alternate(list(ready), args.repeats, lambda name: ready[name].call("timed", args.seconds))
    wrong = [name for name, error in errors.items() if not error <= tolerance]
    rows = []
    for i, (name, (flops, size)) in enumerate(work(case).items()):
        ms = {who: 1e3 * statistics.median(turn[i] for turn in spent) for who, spent in turns.items()}
        ours = ms.get("wdfast")
        roof_ms, bound = roof(flops, size, limits)
        rows.append({
            "net": case.net, "batch": case.batch, "op": case.label, "shape": list(case.shape), "pass": name,
            "isa": _native.active_isa(), "threads": threads, "flop": flops, "bytes": size, "roof_ms": roof_ms,
            "roof": bound, "gflops": flops / ours / 1e6 if ours else None, "gbs": size / ours / 1e6 if ours else None,
            "error": errors, "tolerance": tolerance, "missing": missing, "load": os.getloadavg()[0],
            "below_torch": bool(ours and "torch" not in wrong and ms.get("torch", ours) < ours),
        } | record.outcome(ms, wrong))
    return rows


def text(row: dict[str, Any]) -> str:
    """One row for people."""
    parts = [f"  {row['pass']:<16}"]
    if row["ms"] is not None:
        speed = f"{row['gflops']:.0f} GFLOP/s" if row["roof"] == "compute" else f"{row['gbs']:.0f} GB/s"
        parts.append(f"{row['ms']:>10.3f} ms{speed:>15}{100 * row['roof_ms'] / row['ms']:>6.0f} % of {row['roof']}")
    parts += [f"{name} {ms:.3f} ms" for name, ms in row["peers"].items()]
    if row["ratio"]:
        parts.append(f"ratio {row['ratio']:.2f}")
    parts += ["BELOW torch"] * row["below_torch"]
    parts += [f"{name} WRONG by {row['error'][name]:.1e}" for name in row["wrong"]]
    return "  ".join(parts)


def main(args: argparse.Namespace) -> int:
    groups = GROUPS if args.groups == "all" else record.chosen(args.groups, GROUPS, "groups")
    chosen = [case for case in cases(groups) if re.search(args.filter, case.title)]
    peers = record.chosen(args.peers, PEERS, "peers")
    if args.list:
        print("\n".join(case.title for case in chosen))
        return 0
    threads = record.begin(args)
    limits = ceilings.measure(threads, min(args.seconds, 0.15))
    print(ceilings.text(limits), flush=True)
    rows: list[dict[str, Any]] = []
    contestants = Contestants(["wdfast", *peers], threads)
    try:
        for case in chosen:
            print(case.title, flush=True)
            made = run_case(case, contestants, limits, args)
            rows += made
            for row in made:
                print(text(row), flush=True)
            for name, reason in made[0]["missing"].items():
                print(f"  {name}: {reason}", flush=True)
            if args.json:
                record.write(args.json, "ops", rows, limits=limits)
    finally:
        contestants.close()
    if below := [row for row in rows if row["below_torch"]]:
        print(f"slower than torch: {len(below)} of {len(rows)} rows")
        for row in sorted(below, key=lambda row: row["ms"] / row["peers"]["torch"], reverse=True):
            times = f"{row['ms']:.3f} ms, torch {row['peers']['torch']:.3f} ms"
            print(f"  {row['net']} b{row['batch']} {row['op']} {row['pass']}: {times}")
    return record.finish(rows)
