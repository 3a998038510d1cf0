"""The arrays of a step where the images come from disk: a ring of batches that threads keep filled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _native
from .steps import Arrays

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    from .data.streaming import ImageStream


class Streamed(Arrays):
    """`inputs`, `labels` and `weights` hold `prefetch` batches; `stage` says which rows are the next ones.

    The ring is overwritten as the run goes on: a row is read by one call of a program, then given up.
    """

    def __init__(self, stream: ImageStream, labels: Sequence[np.ndarray], weights: np.ndarray | None,
                 batch_size: int) -> None:
        self.stream, self.batch_size = stream, batch_size
        self.depth = min(stream.prefetch, -(-stream.shape[0] // batch_size))
        self.whole = [*labels, *([] if weights is None else [weights])]
        images, *rest = (np.zeros((self.depth * batch_size, *shape[1:]), dtype) for shape, dtype in
                         ((stream.shape, np.uint8), *((a.shape, a.dtype) for a in self.whole)))
        super().__init__([images], rest[: len(labels)], None if weights is None else rest[-1])
        self._order: np.ndarray | None = None
        self._tasks: dict[int, Future[None]] = {}  # by the number of the batch in its epoch
        self._pool: ThreadPoolExecutor | None = None

    @property
    def size(self) -> int:
        return self.stream.shape[0]

    def rows(self, index: Any) -> Arrays:
        raise ValueError("argument 'validation_split': a stream cannot be split; give one as validation_data")

    def stage(self, order: np.ndarray, done: int, steps: int, batch: int) -> np.ndarray:
        if order is not self._order:
            self.close()
            self._order = order
        first = done // self.batch_size
        for number in range(first, min(first + self.depth, -(-len(order) // self.batch_size))):
            if number not in self._tasks:
                self._tasks[number] = self._submit(number)
        ready = [first]
        self._tasks.pop(first).result()
        while len(ready) < steps and ready[-1] + 1 in self._tasks and self._tasks[ready[-1] + 1].done():
            ready.append(ready[-1] + 1)
            self._tasks.pop(ready[-1]).result()
        slots = np.array(ready) % self.depth * self.batch_size
        return (slots[:, None] + np.arange(batch)).astype(np.int32)

    def _submit(self, number: int) -> Future[None]:
        from concurrent.futures import ThreadPoolExecutor

        if self._pool is None:
            self._pool = ThreadPoolExecutor(min(self.depth, 2 * _native.usable_cores()), "wdfast-stream")
        return self._pool.submit(self._fill, number)

    def _fill(self, number: int) -> None:
        samples = self._order[number * self.batch_size :][: self.batch_size]
        begin = number % self.depth * self.batch_size
        rows = slice(begin, begin + len(samples))
        self.stream.read(samples, self.inputs[0][rows])
        for ring, whole in zip([*self.labels, self.weights], self.whole, strict=False):
            ring[rows] = whole[samples]

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._order, self._tasks, self._pool = None, {}, None

    def described(self, rows: np.ndarray) -> list[np.ndarray]:
        names = "\0".join(self.stream.paths[row] for row in rows).encode(errors="surrogateescape")
        return [np.frombuffer(names, np.uint8), *self.whole]
