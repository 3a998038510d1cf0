"""Weight decay as a value with a unit: what decays, how, and how strongly.

An optimizer takes one as `decay=`; a parameter may carry its own instead (`parameter.decay`). A `Decay` is a
sum of terms; each `Term` is a strength λ (a number, or a schedule as for the learning rate) and a kind that says
where in the step it acts and what it is multiplied by::

    in the gradient     g' = g + λ₂ (p − r) + λ₁ sign(p): l2, l1, elastic, toward(coupled=True)
    beside the step     p ← p − s (p − r): decoupled (s = η λ), independent, corrected, cautious, epochs,
                        normalized, toward; stable, constrained and norm_target, whose s follows a norm
    after the step      l1(proximal=True), elastic(proximal=True), both also adaptive=True; p_norm; max_norm

`+` adds decays that act in different places: `decay.l1(1e-5) + decay.decoupled(0.01)`.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

from . import schedules

if TYPE_CHECKING:
    from .graph import Parameter

__all__ = ["DECAYED_ROLES", "Decay", "PerLayer", "Term", "cautious", "constrained", "corrected", "decoupled",
           "elastic", "epochs", "from_keras_l2", "from_sklearn", "get", "independent", "l1", "l2", "max_norm",
           "none", "norm_target", "normalized", "of", "p_norm", "per_layer", "stable", "toward"]

DECAYED_ROLES = frozenset({"kernel", "recurrent_kernel", "embedding"})
"""The roles that an optimizer's decay acts on: biases, normalisation scales and shifts stay as they are."""


class _Kind(NamedTuple):
    place: str  # the column of the native step's segment table
    clock: str | None  # the per-step value that λ is multiplied by
    form: str = "plain"
    anchored: bool = False
    adaptive: bool = False


KINDS = {
    "l2": _Kind("l2", None), "l1": _Kind("l1", None), "toward_l2": _Kind("l2", None, anchored=True),
    "decoupled": _Kind("shrink", "rate"), "independent": _Kind("shrink", "multiplier"),
    "corrected": _Kind("shrink", "corrected"), "cautious": _Kind("shrink", "rate", "cautious"),
    "epochs": _Kind("shrink", "epochs"), "normalized": _Kind("shrink", "normalized"),
    "toward": _Kind("shrink", "rate", anchored=True), "stable": _Kind("shrink", "rate", "stable"),
    "norm_target": _Kind("shrink", None, "norm_target"), "constrained": _Kind("shrink", None, "constrained"),
    "constrained_initial": _Kind("shrink", None, "constrained_initial"),
    "constrained_warm_start": _Kind("shrink", None, "constrained_warm_start"),
    "constrained_inflection": _Kind("shrink", None, "constrained_inflection"),
    "l1_proximal": _Kind("proximal_l1", "rate"), "p_norm": _Kind("proximal_l2", "rate"),
    "l1_adaptive": _Kind("proximal_l1", "rate", adaptive=True),
    "l2_adaptive": _Kind("proximal_l2", "rate", adaptive=True),
    "max_norm": _Kind("max_norm", None),
}
_TARGETS = {"constrained": "κ", "constrained_initial": "initial", "constrained_warm_start": "warm_start",
            "constrained_inflection": "inflection", "norm_target": "ρ", "p_norm": "q"}  # what `target` is called
_STEPS = ("constrained_warm_start", "constrained_inflection")  # whose target counts steps


