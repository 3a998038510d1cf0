"""Compiled steps that outlive the training they were made for: a model of the same network goes on with them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from .steps import Arrays, DataStep, Objective

if TYPE_CHECKING:
    from .models import Model

_IDLE_BYTES = 1 << 28  # of memory that steps without a model may hold
_lock = threading.Lock()


class Programs:
    """The steps of models that are trained one after another, or in turns, on the same arrays.

    What is given back is taken by the next model whose step would compute the same with other numbers: then its
    weights, gradients and the optimizer's state are bound in the place of the last one's, which takes a tenth of the
    time that a program takes to make. A step serves one model at a time. A network, its loss or metrics, the batch,
    the precision, which weights train, or an optimizer that are others make another program.
    """

    def __init__(self) -> None:
        self._idle: list[tuple[Any, DataStep]] = []

    def __getstate__(self) -> dict[str, Any]:
        return {"_idle": []}  # programs stay in their process

    def take(self, model: Model, objective: Objective, arrays: Arrays, batch: int, **how: Any) -> DataStep:
        """A step as `DataStep` makes it, for this model alone until it is given back."""
        what = _computed(model, objective, arrays, batch, how)
        while (step := self._found(what)) is not None:
            if step.adopt(model, objective):
                break
        else:
            step = DataStep(model, objective, arrays, batch, **how)
        step.computes = what
        return step

    def _found(self, what: Any) -> DataStep | None:
        with _lock:
            at = next((i for i, (known, _) in enumerate(self._idle) if known == what), None)
            return None if at is None or what is None else self._idle.pop(at)[1]

    def give(self, step: DataStep) -> None:
        """Takes a step back; the model that it served must not run it again."""
        if step.computes is None or not step.leave():
            return
        with _lock:
            self._idle.append((step.computes, step))
            size = sum(idle.native.arena_bytes for _, idle in self._idle)
            while size > _IDLE_BYTES:
                size -= self._idle.pop(0)[1].native.arena_bytes


def _computed(model: Model, objective: Objective, arrays: Arrays, batch: int, how: dict[str, Any]) -> Any:
    """All that a step's program depends on but the numbers in it; None where it is not known."""
    trained, moving = ({id(p) for p in group} for group in (model.trained, model.moving))
    if objective.signature is None or any(p.regularizer and not p.regularizer.native for p in model.trained):
        return None
    data = [*arrays.inputs, *arrays.labels, arrays.weights]  # a step keeps them alive, and with them their ids
    return (objective.signature, [(id(p) in trained, id(p) in moving) for p in model.parameters], model.precision,
            batch, how, list(map(id, data)))
