"""What all optimizers share: the schedule, the decay, the state, and the way into the native step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from . import _native, schedules, telemetry
from . import decay as decays
from ._options import NATIVE, checked_options
from ._plan import Plan
from ._state import State
from .graph import Parameter, Role
from .ops._dispatch import as_array
from .ops.optimizer_step import ADDRESSES, FORMS, HYPER, MEMORY, first_memory
from .progress import Table
from .regularizers import PenaltyGradients

_PENALISED = ("sgd", "momentum", "nesterov")  # rules in which a coupled l2 shrinks as much as a decoupled one
_SAMPLES = 1 << 16  # steps at which a longer run's schedules are read to tell its shrink


class Optimizer:
    """Base of the optimizers: schedule, decay, state, ways to step. A subclass names a rule and constants.

    `learning_rate` (or `lr`) is a number, a schedule or a callable step → rate, and may be set between fits.
    `iterations` counts the calls of a step.

    Keras' keyword arguments of all optimizers: clipvalue (g' = clip(g, ±c)), clipnorm (g' = g·min(1, c/‖g‖) for
    each parameter), global_clipnorm (over all of them), at most one of the three; use_ema, ema_momentum: a
    moving average of the weights, a ← m a + (1−m) p after each step, which `finalize_variable_values` writes
    into the weights (`fit` does so at its end); gradient_accumulation_steps: every n-th call steps, with the
    mean of n gradients.

    state_dtype="bfloat16" halves the memory of the rule's state (momentum, v, …; the weights, their average and
    the sum of gradients stay float32): it is kept as the uint16 of its bits, and rounded stochastically, so that
    small steps are not lost, by bits that depend on the step and the place alone.
    """

    def __init__(self, rule: str, slots: dict[str, float], constants: dict[str, float], learning_rate: Any,
                 weight_decay: float | None, decay: Any, name: str | None, options: dict[str, Any]) -> None:
        self._options = checked_options(type(self).__name__, options)
        self.name = name or type(self).__name__.lower()
        for key, value in constants.items():
            below = np.inf if key in ("epsilon", "momentum_decay") else 1
            if not 0 <= value < below:
                where = f"{type(self).__name__}: argument '{key}'"
                raise ValueError(f"{where}: expected a number in [0, {below}), got {value!r}")
        if weight_decay is not None and decay is not None:
            raise ValueError(f"{type(self).__name__}: give 'weight_decay' or 'decay', not both")
        self.learning_rate = learning_rate
        self.iterations = 0
        self._decay = decays.get(decay) if weight_decay is None else decays.decoupled(weight_decay)
        self.attrs = {"rule": rule} | {key: float(value) for key, value in constants.items()}  # of the native step
        narrow = self._options["state_dtype"] == "bfloat16"
        if narrow:
            self.attrs["rounding_seed"] = 0
        self.state = State(self.name, slots, narrow)
        self.steps_per_epoch: int | None = None
        self.total_steps: int | None = None
        if self.accumulated > 1:
            self.attrs |= {"accumulation_steps": float(self.accumulated), "accumulation_clock": float(len(HYPER))}
        self.attrs |= {native: float(self._options[key]) for key, native in NATIVE.items() if self._options[key]}
        if self._options["use_ema"]:
            self.attrs["average_momentum"] = float(self._options["ema_momentum"])
        # What the plan of the last `apply` or `step` depends on, the plan, and what to call its arrays.
        self._planned: tuple[Any, Plan, list[str]] | None = None
        self._foreign: list[Parameter] = []  # what `step` was first called with
        self._penalties = PenaltyGradients()

    # ---- settings ---------------------------------------------------------------------------------------

    @property
    def learning_rate(self) -> float:
        """The rate of the next step; set it to a number, a schedule or a callable."""
        return float(self._schedule(self.iterations // self.accumulated))

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        schedule = schedules.get(value)
        before = getattr(self, "_schedule", None)
        known = self._peak if isinstance(before, schedules.Constant) else 0.0
        constant = isinstance(schedule, schedules.Constant)
        self._peak = max(known or 0.0, schedule.learning_rate) if constant else None  # else found when asked for
        self._schedule = schedule

    def _peak_rate(self) -> float:
        """The highest learning rate, which decays that follow the schedule's shape are relative to."""
        if self._peak is None:
            self._peak = self._schedule.peak()
        return self._peak or 1.0

    @property
    def accumulated(self) -> int:
        """How many calls make a step."""
        return self._options["gradient_accumulation_steps"] or 1

    def set_run(self, steps_per_epoch: int | None, total_steps: int | None = None) -> None:
        """Tells how long an epoch and the run are, in calls of a step: what `decay.epochs` and `normalized` need."""
        self.steps_per_epoch, self.total_steps = steps_per_epoch, total_steps

    @property
    def lr(self) -> float:
        """Alias of `learning_rate`."""
        return self.learning_rate

    @lr.setter
    def lr(self, value: Any) -> None:
        self.learning_rate = value

    @property
    def decay(self) -> decays.Decay:
        """What decays the parameters that have no decay of their own; fixed when the optimizer is made."""
        return self._decay

    def _config(self) -> dict[str, Any]:
        return {}

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this optimizer again, as JSON values; a callable becomes its rate now."""
        schedule = self._schedule
        if isinstance(schedule, (schedules.Constant, schedules.Function)):
            rate: Any = self.learning_rate
        else:
            rate = {"class_name": type(schedule).__name__, "config": schedule.get_config()}
        return {"name": self.name, "learning_rate": rate, **self._config(), **self._options,
                "decay": self.decay.get_config()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Optimizer:
        """The optimizer that `get_config()` describes, without its state."""
        return cls(**config)

    def fresh(self, *, decay: Any = None, learning_rate: float | None = None) -> Optimizer:
        """This optimizer before its first step, with another decay, or another highest learning rate.

        >>> from wdfast import decay, optimizers, schedules
        >>> optimizers.SGD(schedules.Linear(0.1, 10)).fresh(decay=decay.l2(1e-4), learning_rate=0.2).learning_rate
        0.2
        """
        made = self.from_config(self.get_config() | ({} if decay is None else {"decay": decay}))
        made.learning_rate = self._schedule
        if learning_rate is not None:
            constant = isinstance(self._schedule, schedules.Constant)
            made._peak = 0.0  # a constant rate that is lowered in a run is relative to the highest; this is a new run
            made.learning_rate = learning_rate if constant else self._schedule * (learning_rate / self._peak_rate())
        return made

    def __repr__(self) -> str:
        told = ""
        epoch = self.shrink_per_epoch(self.decay.terms) if isinstance(self.decay, decays.Decay) else None
        if epoch:
            run = self.shrink(self.decay.terms, self.total_steps)
            told = f" ({_percent(epoch)} per epoch" + (f", {_percent(run)} over the run)" if run else ")")
        return f"<{type(self).__name__} learning_rate={self._schedule!r} decay={self.decay!r}{told}>"

    # ---- state ------------------------------------------------------------------------------------------

    def build(self, parameters: Iterable[Parameter]) -> None:
        """Allocates the state of trainable parameters. The same list changes nothing; in another, the
        parameters that were there before keep their state.
        """
        parameters = self._distinct(p for p in parameters if p.trainable)
        if [id(p) for p in parameters] != [id(p) for p in self.state.parameters]:
            self._allocate(parameters)

    def _allocate(self, parameters: list[Parameter]) -> None:
        terms = [decays.of(p, self.decay) for p in parameters]
        extra = [name for name, wanted in {
            "anchor": any(t.anchored for own in terms for t in own), "weights_average": self._options["use_ema"],
            "gradient_sum": self.accumulated > 1}.items() if wanted]
        remembers = any(FORMS.index(t.form) >= FORMS.index("stable") for own in terms for t in own)
        self.first_sight(self.state.allocate(parameters, extra, remembers or self._clips_norms))
        self.state.settle()
        self._planned = None

    @property
    def _clips_norms(self) -> bool:
        return bool(self._options["clipnorm"] or self._options["global_clipnorm"])

    def first_sight(self, new: Mapping[str, list[Parameter]] | None = None) -> None:
        """Anchors, averages and norms of weights as they are before their first step.

        new: by array those that it has nothing of yet; None: all.
        """
        state = self.state

        def unseen(name: str) -> list[Parameter]:
            there = name in state.arrays or (name == "memory" and state.memory is not None)
            return [] if not there else state.parameters if new is None else new[name]

        for p in unseen("anchor"):
            given = next((t.anchor for t in decays.of(p, self.decay) if t.anchored and t.anchor is not None), None)
            anchor = p.value if given is None else np.asarray(given[p.name], np.float32)
            if anchor.shape != p.shape:
                raise ValueError(f"decay.toward: argument 'r': '{p.name}': expected shape {p.shape}, "
                                 f"got {anchor.shape}")
            state.of("anchor", p)[:] = anchor.reshape(-1)
        for p in unseen("weights_average"):
            state.of("weights_average", p)[:] = p.value.reshape(-1)
        rows = state.rows()
        for p in unseen("memory"):
            state.memory[rows[id(p)]] = first_memory(p.value)

    def bound(self, parameter: Parameter) -> float | None:
        """κ of a parameter that `decay.constrained` decays, if it is set."""
        term = next((t for t in decays.of(parameter, self.decay) if t.form.startswith("constrained")), None)
        if term is None or term.form == "constrained":
            return term and term.target
        row = self.state.rows().get(id(parameter))
        kappa = -1 if row is None or self.state.memory is None else self.state.memory[row, MEMORY.index("bound")]
        return float(kappa) if kappa >= 0 else None

    def finalize_variable_values(self, parameters: Iterable[Parameter]) -> None:
        """Overwrites weights with their moving averages, if the optimizer keeps them and has made a step."""
        if self._options["use_ema"] and self.iterations >= self.accumulated:
            for p in parameters:
                if id(p) in self.state.offsets:
                    p.value[...] = self.state.of("weights_average", p).reshape(p.shape)

    def _distinct(self, parameters: Iterable[Parameter]) -> list[Parameter]:
        kept = list(parameters)
        seen: set[int] = set()
        for p in kept:
            if id(p) in seen:
                raise ValueError(f"{self.name}: weight '{p.name}' was given twice")
            seen.add(id(p))
        return kept

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on besides the weights: numbers, and arrays (parameters in order)."""
        state: dict[str, Any] = {"iterations": self.iterations}
        if isinstance(self._schedule, schedules.Constant):
            state |= {"learning_rate": self.learning_rate, "peak_rate": self._peak}
        return state | self.state.values()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a `state_dict()` back, exactly, after checking it; before `build` it waits for parameters."""
        expected = {"iterations", *self.state.initial}
        optional = {"learning_rate", "peak_rate", "anchor", "weights_average", "gradient_sum", "memory"}
        if not expected <= set(state) <= expected | optional:
            raise ValueError(f"{self.name}: expected a state of {sorted(expected)}, got {sorted(state)}")
        rate = schedules.get(state["learning_rate"]) if "learning_rate" in state else self._schedule
        self.state.load({k: v for k, v in state.items() if k not in ("iterations", "learning_rate", "peak_rate")})
        self._schedule = rate
        self._peak = float(state.get("peak_rate", rate.learning_rate)) if isinstance(rate, schedules.Constant) else None
        self.iterations = int(state["iterations"])

    # ---- the step ---------------------------------------------------------------------------------------

    def plan(self, parameters: Iterable[Parameter]) -> Plan:
        """The step of some parameters, with state for those that have none yet."""
        parameters = self._distinct(parameters)
        terms = [term for p in parameters for term in decays.of(p, self.decay)]
        missing = [p for p in parameters if id(p) not in self.state.offsets]
        if missing or (any(t.anchored for t in terms) and "anchor" not in self.state.arrays) or (
                self.state.memory is None and any(FORMS.index(t.form) >= FORMS.index("stable") for t in terms)):
            self._allocate([*self.state.parameters, *missing])
        return Plan(self, parameters)

    def passes(self) -> list[dict[str, Any]]:
        """The attributes of the native calls of a step: the step, after one that measures if a norm asks for it."""
        exact = any(t.exact for p in self.state.parameters for t in decays.of(p, self.decay))
        bounded = sum(p.shape[-1] if len(p.shape) > 1 else 1 for p in self.state.parameters
                      if any(t.place == "max_norm" for t in decays.of(p, self.decay)))
        attrs = self.attrs | ({"exact": 1.0} if exact else {}) | ({"bounded_outputs": bounded} if bounded else {})
        return [*([attrs | {"measure": 1.0}] if exact or self._clips_norms else []), attrs]

    @property
    def divides(self) -> bool:
        """Whether the rule divides by √v̂, the root of a mean of squared gradients."""
        return self.attrs["rule"] not in (*_PENALISED, "lion")

    def depends(self) -> tuple[Any, ...]:
        """What `rates` and `clock_values` depend on besides the step."""
        return self._schedule, self._peak, self.steps_per_epoch, self.total_steps

    def rates(self, steps: np.ndarray) -> np.ndarray:
        """The learning rate at each step, float64; ValueError where it is negative or not finite."""
        rates = np.asarray(self._schedule(steps), dtype=np.float64)
        wrong = ~(np.isfinite(rates) & (rates >= 0))
        if wrong.any():
            at = int(np.argmax(wrong))
            raise ValueError(f"{self.name}: learning_rate at step {steps[at]}: expected a finite number ≥ 0, "
                             f"got {rates[at]}")
        return rates

    def clock_values(self, clock: str | None, schedule: Any, steps: np.ndarray, rates: np.ndarray) -> np.ndarray:
        """What a strength is multiplied by at each step; a schedule of λ is part of it."""
        values = np.ones(len(steps))
        if clock == "rate":
            values = rates
        elif clock == "corrected":
            values = rates**2 / self._peak_rate()
        elif clock is not None:
            values = rates / self._peak_rate()
        if clock in ("epochs", "normalized"):
            length = self.steps_per_epoch if clock == "epochs" else self.total_steps
            if not length:
                raise ValueError(f"{self.name}: decay.{clock} needs the run's length: call fit, or "
                                 "optimizer.set_run(steps_per_epoch, total_steps)")
            length = length / self.accumulated
            values = values / (length if clock == "epochs" else np.sqrt(length))
        if schedule is None:
            return values
        strengths = np.asarray(schedule(steps), dtype=np.float64)
        if not (np.isfinite(strengths).all() and (strengths > 0 if clock == "epochs" else strengths >= 0).all()):
            raise ValueError(f"{self.name}: the schedule of a decay left its domain: λ must be finite and ≥ 0, τ > 0")
        return -np.expm1(-values / strengths) if clock == "epochs" else values * strengths

    def shrink(self, terms: Sequence[decays.Term], calls: int | None, first: int = 0,
               normed: bool = False) -> float | None:
        """1 − Π(1 − s): what part of a weight decays in so many calls from call `first`, the gradient aside.

        With SGD a coupled l2 counts as η λ/(1 − momentum). normed: whether a normalisation follows, for `corrected`.
        None where the shrink depends on the weights, or on a length that is not known.
        """
        momentum = self.attrs["momentum"] if self.attrs["rule"] in ("momentum", "nesterov") else 0.0
        if not calls or (any(t.clock == "epochs" for t in terms) and not self.steps_per_epoch):
            return None
        if any(t.clock == "normalized" for t in terms) and not self.total_steps:
            return None
        steps = max(calls // self.accumulated, 1)
        times = np.unique(np.linspace(0, steps - 1, min(steps, _SAMPLES)).astype(np.int64)) + first // self.accumulated
        rates, left, known = np.asarray(self._schedule(times), np.float64), np.zeros(len(times)), False
        for t in terms:
            factor = 1.0 if t.schedule else t.strength
            clock = "rate" if t.clock == "corrected" and not normed else t.clock
            values = factor * self.clock_values(clock, t.schedule, times, rates)
            if t.place == "l2" and self.attrs["rule"] in _PENALISED:
                values = values * rates / (1 - momentum)
            elif t.place != "shrink" or t.form not in ("plain", "cautious"):
                continue
            with np.errstate(divide="ignore"):  # log 0: nothing is left
                left, known = left + np.log1p(-np.minimum(values, 1)), True
        return float(-np.expm1(steps * left.mean())) if known else None

    def shrink_per_epoch(self, terms: Sequence[decays.Term], normed: bool = False) -> float | None:
        """The `shrink` of an epoch, the mean over the run if its length is known; None if an epoch's is not."""
        run = self.shrink(terms, self.total_steps, normed=normed)
        if not self.steps_per_epoch or not run:
            return self.shrink(terms, self.steps_per_epoch, normed=normed)
        return 1 - (1 - run) ** (self.steps_per_epoch / self.total_steps)

    def decay_table(self, parameters: Iterable[Parameter]) -> Table:
        """As `Model.decay_table`, of any parameters; the shrink is that of the next step if no epoch is known."""
        return telemetry.decay_table(self, parameters)

    # ---- on arrays --------------------------------------------------------------------------------------

    def apply(self, parameters: Any) -> None:
        """One step of a model's or a list's parameters with the gradients they hold.

        Those without a gradient and those that are frozen stay as they are, to the bit. What a regularizer made of
        ops adds to a gradient is added to it first.
        """
        parameters = [p for p in getattr(parameters, "parameters", parameters) if p.trainable]
        self._penalties.add(parameters)
        self._step(parameters, [part for p in parameters for part in
                                (id(p), p.grad is None, id(p.decay), id(p.regularizer), p.normed)],
                   lambda p: [f"{self.name}: weight '{p.name}': its {what}" for what in ("value", "gradient")])

    def _step(self, parameters: list[Parameter], depends: Any, call: Callable[[Parameter], list[str]]) -> None:
        """One step with a plan that is made when what it depends on changes; `call` names value and gradient."""
        if self._planned is None or self._planned[0] != depends:
            plan = self.plan(parameters)
            names = [name for both in zip(*map(call, plan.parameters), strict=True) for name in both]
            self._planned = depends, plan, names
        _, plan, names = self._planned
        plan.step(names, [p.value for p in plan.parameters], [p.grad for p in plan.parameters])
        self.iterations += 1

    def step(self, params: Sequence[Any], grads: Sequence[Any], roles: Sequence[Role] | None = None) -> None:
        """One step on foreign arrays, in place: NumPy arrays, PyTorch CPU tensors, whatever has DLPack.

        params: float32, writable and contiguous, without overlap; grads: the same shapes, or None where there
        is none. State belongs to the position in the list. `roles` says what each is, if not all are to
        decay: "kernel" by default. Raises TypeError or ValueError, with nothing written, for arrays that do
        not fit.

        >>> import numpy as np
        >>> from wdfast import optimizers
        >>> w = np.ones(3, np.float32)
        >>> optimizers.SGD(0.5, weight_decay=0.5).step([w], [np.ones(3, np.float32)])
        >>> w
        array([0.25, 0.25, 0.25], dtype=float32)
        """
        where = f"{type(self).__name__}.step"
        if len(params) != len(grads):
            raise ValueError(f"{where}: argument 'grads': expected {len(params)} arrays, got {len(grads)}")
        if roles is not None and len(roles) != len(params):
            raise ValueError(f"{where}: argument 'roles': expected {len(params)}, got {len(roles)}")
        values = [_foreign(where, "params", i, value) for i, value in enumerate(params)]
        slopes = [None if g is None else _foreign(where, "grads", i, g) for i, g in enumerate(grads)]
        depends = [value.shape for value in values], [g is None for g in slopes], roles
        if self._planned is None or self._planned[0] != depends:
            self._meet(where, values, slopes, roles)
        for parameter, value, slope in zip(self._foreign, values, slopes, strict=True):
            parameter.value, parameter.grad = value, slope
        self._step(self._foreign, depends, lambda p: [f"{where}: argument '{what}[{p.name}]'"
                                                      for what in ("params", "grads")])

    def _meet(self, where: str, values: list[Any], slopes: list[Any], roles: Sequence[Role] | None) -> None:
        """Checks arrays before there is state for them, and gives each a Parameter to keep it by."""
        given = [i for i, slope in enumerate(slopes) if slope is not None]
        names = [f"{where}: argument '{what}[{i}]'" for what in ("params", "grads") for i in given]
        _native.locate(names, [values[i] for i in given], [slopes[i] for i in given],
                       np.empty((len(given), len(ADDRESSES))))
        shapes = [value.shape for value in values]
        if self._foreign and shapes != [p.shape for p in self._foreign]:
            raise ValueError(f"{where}: argument 'params': expected the shapes of the first call, "
                             f"{[p.shape for p in self._foreign]}, got {shapes}")
        if not self._foreign:
            self._foreign = [Parameter(value, role="kernel", name=str(i)) for i, value in enumerate(values)]
        for parameter, role in zip(self._foreign, roles or (), strict=False):
            parameter.role = role


def _percent(part: float) -> str:
    return f"−{100 * part:.3g} %"


def _foreign(where: str, argument: str, i: int, value: Any) -> np.ndarray:
    if type(value) is np.ndarray:  # the common case; the native side checks it
        return value
    if hasattr(value, "detach"):  # a PyTorch tensor that requires a gradient is not exported otherwise
        value = value.detach()
    return as_array(where, f"{argument}[{i}]", value, in_place=argument == "params")