def _number(where: str, value: Any, above_zero: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{where}: expected a number, got {value!r}")
    if not (math.isfinite(value) and (value > 0 or (value == 0 and not above_zero))):
        raise ValueError(f"{where}: expected a finite number {'>' if above_zero else '≥'} 0, got {value!r}")
    return float(value)


@dataclass(frozen=True)
class Term:
    """One strength of one kind; λ is finite and not negative, or a schedule.

    `target` is κ (or what sets it), ρ or q of the kinds that have one; `anchor` maps names of parameters to arrays,
    None means the weights that the optimizer saw first; `exact` asks for a pass of its own for the sum that s
    depends on.

    >>> from wdfast import decay
    >>> decay.Term("l2", 5e-4).place
    'l2'
    """

    kind: str
    strength: Any
    target: float = 0.0
    exact: bool = False
    anchor: Mapping[str, Any] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"decay: expected a kind of {', '.join(KINDS)}, got {self.kind!r}")
        value = self.strength
        where = f"decay.{self.kind}"
        if callable(value):
            object.__setattr__(self, "strength", schedules.get(value))
        else:
            object.__setattr__(self, "strength", _number(f"{where}: λ", value, self.kind == "epochs"))
        name = _TARGETS.get(self.kind, "target")
        object.__setattr__(self, "target", _number(f"{where}: {name}", self.target, self.place == "proximal_l2"))
        if self.kind in _STEPS and (self.target < 1 or self.target % 1):
            raise ValueError(f"decay.constrained: {name}: expected a number of steps ≥ 1, got {self.target!r}")

    @property
    def place(self) -> str:
        """Where it acts: the column of the native step's segment table."""
        return KINDS[self.kind].place

    @property
    def clock(self) -> str | None:
        """What λ is multiplied by at each step: "rate", the learning rate η; "multiplier", η/η_max; None: 1."""
        return KINDS[self.kind].clock

    @property
    def schedule(self) -> Any:
        """The schedule of λ; None if it is a number. τ of epochs always has one: s is not linear in 1/τ."""
        if isinstance(self.strength, float):
            return schedules.Constant(self.strength) if self.clock == "epochs" else None
        return self.strength

    @property
    def form(self) -> str:
        """How the shrink is made from λ: one of `ops.optimizer_step.FORMS`."""
        return KINDS[self.kind].form

    @property
    def anchored(self) -> bool:
        """Whether it decays towards an anchor instead of zero."""
        return KINDS[self.kind].anchored

    @property
    def adaptive(self) -> bool:
        """Whether it is proximal in the metric of the rule's step, √v̂ + ε."""
        return KINDS[self.kind].adaptive

    def __repr__(self) -> str:
        value = repr(self.strength)
        exact = ", exact=True" if self.exact else ""
        return {
            "l1_proximal": f"l1({value}, proximal=True)",
            "l1_adaptive": f"l1({value}, proximal=True, adaptive=True)", "toward": f"toward(None, {value})",
            "toward_l2": f"toward(None, {value}, coupled=True)", "p_norm": f"p_norm({value}, q={self.target!r})",
            "constrained": f"constrained({self.target!r}{exact})",
            "constrained_initial": f"constrained(initial={self.target!r}{exact})",
            **{kind: f"constrained({_TARGETS[kind]}={self.target:.0f}{exact})" for kind in _STEPS},
            "norm_target": f"norm_target({self.target!r}, k={value}{exact})",
        }.get(self.kind, f"{self.kind}({value}{exact})")

    def get_config(self) -> list[Any]:
        """[kind, λ], and what else is not the default; plain JSON values. An anchor is the optimizer's state."""
        value: Any = self.strength
        if isinstance(value, schedules.LearningRateSchedule):
            value = {"class_name": type(value).__name__, "config": value.get_config()}
        return [self.kind, value, *([self.target, self.exact] if self.target or self.exact else [])]


