"""From parameters and their decays to the native step: the segment table, its clocks, and the ways to run it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _native, schedules
from . import decay as decays
from .graph import Parameter
from .ops.optimizer_step import ADDRESSES, FORMS, HYPER, NO_CLOCK, RATE_CLOCK, STATISTICS, TABLE, momentum_products

if TYPE_CHECKING:
    from ._optimizer import Optimizer

_STATE = ("anchor", "weights_average", "gradient_sum")  # after the rule's own arrays, in the native step's order
_AHEAD = 512  # steps whose values are made at once, where they cannot depend on what happens meanwhile


class Run(NamedTuple):
    """Parameters that lie in the same arrays, one after the other: one native call of a program. Or a matrix whose
    gradient is the product of two of the program's tensors, which are given instead of it."""

    value: np.ndarray
    grad: np.ndarray | None
    table: np.ndarray
    parameters: list[Parameter]
    factors: tuple[int, ...] = ()


class Appended(NamedTuple):
    """A step as it lies in a program: its ops, the shapes of what they are bound to, and these tensors."""

    form: Any
    bound: list[list[int]]


class Plan:
    """The step of some parameters. Those without a gradient, and empty ones, are left out."""

    def __init__(self, optimizer: Optimizer, parameters: Sequence[Parameter]) -> None:
        self.optimizer = optimizer
        self.parameters = [p for p in parameters if p.grad is not None and p.size]
        # (what a strength is multiplied by, its schedule) for each column of `hyper` after the fixed ones
        self.clocks: list[tuple[str | None, Any]] = [("update", None)] if optimizer.accumulated > 1 else []
        rows = optimizer.state.rows()
        table = [self._row(p, rows[id(p)]) for p in self.parameters]
        self.table = np.array([[row[name] for name in TABLE] for row in table]).reshape(-1, len(TABLE))
        self.runs: list[Run] = []
        self._penalties: list[tuple[int, int, np.ndarray, np.ndarray | None]] = []
        self._passes = optimizer.passes()
        self._allocated = optimizer.state.allocations
        self.appended: Appended | None = None  # where another plan can take its place
        self._addresses: np.ndarray | None = None
        self._rows: tuple[Any, int, np.ndarray] | None = None  # made ahead: what they depend on, first step, values

    @property
    def outdated(self) -> bool:
        """Whether the state has moved since the plan was made."""
        return self._allocated != self.optimizer.state.allocations

    # ---- the table --------------------------------------------------------------------------------------

    def _row(self, p: Parameter, memory_row: int) -> dict[str, float]:
        row = dict.fromkeys(TABLE, 0.0)
        row |= {"state_at": self.optimizer.state.offsets[id(p)], "length": p.size, "rate_share": 1.0,
                "l2_clock": NO_CLOCK, "l1_clock": NO_CLOCK, "memory_row": memory_row,
                "outputs": p.shape[-1] if len(p.shape) > 1 else 1}
        for term in decays.of(p, self.optimizer.decay):
            self._add(row, term, p)
        return row

    def _add(self, row: dict[str, float], term: decays.Term, p: Parameter) -> None:
        """Writes a term into a parameter's row."""
        if term.form == "stable" and not self.optimizer.divides:
            raise ValueError(f"{self.optimizer.name}: decay.stable is for rules that divide by √v̂; weight '{p.name}'")
        schedule = term.schedule
        if schedule is not None:
            row[term.place] = 1.0
        else:
            row[term.place] += term.strength
        if term.anchored:
            row["anchored"] = 1.0
        if term.adaptive and self.optimizer.divides:  # the metric of the others is 1
            row["adaptive"] = 1.0
        if term.place == "shrink":
            row["form"], row["target"] = float(FORMS.index(term.form)), term.target
        if term.place == "proximal_l2":
            row["power"] = term.target
        if term.place != "max_norm":
            clock = term.clock if term.clock != "corrected" or p.normed else "rate"
            row[f"{term.place}_clock"] = self._clock(clock, schedule)

    def _clock(self, clock: str | None, schedule: Any) -> float:
        """The column of `hyper` that holds a clock, a new one if there is none yet."""
        if schedule is None and clock in (None, "rate"):
            return NO_CLOCK if clock is None else RATE_CLOCK
        if (clock, schedule) not in self.clocks:
            self.clocks.append((clock, schedule))
        return float(len(HYPER) + self.clocks.index((clock, schedule)))

    def hyper(self, first_call: int, n: int) -> np.ndarray:
        """The values fed to calls first_call … first_call+n−1, counted from 0: float64 (n, K), not to be changed."""
        optimizer = self.optimizer
        if first_call == 0:
            optimizer.first_sight()  # weights may have been set since `build`
        depends = optimizer.depends()
        if self._rows is not None:
            known, first, rows = self._rows
            if first <= first_call and first_call + n <= first + len(rows) and known == depends:
                return rows[first_call - first : first_call - first + n]
        # A callable is asked step by step, for it may look at the world.
        fixed = all(s is None or isinstance(s, schedules.Constant) for s in (depends[0], *(s for _, s in self.clocks)))
        rows = self._made(first_call, max(n, _AHEAD) if fixed else n)
        self._rows = (depends, first_call, rows) if fixed else None
        return rows[:n]

    def _made(self, first_call: int, n: int) -> np.ndarray:
        """`hyper`, whatever was made ahead."""
        optimizer = self.optimizer
        calls = np.arange(first_call, first_call + n)
        steps = calls // optimizer.accumulated
        rates = optimizer.rates(steps)
        rows = np.ones((n, len(HYPER) + len(self.clocks)))
        rows[:, HYPER.index("rate")] = rates
        rows[:, HYPER.index("step")] = steps + 1
        if optimizer.attrs["rule"] == "nadam":
            constants = optimizer.attrs["beta_1"], optimizer.attrs["momentum_decay"]
            products = momentum_products(*constants, int(steps[0]) + 1, int(steps[-1] - steps[0]) + 1)
            rows[:, HYPER.index("momentum_product")] = products[steps - steps[0]]
        for column, (clock, schedule) in enumerate(self.clocks, len(HYPER)):
            if clock == "update":
                rows[:, column] = (calls + 1) % optimizer.accumulated == 0
            else:
                rows[:, column] = optimizer.clock_values(clock, schedule, steps, rates)
        return rows

    def penalty(self, statistics: Sequence[np.ndarray], hyper: np.ndarray) -> Any:
        """Σ λ₁ Σ|p| + λ₂/2 Σp² over the parameters: what regularizers and coupled decay add to the loss.

        statistics: the outputs named by `append`, in that order, each (…, parameters, 6); the result has
        their leading axes, one value per row of `hyper`. A decoupled decay has no penalty; that of a coupled
        one towards an anchor is not in the statistics, and left out.
        """
        total: Any = 0.0
        for run, statistic, strengths, clocks in self._penalties:
            sums = statistics[run][..., statistic]
            if clocks is not None:
                sums = sums * np.hstack([hyper, np.ones((len(hyper), 1))])[:, clocks]
            total = total + sums @ strengths
        return total

    def _find_penalties(self) -> list[tuple[int, int, np.ndarray, np.ndarray | None]]:
        """What is penalised: the run, the column of its statistics, a strength for each parameter, their clocks."""
        found = []
        for i, run in enumerate(self.runs):
            for place, statistic, half in (("l1", "magnitudes", 1.0), ("l2", "squares", 0.5)):
                at = TABLE.index(place)
                strengths = half * run.table[:, at] * (run.table[:, TABLE.index("anchored")] == 0)
                clocks = run.table[:, at + 1].astype(int)
                if strengths.any():
                    timed = (clocks[strengths > 0] != NO_CLOCK).any()
                    found.append((i, STATISTICS.index(statistic), strengths, clocks if timed else None))
        return found

    # ---- in a program -----------------------------------------------------------------------------------

    def append(self, program: Any, *, measured: bool,
               factors: dict[int, tuple[int, int]] | None = None) -> tuple[int, list[int]]:
        """Appends the step to a native Program, after its `differentiate`.

        factors: by the id of a parameter, x and dy of its gradient, where the program does not make that.
        Returns the feed that takes a row of `hyper`, and for each of `runs` its output: float64, a row of statistics
        per parameter. No outputs unless they are `measured` or `penalty` needs them: a step in cache is a third
        faster without.
        """
        self.runs, statistics = self._find_runs(factors or {}), []
        self._penalties = self._find_penalties()
        wanted = measured or bool(self._penalties)
        hyper = program.feed([len(HYPER) + len(self.clocks)], "float64")
        bound = [[-1 if array is None else program.bind(array) for array in arrays] for arrays in self._arrays()]
        more = [(-1, *run.factors) if run.factors else () for run in self.runs]
        for attrs in self._passes:
            attrs = attrs | {"statistics": float(wanted)}
            statistics = [program.op("optimizer_step", [*ids[:3], hyper, *ids[3:], *factors], attrs)[0]
                          for ids, factors in zip(bound, more, strict=True)]
        self.appended = None if factors else Appended(self._form(), bound)
        return hyper, statistics if wanted else []

    def take_over(self, before: Appended, program: Any) -> bool:
        """Takes the place of the plan that was appended to a program; False where they differ in more than numbers."""
        self.runs = self._find_runs({})
        self._penalties = self._find_penalties()
        if self._form() != before.form:
            return False
        for tensors, arrays in zip(before.bound, self._arrays(), strict=True):
            for tensor, array in zip(tensors, arrays, strict=True):
                if array is not None:
                    program.rebind(tensor, array)
        self.appended = before
        return True

    def _arrays(self) -> list[list[np.ndarray | None]]:
        """What the native step of each run works on, in its order; `hyper` comes after the first three."""
        state = [*self._state_arrays(), self.optimizer.state.memory]
        return [[run.value, run.grad, run.table, *state] for run in self.runs]

    def _form(self) -> Any:
        """What a program depends on besides the numbers in the arrays."""
        shapes = [[None if array is None else (array.shape, array.dtype) for array in arrays]
                  for arrays in self._arrays()]
        return self._passes, len(self.clocks), bool(self._penalties), shapes

    def _find_runs(self, factors: dict[int, tuple[int, int]]) -> list[Run]:
        """The parameters that rise through the same arrays, each group with its part of the table."""
        runs: list[Run] = []
        table, end = self.table.copy(), 0
        columns = [TABLE.index("parameter_at"), TABLE.index("gradient_at")]
        for i, p in enumerate(self.parameters):
            for what, array in (("value", p.value), ("gradient", p.grad)):
                usable = array.flags.c_contiguous and array.flags.aligned
                if array.dtype != np.float32 or array.shape != p.shape or not usable:
                    raise ValueError(f"{self.optimizer.name}: weight '{p.name}': expected its {what} as contiguous "
                                     f"{p.shape} float32, got {array.shape} {array.dtype}")
            if id(p) in factors:
                runs.append(Run(p.value.reshape(-1), None, table[i : i + 1], [p], factors[id(p)]))
                continue
            (value, at), (grad, grad_at) = _whole(p.value), _whole(p.grad)
            table[i, columns] = at, grad_at
            if runs and runs[-1].value is value and runs[-1].grad is grad and at >= end:
                runs[-1].parameters.append(p)
                runs[-1] = runs[-1]._replace(table=table[i + 1 - len(runs[-1].parameters) : i + 1])
            else:
                runs.append(Run(value, grad, table[i : i + 1], [p]))
            end = at + p.size
        return runs

    def _state_arrays(self) -> list[np.ndarray | None]:
        arrays, own = self.optimizer.state.arrays, self.optimizer.state.initial
        return [*map(arrays.get, own), *[None] * (3 - len(own)), *map(arrays.get, _STATE)]

    # ---- now --------------------------------------------------------------------------------------------

    def step(self, names: Sequence[str], values: list[np.ndarray], grads: list[np.ndarray]) -> None:
        """One step of arrays in the parameters' places; raises, with nothing written, if they cannot take it.

        names: of each value and then of each gradient, for messages.
        """
        if self._addresses is None:
            self._addresses = np.zeros((len(self.table), len(ADDRESSES)))
            size = sum(p.size for p in self.parameters)
            self._eager = [attrs | {"elements": size, "statistics": 0} for attrs in self._passes]
            at = self.table[:, TABLE.index("state_at")]
            for column, array in enumerate(self._state_arrays(), 2):
                if array is not None:
                    self._addresses[:, column] = array.ctypes.data + array.itemsize * at
        _native.locate(names, values, grads, self._addresses)
        optimizer = self.optimizer
        now = self.hyper(optimizer.iterations, 1)[0]
        inputs = [None, None, self.table, now, *[None] * 6, optimizer.state.memory, self._addresses]
        for attrs in self._eager:
            _native.execute("optimizer_step", inputs, attrs)


def _whole(view: np.ndarray) -> tuple[np.ndarray, int]:
    """The float32 array that owns the memory of a view, if there is one, and where in it the view begins."""
    base = view.base
    if isinstance(base, np.ndarray) and base.dtype == np.float32 and base.flags.carray:
        return base, (_address(view) - _address(base)) // 4
    return view, 0


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]  # three times as fast as array.ctypes
