"""What is searched: decays on a logarithmic grid or drawn at random, and which of two is the stronger."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import decay as decays

_LENGTH_FREE = ("constrained", "max_norm", "normalized")  # kinds that a shorter run leaves as they are, or cannot have
FAILURES = (ArithmeticError, MemoryError, OSError, RuntimeError, ValueError)
"""What building and training a network may raise: it is told of that training, and the search goes on."""


@dataclass(frozen=True)
class Candidate:
    """A decay, and the highest learning rate if that is searched too."""

    decay: Any
    learning_rate: float | None = None

    def __str__(self) -> str:
        rate = "" if self.learning_rate is None else f", learning rate {self.learning_rate:g}"
        return f"{self.decay!r}{rate}"

    def __hash__(self) -> int:  # decays by layer are mappings, and anchors arrays, which have none of their own
        numbers = [(term.kind, term.strength) for term in getattr(self.decay, "terms", ())
                   if isinstance(term.strength, float)]
        return hash((self.learning_rate, *numbers))


def _between(where: str, low: float, high: float, count: int) -> None:
    if not (0 < low <= high < math.inf):
        raise ValueError(f"{where}: expected 0 < low ≤ high, got {low!r} and {high!r}")
    if count < 1:
        raise ValueError(f"{where}: argument 'count': expected an int ≥ 1, got {count!r}")


def grid(unit: Callable[[float], Any], low: float, high: float, count: int = 8) -> list[Any]:
    """`count` decays, `unit(v)` for v evenly spaced on a logarithmic scale from `low` to `high`, both among them.

    Raises ValueError unless 0 < low ≤ high.

    >>> from wdfast import decay, search
    >>> search.grid(decay.epochs, 1, 100, 3)
    [epochs(1.0), epochs(10.0), epochs(100.0)]
    """
    _between("search.grid", low, high, count)
    return [unit(_rounded(v)) for v in np.geomspace(low, high, count)]


def random(unit: Callable[[float], Any], low: float, high: float, count: int = 8, seed: int = 0) -> list[Any]:
    """`count` decays, `unit(v)` for log v drawn evenly between log `low` and log `high` (Bergstra and Bengio 2012).

    Raises ValueError unless 0 < low ≤ high.

    >>> from wdfast import decay, search
    >>> search.random(decay.decoupled, 1e-4, 1e-1, 2)
    [decoupled(0.008145), decoupled(0.0006447)]
    """
    _between("search.random", low, high, count)
    draws = np.random.default_rng(seed).uniform(math.log(low), math.log(high), count)
    return [unit(_rounded(math.exp(v))) for v in draws]


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")  # what a user would write: the results do not depend on the digits behind


INVERSE = ("epochs", "max_norm", "constrained", "constrained_initial")
"""Kinds whose number is the smaller, the stronger they are."""


def strength(decay: Any) -> tuple[str, float]:
    """(kind, a number that grows as the decay gets stronger): of `none()` no kind and 0.

    The kind of those that are told by two numbers has the second in it. Raises ValueError for a sum of several terms,
    a schedule, decays by layer, norm_target and bounds that are taken at a step: they have no such number.
    """
    if isinstance(decay, decays.Decay):
        if not decay.terms:
            return "", 0.0
        (term, *more) = decay.terms
        value = term.strength
        kind = f"{term.kind}({term.target})" if term.target else term.kind
        if term.kind in ("constrained", "constrained_initial"):
            kind, value = term.kind, 1 / term.target if term.target else math.inf
        elif term.kind.startswith("constrained") or term.kind == "norm_target":
            value = None  # a moment, or a norm that weights are pulled to from below as well
        if not more and isinstance(value, float):
            return kind, 1 / value if term.kind in ("epochs", "max_norm") else value
    raise ValueError(f"search: {decay!r} has no single strength")


def ordered(values: list[Any]) -> bool:
    """Whether all of `values` can be told apart as weaker and stronger: one kind, or none() beside it."""
    try:
        kinds = {strength(value)[0] for value in values}
    except ValueError:
        return False
    return len(kinds - {""}) <= 1


def shortened(decay: Any, share: float) -> Any:
    """The decay for a run of that share of the epochs that keeps τ/T: τ times, or λ divided by `share`.

    Raises ValueError where λ is not a plain number, or the decay does not act at every step alike.
    """
    if not isinstance(decay, decays.Decay):
        raise ValueError(f"search: {decay!r} cannot be rescaled to a shorter run")
    terms = []
    for term in decay.terms:
        if not isinstance(term.strength, float) or term.kind.startswith(_LENGTH_FREE):
            raise ValueError(f"search: {decay!r} cannot be rescaled to a shorter run")
        factor = share if term.kind == "epochs" else 1 / share
        terms.append(decays.Term(term.kind, term.strength * factor, term.target, term.exact, term.anchor))
    return decays.Decay(tuple(terms))