def _check_sum(terms: tuple[Term, ...]) -> None:
    """Terms of one place must be of one kind and exactness, for the step has one strength for each place."""
    first: dict[str, Term] = {}
    for term in terms:
        other = first.setdefault(term.place, term)
        scheduled = any(not isinstance(t.strength, float) for t in (other, term))
        # Numbers of one kind simply add, unless a norm or a power makes the shrink other than linear in λ.
        linear = term.form in ("plain", "cautious") and term.place != "max_norm"
        same = (other.kind, other.target) == (term.kind, term.target)
        if other is not term and (scheduled or not linear or not same or term.kind == "epochs"):
            raise ValueError(f"decay: {other!r} and {term!r} act in the same place and cannot be added")
    pulls = {term.anchored for term in terms if term.place in ("l2", "shrink")}
    if len(pulls) > 1:
        raise ValueError("decay: a decay towards an anchor cannot be added to one towards zero")
    if len({term.adaptive for term in terms if term.place.startswith("proximal")}) > 1:
        raise ValueError("decay: an adaptive proximal decay cannot be added to one that is not")
    shrink = first.get("shrink")
    if "max_norm" in first and shrink and (shrink.form == "norm_target" or shrink.form.startswith("constrained")):
        raise ValueError("decay: max_norm cannot be added to constrained or norm_target, which follow the same norm")


@dataclass(frozen=True, repr=False)
class Decay:
    """A sum of terms; made by the functions of this module. `a + b` acts as both.

    Raises ValueError for a sum of two that act in the same place and have no common unit.

    >>> from wdfast import decay
    >>> decay.elastic(l1=1e-5, l2=5e-4)
    elastic(l1=1e-05, l2=0.0005)
    >>> decay.l1(1e-5) + decay.decoupled(0.01)
    l1(1e-05) + decoupled(0.01)
    """

    terms: tuple[Term, ...] = ()

    def __post_init__(self) -> None:
        _check_sum(self.terms)

    def __add__(self, other: Any) -> Decay:
        if not isinstance(other, Decay):
            return NotImplemented
        return Decay(self.terms + other.terms)

    def __repr__(self) -> str:
        plain = {t.kind: t.strength for t in self.terms if isinstance(t.strength, float)}
        if not self.terms:
            return "none()"
        if len(plain) == len(self.terms) == 2 and set(plain) == {"l1", "l2"}:
            return f"elastic(l1={plain['l1']!r}, l2={plain['l2']!r})"
        if [t.kind for t in self.terms] == ["l1_adaptive", "l2_adaptive"]:
            one, two = (t.strength for t in self.terms)
            return f"elastic(l1={one!r}, l2={two!r}, proximal=True, adaptive=True)"
        return " + ".join(map(repr, self.terms))

    def get_config(self) -> dict[str, Any]:
        """Plain JSON values, which `decay.get` turns into the same decay again."""
        return {"terms": [term.get_config() for term in self.terms]}


@dataclass(frozen=True)
class PerLayer:
    """A decay for each parameter by pattern and role; made by `per_layer`."""

    layers: Mapping[str, Decay]
    default: Decay
    roles: Mapping[str, Decay]

    def of(self, parameter: Parameter) -> Decay:
        """The decay of one parameter."""
        if parameter.role in self.roles:
            return self.roles[parameter.role]
        if parameter.role not in DECAYED_ROLES:
            return none()
        layer = parameter.name.rsplit("/", 1)[0]
        for pattern, decay in self.layers.items():
            if fnmatch.fnmatchcase(parameter.name, pattern) or fnmatch.fnmatchcase(layer, pattern):
                return decay
        return self.default

    def get_config(self) -> dict[str, Any]:
        """Plain JSON values, which `decay.get` turns into the same again."""
        return {"layers": {k: d.get_config() for k, d in self.layers.items()}, "default": self.default.get_config(),
                "roles": {k: d.get_config() for k, d in self.roles.items()}}


def per_layer(layers: Mapping[str, Any], default: Any = None, roles: Mapping[str, Any] | None = None) -> PerLayer:
    """Decays by name: the first pattern (`*`, `?`, `[…]`) that a parameter's or its layer's name matches.

    Patterns choose among the parameters whose role decays (kernels, embeddings); `default` is for those that
    match none. `roles` says what decays the parameters of a role, whatever their name: {"bias": …}.

    >>> from wdfast import decay
    >>> decay.per_layer({"conv*": decay.l2(5e-4)}, roles={"bias": decay.l2(1e-5)}).default
    none()
    """
    return PerLayer({k: _plain(v) for k, v in layers.items()}, _plain(default),
                    {k: _plain(v) for k, v in (roles or {}).items()})


