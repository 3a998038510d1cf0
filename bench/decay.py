"""`wdfast bench decay`: every optimizer × every decay beside no decay, PyTorch's optimizers and the memory's limit."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _native, decay, optimizers
from ..graph import Parameter
from ..ops.optimizer_step import REFERENCES, SLOTS
from . import ceilings
from .contestant import update_data
from .remote import Remote, RemoteError

RATE, EPSILON = 1e-3, 1e-8
RULES: dict[str, Callable[..., optimizers.Optimizer]] = {
    "sgd": lambda **k: optimizers.SGD(RATE, **k),
    "momentum": lambda **k: optimizers.SGD(RATE, momentum=0.9, **k),
    "nesterov": lambda **k: optimizers.SGD(RATE, momentum=0.9, nesterov=True, **k),
    "adagrad": lambda **k: optimizers.Adagrad(RATE, epsilon=EPSILON, **k),
    "rmsprop": lambda **k: optimizers.RMSprop(RATE, epsilon=EPSILON, **k),
    "rmsprop_momentum": lambda **k: optimizers.RMSprop(RATE, epsilon=EPSILON, momentum=0.9, **k),
    "rmsprop_centered": lambda **k: optimizers.RMSprop(RATE, epsilon=EPSILON, centered=True, **k),
    "rmsprop_centered_momentum": lambda **k: optimizers.RMSprop(RATE, epsilon=EPSILON, centered=True, momentum=0.9,
                                                                **k),
    "adam": lambda **k: optimizers.Adam(RATE, epsilon=EPSILON, **k),
    "amsgrad": lambda **k: optimizers.Adam(RATE, epsilon=EPSILON, amsgrad=True, **k),
    "nadam": lambda **k: optimizers.Nadam(RATE, epsilon=EPSILON, momentum_decay=4e-3, **k),
    "lion": lambda **k: optimizers.Lion(RATE, **k),
}
STRENGTH = 20.0
"""So strong a decay moves a weight as far as a step does: were it lost, the proof would show it."""
DECAYS: dict[str, Callable[[], decay.Decay]] = {
    "none": decay.none, "l2": lambda: decay.l2(STRENGTH), "l1": lambda: decay.l1(STRENGTH),
    "elastic": lambda: decay.elastic(STRENGTH, STRENGTH), "decoupled": lambda: decay.decoupled(STRENGTH),
    "independent": lambda: decay.independent(0.02), "corrected": lambda: decay.corrected(STRENGTH),
    "cautious": lambda: decay.cautious(STRENGTH), "epochs": lambda: decay.epochs(5.0),
    "normalized": lambda: decay.normalized(0.2), "toward": lambda: decay.toward(None, STRENGTH),
    "stable": lambda: decay.stable(1.0), "constrained": lambda: decay.constrained(1.0),
    "norm_target": lambda: decay.norm_target(1.0, k=0.02), "l1 proximal": lambda: decay.l1(STRENGTH, proximal=True),
    "elastic proximal": lambda: decay.elastic(STRENGTH, STRENGTH, proximal=True),
    "p_norm": lambda: decay.p_norm(STRENGTH, 1.5), "max_norm": lambda: decay.max_norm(1.0),
}
SIZES = {"10k": (100, 100), "1M": (1000, 1000), "44M": (4400, 10000)}
FORMS = ("fused", "foreach", "loop")
PROOF_SHAPE, PROOF_STEPS, TOLERANCE = (101, 99), 5, 1e-4
"""‖Δp − Δp_reference‖ / ‖Δp_reference‖ after five steps of 9,999 weights."""
_SEED = 23


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rules", default=",".join(RULES), help=f"of {','.join(RULES)} (all)")
    parser.add_argument("--decays", default=",".join(DECAYS), help=f"of {','.join(DECAYS)} (all)")
    parser.add_argument("--sizes", default=",".join(SIZES), help=f"of {','.join(SIZES)} parameters (all)")
    parser.add_argument("--threads", type=int, default=0, help="for every contestant (default: all usable cores)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; every contestant has one turn in each (5)")
    parser.add_argument("--seconds", type=float, default=0.05, help="of a turn, at least (0.05)")
    parser.add_argument("--json", metavar="FILE", help="write the rows here")


# ---- in a process of its own ----------------------------------------------------------------------------


class Contestant:
    """Optimizers of one library, each with one array and a gradient that stays the same."""

    def __init__(self, library: str, threads: int) -> None:
        self.library, self.threads = library, threads
        self.steps: dict[str, Callable[[], Any]] = {}
        self.value: Any = None

    def open(self, key: str, rule: str, kind: str, form: str, shape: tuple[int, ...]) -> bool:
        """Makes an optimizer; False if the library has no such rule, decay or form."""
        p, g = (a.reshape(shape) for a in update_data(int(np.prod(shape)), _SEED))
        if self.library == "torch":
            from .peers.torch_peer import decayed

            made = decayed(p, g, rule, kind, STRENGTH, RATE, EPSILON, form, self.threads)
            if made is None:
                return False
            self.value, self.steps[key] = p, made
            return True
        _native.set_num_threads(self.threads)
        optimizer = RULES[rule](decay=DECAYS[kind]())
        optimizer.set_run(10, 50)
        self.value, self.steps[key] = p, lambda: optimizer.step([p], [g])
        return True

    def results(self, key: str, steps: int) -> np.ndarray:
        """What `steps` steps change the value to."""
        for _ in range(steps):
            self.steps[key]()
        return np.array(self.value)

    def close(self) -> None:
        self.steps.clear()
        self.value = None

    def timed(self, key: str, seconds: float) -> float:
        """Seconds a step, after an untimed one."""
        step = self.steps[key]
        step()
        steps, unit, begin = 0, 1, time.perf_counter()
        while True:
            for _ in range(unit):
                step()
            steps += unit
            spent = time.perf_counter() - begin
            if spent >= seconds:
                return spent / steps
            unit *= 2


# ---- proof and time -------------------------------------------------------------------------------------


def reference(rule: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """(p before, p after the proof's steps), the latter by NumPy in float64."""
    value, gradient = (a.reshape(PROOF_SHAPE) for a in update_data(int(np.prod(PROOF_SHAPE)), _SEED))
    p = Parameter(value.copy(), role="kernel", name="p")
    p.grad = gradient
    optimizer = RULES[rule](decay=DECAYS[kind]())
    optimizer.set_run(10, 50)
    plan = optimizer.plan([p])
    hyper = plan.hyper(0, PROOF_STEPS)
    wide = p.value.astype(np.float64)
    state = optimizer.state
    arrays = {name: array.astype(np.float64) for name, array in state.arrays.items()}
    slots = [arrays[name] for name in state.initial] + [None] * (3 - SLOTS[rule])
    attrs = {name: value for name, value in optimizer.passes()[-1].items()
             if name not in ("rule", "bounded_outputs")}
    for row in hyper:
        REFERENCES["optimizer_step"](wide, p.grad.astype(np.float64), plan.table, row, *slots, rule=rule,
                                     anchor=arrays.get("anchor"), memory=state.memory, **attrs)
    return value.astype(np.float64), wide


def traffic(rule: str) -> int:
    """Bytes a step must move for each weight: p, g and the state read, p and the state written."""
    return 4 * (3 + 2 * SLOTS[rule])


def run_case(rule: str, kind: str, sizes: list[str], remotes: dict[str, Remote], limits: dict[str, float],
             args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each size: first proved, then timed in turns."""
    before, expected = reference(rule, kind)
    forms = {"wdfast": ("wdfast", kind, "")} | {f"torch {form}": ("torch", kind, form) for form in FORMS}
    errors: dict[str, float] = {}
    for who, (library, own, form) in forms.items():
        if library in remotes and remotes[library].call("open", who, rule, own, form, PROOF_SHAPE):
            value = remotes[library].call("results", who, PROOF_STEPS)
            errors[who] = float(np.linalg.norm(value - expected) / np.linalg.norm(expected - before))
            remotes[library].call("close")
    wrong = [who for who, error in errors.items() if not error <= TOLERANCE]
    contestants = {"none": ("wdfast", "none", "")} | {who: forms[who] for who in errors}
    rows = []
    for size in sizes:
        for who, (library, own, form) in contestants.items():
            remotes[library].call("open", who, rule, own, form, SIZES[size])
        turns: dict[str, list[float]] = {who: [] for who in contestants}
        for round_ in range(args.repeats):
            for who in list(contestants)[:: -1 if round_ % 2 else 1]:
                turns[who].append(remotes[contestants[who][0]].call("timed", who, args.seconds))
        for remote in remotes.values():
            remote.call("close")
        us = {who: 1e6 * statistics.median(spent) for who, spent in turns.items()}
        ours, none = us.pop("wdfast"), us.pop("none")
        # In pairs of one round: the memory's speed, shared with others, drifts by more than a decay costs.
        against = {who: statistics.median(their / own for their, own in zip(spent, turns["wdfast"], strict=True))
                   for who, spent in turns.items()}
        right = [against[who] for who in us if who not in wrong]
        gbs = traffic(rule) * np.prod(SIZES[size]) / ours / 1e3
        cost = 1 / against["none"] - 1
        rows.append({"rule": rule, "decay": kind, "size": size, "us": ours, "none_us": none, "cost": cost,
                     "gbs": gbs, "limit_gbs": limits[size], "peers": us, "ratio": min(right, default=None),
                     "errors": errors, "wrong": wrong, "isa": _native.active_isa(), "load": os.getloadavg()[0]})
    return rows


def text(row: dict[str, Any]) -> str:
    """One row for people."""
    line = (f"{row['rule']:<26}{row['decay']:<17}{row['size']:>4}{row['us']:>11.1f} µs{row['gbs']:>6.0f} GB/s"
            f"{100 * row['gbs'] / row['limit_gbs']:>5.0f} %{100 * row['cost']:>+7.1f} % over none")
    line += "".join(f"  {who} {us:.1f} µs" for who, us in row["peers"].items())
    line += f"  ratio {row['ratio']:.2f}" if row["ratio"] else ""
    return line + "".join(f"  {who} WRONG by {row['errors'][who]:.1e}" for who in row["wrong"])


def _chosen(value: str, known: Any, option: str) -> list[str]:
    names = [name for name in value.split(",") if name]
    for name in names:
        if name not in known:
            raise ValueError(f"--{option}: unknown '{name}'; there are {', '.join(known)}")
    return names


def main(args: argparse.Namespace) -> int:
    rules, kinds = _chosen(args.rules, RULES, "rules"), _chosen(args.decays, DECAYS, "decays")
    sizes = _chosen(args.sizes, SIZES, "sizes")
    if args.repeats < 1 or args.threads < 0:
        raise ValueError("--repeats must be at least 1, --threads at least 0")
    threads = args.threads or _native.num_threads()
    _native.set_num_threads(threads)
    remotes: dict[str, Remote] = {}
    for library in ("wdfast", "torch"):
        try:
            remotes[library] = Remote(f"{__name__}:Contestant", threads, library, threads)
            if library == "torch":
                remotes[library].call("open", "", "sgd", "none", "loop", (1,))
        except RemoteError as error:
            if library == "wdfast":
                raise
            if library in remotes:  # it started, but has no torch
                remotes.pop(library).close()
            print(f"  torch: {error}")
    limits = {size: ceilings.update_gbs(threads, int(np.prod(SIZES[size]))) for size in sizes}
    for size in sizes:
        print(f"in place at {size}: {limits[size]:.0f} GB/s (four arrays read, three written; {threads} threads)")
    rows: list[dict[str, Any]] = []
    try:
        for rule in rules:
            for kind in kinds:
                if kind == "stable" and not RULES[rule]().divides:
                    continue
                rows += run_case(rule, kind, sizes, remotes, limits, args)
                print("\n".join(map(text, rows[-len(sizes):])), flush=True)
                if args.json:
                    with open(args.json, "w") as file:
                        json.dump({"threads": threads, "limits_gbs": limits, "rows": rows}, file, indent=1)
    finally:
        for remote in remotes.values():
            remote.close()
    if any(row["wrong"] for row in rows):
        print("not every row is proved right: see above", file=sys.stderr)
        return 1
    return 0
