"""Image folders that do not fit in memory: `stream` finds the files, training reads them batch by batch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .dataset import DataError, split_indices, to_categorical
from .folder import by_class, common_format, decode

_LABEL_MODES = ("int", "categorical")


class ImageStream:
    """Images of a folder that are decoded when they are needed; made by `stream`.

    `fit`, `evaluate` and `predict` take one as x, without y: while a batch trains, threads decode the next ones into
    a ring of `prefetch` batches, which is all the memory that images take. Each epoch has an order of its own,
    decided by `fit`'s seed. Iterating gives the batches one after another: uint8 (B, H, W, C) and labels.

    labels: int32 (N,), or one-hot float32 (N, classes). class_names: one per class. image_shape: (H, W, C).
    """

    def __init__(self, paths: Sequence[str], labels: np.ndarray, class_names: Sequence[str],
                 image_shape: tuple[int, int, int], *, batch_size: int = 32, shuffle: bool = True,
                 prefetch: int = 8) -> None:
        for name, value, least in (("batch_size", batch_size, 1), ("prefetch", prefetch, 2)):
            if value < least:
                raise DataError(f"stream: argument '{name}': expected an int ≥ {least}, got {value}")
        self.paths, self.labels, self.class_names = list(paths), labels, list(class_names)
        self.image_shape, self.batch_size = image_shape, batch_size
        self.shuffle, self.prefetch = shuffle, prefetch

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, C), that of the array that the images would be."""
        return (len(self.paths), *self.image_shape)

    def read(self, indices: Sequence[int], out: np.ndarray) -> None:
        """Decodes the images of these numbers into `out`, uint8 (B, H, W, C). Raises DataError, naming the file."""
        for row, index in zip(out, indices, strict=True):
            row[...] = decode(self.paths[index], *self.image_shape)[0]

    def __len__(self) -> int:
        """The number of batches, as in Keras."""
        return -(-len(self.paths) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for begin in range(0, len(self.paths), self.batch_size):
            indices = range(begin, min(begin + self.batch_size, len(self.paths)))
            images = np.empty((len(indices), *self.image_shape), np.uint8)
            self.read(indices, images)
            yield images, self.labels[begin : begin + self.batch_size]

    def __repr__(self) -> str:
        count, classes = len(self.paths), len(self.class_names)
        return f"<ImageStream {count} images of {self.image_shape}, {classes} classes, batches of {self.batch_size}>"


def stream(directory: str | os.PathLike[str], *, label_mode: str = "int", color_mode: str | None = None,
           batch_size: int = 32, image_size: int | tuple[int, int] | None = None, shuffle: bool = True, seed: int = 0,
           validation_split: float | None = None, subset: str | None = None, prefetch: int = 8) -> ImageStream:
    """A folder with one folder of images per class, as a stream of batches that `fit` reads from disk.

    label_mode: "int" numbers, or "categorical" one-hot. color_mode, image_size: see `wdfast.data.read_images`.
    validation_split, subset: of a stratified random split, decided by `seed`, the "training" or the "validation" part.
    shuffle: whether `fit` takes the images in a new order in each epoch. prefetch: how many batches are kept ready.
    `utils.image_dataset_from_directory` is this under Keras' name. Raises DataError, naming the file or argument.
    """
    root = os.fspath(directory)
    if label_mode not in _LABEL_MODES:
        raise DataError(f"stream: argument 'label_mode': expected one of {_LABEL_MODES}, got {label_mode!r}")
    if (validation_split is None) != (subset is None) or subset not in (None, "training", "validation"):
        raise DataError("stream: arguments 'validation_split' and 'subset': expected a fraction and 'training' or "
                        f"'validation', or neither, got {validation_split!r} and {subset!r}")
    try:
        names, paths, labels = by_class(root)
    except OSError as error:
        raise DataError(f"{error.filename or root}: cannot be read: {error.strerror or error}") from None
    shape = common_format(paths, image_size, color_mode)
    if validation_split is not None:
        kept = split_indices(labels, validation_split, seed=seed)[subset == "validation"]
        paths, labels = [paths[i] for i in kept], labels[kept]
    given: Any = to_categorical(labels, len(names)) if label_mode == "categorical" else labels
    return ImageStream(paths, given, names, shape, batch_size=batch_size, shuffle=shuffle, prefetch=prefetch)