def none() -> Decay:
    """No decay.

    >>> from wdfast import decay
    >>> decay.none()
    none()
    """
    return Decay()


def l2(lambda_: float) -> Decay:
    """Coupled L2: g' = g + λ p, the penalty λ/2 Σp²; PyTorch's `weight_decay` of SGD and Adam.

    Under Adam the penalty's gradient is divided by √v̂ like any other, so large gradients decay less
    (arXiv 1711.05101); `decoupled` is what AdamW does. Raises ValueError if λ is negative or not finite.

    >>> from wdfast import decay
    >>> decay.l2(5e-4)
    l2(0.0005)
    """
    return Decay((Term("l2", lambda_),))


def l1(lambda_: Any, proximal: bool = False, adaptive: bool = False) -> Decay:
    """Coupled L1: g' = g + λ sign(p), with sign(0) = 0; the penalty λ Σ|p|.

    `proximal`: instead p ← sign(p) max(|p| − η λ, 0) after the step, whose zeros are exact. With `adaptive` the
    threshold is η λ/(√v̂ + ε) under a rule that divides by that: ProxGen (Adaptive Proximal Gradient Methods,
    NeurIPS 2021; read in its authors' code, opt.py), which minimises loss + λ Σ|p| as Adam does the loss. The
    plain one thresholds all weights alike, as AdamW decays them. Raises ValueError if λ is negative or not finite,
    or for `adaptive` without `proximal`.

    >>> from wdfast import decay
    >>> decay.l1(1e-5)
    l1(1e-05)
    """
    _check_adaptive("l1", proximal, adaptive)
    return Decay((Term("l1_adaptive" if adaptive else "l1_proximal" if proximal else "l1", lambda_),))


def _check_adaptive(where: str, proximal: bool, adaptive: bool) -> None:
    if adaptive and not proximal:
        raise ValueError(f"decay.{where}: argument 'adaptive': is of a proximal decay, give proximal=True with it")


def elastic(l1: Any, l2: Any, proximal: bool = False, adaptive: bool = False) -> Decay:
    """Both penalties: g' = g + λ₁ sign(p) + λ₂ p; `proximal`: p ← soft(p, η λ₁)/(1 + η λ₂) after the step.

    With `adaptive` both λ are divided by √v̂ + ε, as in `l1`. Raises ValueError if a λ is negative or not finite,
    or for `adaptive` without `proximal`.

    >>> from wdfast import decay
    >>> decay.elastic(l1=1e-5, l2=5e-4) == decay.Decay(decay.l1(1e-5).terms + decay.l2(5e-4).terms)
    True
    """
    _check_adaptive("elastic", proximal, adaptive)
    if adaptive:
        return Decay((Term("l1_adaptive", l1), Term("l2_adaptive", l2, target=2.0)))
    if proximal:
        return Decay((Term("l1_proximal", l1), Term("p_norm", l2, target=2.0)))
    return Decay((Term("l1", l1), Term("l2", l2)))


def decoupled(lambda_: float) -> Decay:
    """Decoupled decay: p ← p (1 − η λ) beside the step, untouched by the optimizer's state.

    `weight_decay` of AdamW in PyTorch, Keras and Optax (arXiv 1711.05101 multiplies by the schedule alone,
    not by the learning rate η). Raises ValueError if λ is negative or not finite.

    >>> from wdfast import decay
    >>> decay.decoupled(0.01)
    decoupled(0.01)
    """
    return Decay((Term("decoupled", lambda_),))


def independent(lambda_: Any) -> Decay:
    """Decay independent of the learning rate: p ← p (1 − κ λ), κ = η/η_max, the schedule's multiplier.

    Sources: arXiv 1711.05101, Algorithm 2, read in its authors' code (AdamW-and-SGDW); used in 2309.14322. Raises
    ValueError if λ is negative or not finite.

    >>> from wdfast import decay
    >>> decay.independent(1e-4)
    independent(0.0001)
    """
    return Decay((Term("independent", lambda_),))


