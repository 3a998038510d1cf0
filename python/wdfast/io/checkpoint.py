"""The state of a `fit` in one file: a run that was killed goes on from it to the same bits."""

from __future__ import annotations

import functools
import json
import os
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .weights import load_arrays, save_arrays

_FORMAT = 1
_ROWS = 256  # so many samples, spread evenly, tell one data set from another; all of them may be gigabytes


def _digest(value: Any) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True, default=str).encode())


class Checkpoint:
    """`checkpoint.safetensors` in a folder, written atomically; `run` is the `fit` that it belongs to."""

    def __init__(self, folder: str | os.PathLike[str], run: Any) -> None:
        self.path = Path(folder) / "checkpoint.safetensors"
        self.run = run

    @functools.cached_property
    def _mine(self) -> dict[str, Any]:
        """What has to be the same for the run to go on: the network, the data, the order of the steps."""
        model, arrays = self.run.model, self.run.arrays
        rows = np.linspace(0, arrays.size - 1, _ROWS).astype(np.int64)
        data = 0
        for array in arrays.described(rows):
            data = zlib.crc32(array.tobytes(), data)
        network = [[node.op, node.attrs] for node in model.nodes], [p.trainable for p in model.parameters]
        optimizer = model.optimizer.get_config()
        optimizer.pop("learning_rate")  # part of the state: callbacks change it
        return {
            "weights": [list(p.shape) for p in model.parameters], "network": _digest(network),
            "optimizer": [type(model.optimizer).__name__, _digest(optimizer)],
            "samples": arrays.size, "data": data, "batch_size": self.run.batch_size, "shuffle": self.run.shuffle,
            "augment": None if self.run.augment is None else asdict(self.run.augment),
        }

    def save(self) -> None:
        """Writes weights, optimizer, callbacks and the place in the run."""
        run = self.run
        self.path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {f"weight/{i}": p.value for i, p in enumerate(run.model.parameters)}
        state = {
            "format": _FORMAT, "fingerprint": self._mine, "seed": run.seed, "epoch": run.epoch,
            "done": run.done, "sums": split_arrays(run.means.sums, "sums", arrays), "count": run.means.count,
            "stopped": run.model.stop_training,
            "optimizer": split_arrays(run.model.optimizer.state_dict(), "optimizer", arrays),
            "callbacks": split_arrays(run.callbacks.get_state(), "callbacks", arrays),
        }
        save_arrays(self.path, arrays, {"wdfast_checkpoint": json.dumps(state)})

    def restore(self) -> None:
        """Takes the state over if there is one. Raises ValueError if it belongs to another training."""
        if not self.path.exists():
            return
        run = self.run
        arrays, metadata = load_arrays(self.path)
        try:
            state = json.loads(metadata["wdfast_checkpoint"])
            known = state["fingerprint"]
            if state["format"] != _FORMAT:
                raise ValueError(f"written in format {state['format']}")
            weights = [arrays[f"weight/{i}"] for i in range(len(run.model.parameters))]
            optimizer = join_arrays(state["optimizer"], arrays)
            callbacks = join_arrays(state["callbacks"], arrays)
            place = {name: int(state[name]) for name in ("seed", "epoch", "done")}
            means = {name: np.asarray(value, np.float64)[()]
                     for name, value in join_arrays(state["sums"], arrays).items()}, int(state["count"])
            stopped = bool(state["stopped"])
            differs = [name for name in self._mine if self._mine[name] != known.get(name)]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.path}: not a checkpoint of this wdfast, or a damaged one: {error!r}") from None
        if run.seed is not None and run.seed != place["seed"]:
            differs.append("seed")
        if differs:
            raise ValueError(
                f"{self.path}: belongs to another training (other {', '.join(differs)}); "
                "give another folder as checkpoint=, or remove it"
            )
        for p, weight in zip(run.model.parameters, weights, strict=True):
            if weight.shape != p.shape:
                raise ValueError(f"{self.path}: damaged: '{p.name}': expected shape {p.shape}, got {weight.shape}")
        run.callbacks.set_state(callbacks)  # each of these checks before it changes anything
        run.model.optimizer.load_state_dict(optimizer)
        run.model.set_weights(weights)
        vars(run).update(place)
        run.means.sums, run.means.count = means
        run.model.stop_training = stopped


def split_arrays(value: Any, prefix: str, arrays: dict[str, np.ndarray]) -> Any:
    """`value` as JSON, its arrays moved to `arrays` under names that `join_arrays` finds."""
    if isinstance(value, np.ndarray):
        arrays[prefix] = value
        return {"__array__": prefix}
    if isinstance(value, dict):
        return {key: split_arrays(item, f"{prefix}/{key}", arrays) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [split_arrays(item, f"{prefix}/{i}", arrays) for i, item in enumerate(value)]
    return value.item() if isinstance(value, np.generic) else value


def join_arrays(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The reverse of `split_arrays`."""
    if isinstance(value, dict):
        if set(value) == {"__array__"}:
            return arrays[value["__array__"]]
        return {key: join_arrays(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [join_arrays(item, arrays) for item in value]
    return value