def corrected(lambda_: Any) -> Decay:
    """AdamC, SGDC: s = η² λ/η_max on weights whose output a normalisation rescales, η λ on others.

    Which are followed by one is `parameter.normed`: found in a model's graph, or set by hand. Source: arXiv
    2506.02285, Algorithm 1, known here from others' quotations of it and from timm's `corrected_weight_decay`
    (which takes s = η² λ/η_max for every weight); the paper itself could not be read. Raises ValueError if λ is
    negative or not finite.

    >>> from wdfast import decay
    >>> decay.corrected(0.01)
    corrected(0.01)
    """
    return Decay((Term("corrected", lambda_),))


def cautious(lambda_: Any) -> Decay:
    """Decoupled decay of only the weights whose step goes the same way: s = η λ where u·p ≥ 0, else 0.

    u is the direction of the whole step, as in Algorithm 1 of arXiv 2510.12402 (v2): x − η (u + λ 1[u·x ≥ 0] x).
    Raises ValueError if λ is negative or not finite.

    >>> from wdfast import decay
    >>> decay.cautious(0.01)
    cautious(0.01)
    """
    return Decay((Term("cautious", lambda_),))


def epochs(tau: Any) -> Decay:
    """Decay by timescale: s = 1 − exp(−κ/(τ M)), M steps per epoch: the weights' memory is τ epochs.

    κ = η/η_max is 1 while the rate is constant; then an epoch leaves exp(−1/τ) of a weight, for any learning
    rate and batch size. Good τ lie between 1 and the run's length. `fit` tells the optimizer M; elsewhere
    `optimizer.set_run(steps_per_epoch)`. Source: τ = 1/(η λ M), s = η λ of arXiv 2405.13698, of which the abstract
    and summaries were read; the two agree where τ M ≫ 1. Raises ValueError if τ is not above 0 and finite.

    >>> from wdfast import decay
    >>> decay.epochs(5)
    epochs(5.0)
    """
    return Decay((Term("epochs", tau),))


def normalized(lambda_norm: Any) -> Decay:
    """s = κ λ_norm √(b/(B T)): λ for b of B samples a batch and T epochs, so λ_norm/√(steps of the run).

    Source: arXiv 1711.05101, B.1 (0.025 there), read in its authors' code (AdamW-and-SGDW, train.lua). `fit`
    tells the optimizer the run's length; elsewhere `optimizer.set_run`. Raises ValueError if λ_norm is negative
    or not finite.

    >>> from wdfast import decay
    >>> decay.normalized(0.025)
    normalized(0.025)
    """
    return Decay((Term("normalized", lambda_norm),))


def toward(r: Mapping[str, Any] | None, lambda_: Any, coupled: bool = False) -> Decay:
    """Decay to an anchor: p ← p − η λ (p − r); `coupled`: g' = g + λ (p − r), L2-SP (arXiv 1802.01483).

    r: arrays by parameter name, each of its parameter's shape, or None: the weights as they are when the
    optimizer first sees them. L2-SP, read in its authors' code (TransferLearningClassification), has λ/2
    Σ(p − r)² on pretrained layers and an l2 of its own on new ones: `per_layer`. Raises ValueError if λ is
    negative or not finite.

    >>> from wdfast import decay
    >>> decay.toward(None, 0.01)
    toward(None, 0.01)
    """
    return Decay((Term("toward_l2" if coupled else "toward", lambda_, anchor=r),))


def p_norm(lambda_: Any, q: float) -> Decay:
    """The shrink of the penalty λ/q Σ|p|^q after the step: p ← (p − η u)/(1 + η λ |p|^(q−2)).

    q = 2 is proximal L2; for q < 2 a weight that is 0 stays 0, so start none there. Source: arXiv 2404.10824, its
    update rule read in a summary and in its authors' code (PAdam), whose λ is this one's λ/q. Raises ValueError
    if λ is negative or q not above 0.

    >>> from wdfast import decay
    >>> decay.p_norm(1e-3, q=1.5)
    p_norm(0.001, q=1.5)
    """
    return Decay((Term("p_norm", lambda_, target=q),))


def max_norm(c: float) -> Decay:
    """A bound instead of a pull: each output's weights w ← w·min(1, c/‖w‖) after the step; 3–4 is usual.

    The norm is over all axes but the last, the output's: a unit's incoming weights. Source: Srivastava et al.,
    JMLR 15, 2014, of which summaries were read; Keras' MaxNorm with those axes. Raises ValueError if c is not
    above 0 and finite.

    >>> from wdfast import decay
    >>> decay.max_norm(3)
    max_norm(3.0)
    """
    return Decay((Term("max_norm", _number("decay.max_norm: c", c, True)),))


def stable(lambda_: Any, exact: bool = False) -> Decay:
    """SWD, AdamS: s = η λ/√(mean v̂), the mean over the whole model; for rules that divide by √v̂.

    The mean is the one after the step before (so the first step does not decay); `exact` takes this step's, by
    a pass of its own: then it is AdamS to the letter. Source: arXiv 2011.11152, read in its authors' code
    (swd_optim/adams.py: the mean over all weights with a gradient, also those that do not decay). Their SGDS is
    `decoupled(λ/(1 − momentum))`. Raises ValueError if λ is negative.

    >>> from wdfast import decay
    >>> decay.stable(5e-4)
    stable(0.0005)
    """
    return Decay((Term("stable", lambda_, exact=exact),))


def constrained(kappa: float | None = None, exact: bool = False, *, initial: float | None = None,
                warm_start: int | None = None, inflection: int | None = None) -> Decay:
    """CPR: μ ← max(0, μ + (‖p‖² − κ)/n), p ← p (1 − 2μ), with one μ and one κ for each parameter of n weights.

    κ is one of four; until it is set, a parameter does not decay:

    - kappa: the same number for all (the paper's Kappa-K);
    - initial=k: k‖p₀‖², p₀ the weights before the first step (Kappa-kI0);
    - warm_start=s: ‖pₛ‖², p after s steps (Kappa-WS): best at twice the steps of the learning rate's warm-up;
    - inflection=m: ‖pₜ‖² at the first t at which it has begun to grow more slowly, R(t) − 2R(t−m) + R(t−2m) < 0 for
      R = ‖p‖² looked at every m steps (Kappa-IP): m a tenth of the warm-up. Under SGD it was found not to work.

    `model.decay_table()` shows each κ once it is set. One far below ‖p‖² throws the weights across 0 and beyond, for
    2μ grows by 2(‖p‖² − κ)/n a step. ‖p‖² is the sum that the step before left (the same, unless
    the weights were set since); `exact` sums again. Source: arXiv 2311.09058 (Algorithm 1, sections 4.3 and 5.1);
    no learning rate enters. The rate 1/n of μ is that of the authors' code (AdamCPR), which takes ‖p‖ and shrinks
    after the step, where the paper has the weights from before it, as here; and which looks for the inflection in
    a moving average, every 200 steps, where the paper has R itself, as here. Raises ValueError if a value is negative,
    not finite or, of steps, not whole, TypeError unless one is given.

    >>> from wdfast import decay
    >>> decay.constrained(10), decay.constrained(warm_start=1000)
    (constrained(10.0), constrained(warm_start=1000))
    """
    given = {"constrained": kappa, "constrained_initial": initial, "constrained_warm_start": warm_start,
             "constrained_inflection": inflection}
    chosen = [(kind, value) for kind, value in given.items() if value is not None]
    if len(chosen) != 1:
        raise TypeError("decay.constrained: expected one of kappa, initial, warm_start and inflection, "
                        f"got {', '.join(_TARGETS[kind] for kind, _ in chosen) or 'none'}")
    return Decay((Term(chosen[0][0], 1.0, target=chosen[0][1], exact=exact),))


def norm_target(rho: float, k: Any = 0.01, exact: bool = False) -> Decay:
    """Weight norm control: p ← p (1 − k (1 − ρ/‖p‖)): towards the norm ρ from both sides, for each parameter.

    ‖p‖ is the norm that the step before left (the same, unless the weights were set since); `exact` sums
    again. Source: the idea of arXiv 2311.11446, whose abstract and section 1 were read: decay is the case ρ = 0,
    p (1 − k). Its own formula for ρ > 0 could not be read, and it came without code; this one is k of the way to the
    norm ρ, the direction kept. The one quotation found has k max(0, 1 − ρ/‖p‖), which pulls from above only.
    Raises ValueError if ρ or k is negative or not finite.

    >>> from wdfast import decay
    >>> decay.norm_target(10)
    norm_target(10.0, k=0.01)
    """
    return Decay((Term("norm_target", k, target=rho, exact=exact),))


def from_keras_l2(l2: float) -> Decay:
    """What `keras.regularizers.L2(l2)` means: the penalty l2·Σp², so λ = 2·l2.

    >>> from wdfast import decay
    >>> decay.from_keras_l2(0.001)
    l2(0.002)
    """
    return Decay((Term("l2", 2 * l2),))


def from_sklearn(alpha: float, batch_size: int) -> Decay:
    """What `alpha` of scikit-learn's MLPs means: the penalty α/2 Σp² per batch, so λ = α/batch_size.

    >>> from wdfast import decay
    >>> decay.from_sklearn(0.0128, batch_size=128)
    l2(0.0001)
    """
    return l2(_number("decay.from_sklearn: alpha", alpha) / _number("decay.from_sklearn: batch_size", batch_size, True))


def _plain(value: Any) -> Decay:
    value = get(value)
    if isinstance(value, PerLayer):
        raise TypeError("decay: per_layer is for an optimizer; one parameter has one decay")
    return value


def get(value: Any) -> Any:
    """A Decay from itself, from None (no decay) or from its `get_config()`.

    A bare number is refused with TypeError: it does not say which kind of decay is meant.

    >>> from wdfast import decay
    >>> decay.get({"terms": [["decoupled", 0.01]]})
    decoupled(0.01)
    """
    if value is None:
        return Decay()
    if isinstance(value, (Decay, PerLayer)):
        return value
    if isinstance(value, dict) and "layers" in value:
        return per_layer(value["layers"], value["default"], value["roles"])
    if isinstance(value, dict):
        rows = [(kind, schedules.get(value) if isinstance(value, dict) else value, *rest)
                for kind, value, *rest in value["terms"]]
        return Decay(tuple(Term(*row) for row in rows))
    raise TypeError(f"decay: expected a value such as decay.decoupled(0.01) or decay.l2(5e-4), got {value!r}")


_NONE = none()


def of(parameter: Parameter, default: Decay | PerLayer) -> tuple[Term, ...]:
    """The terms that act on a parameter: its own decay, or else `default` if its role decays; and its
    regularizer's.

    >>> import numpy as np
    >>> from wdfast import decay
    >>> from wdfast.graph import Parameter
    >>> bias = Parameter(np.zeros(3, np.float32), role="bias", name="bias")
    >>> decay.of(bias, decay.l2(5e-4))
    ()
    """
    if parameter.decay is not None:
        chosen = _plain(parameter.decay)
    elif isinstance(default, PerLayer):
        chosen = default.of(parameter)
    else:
        chosen = default if parameter.role in DECAYED_ROLES else _NONE
    if parameter.regularizer is None:
        return chosen.terms
    terms = chosen.terms + parameter.regularizer.terms
    _check_sum(terms)
    return terms
