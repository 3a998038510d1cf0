"""Images in memory brought to another size or to grey or colour, as a folder's reader does with files."""

from __future__ import annotations

from typing import Any

import numpy as np

from .dataset import DataError

_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow has it
_CHUNK = 1024  # images at a time: the float32 of a whole set may not fit


def asked_format(image_size: Any, color_mode: Any) -> tuple[tuple[int, int] | None, int | None]:
    """(height, width) and the number of channels, each None where nothing was asked for. Raises DataError."""
    if color_mode not in (None, "rgb", "grayscale"):
        raise DataError(f"argument 'color_mode': expected None, 'rgb' or 'grayscale', got {color_mode!r}")
    sides = (image_size, image_size) if isinstance(image_size, int) else image_size
    plausible = isinstance(sides, (tuple, list)) and len(sides) == 2
    if sides is not None and not (plausible and all(isinstance(s, int) and 0 < s < 1 << 15 for s in sides)):
        raise DataError(f"argument 'image_size': expected pixels or (height, width), got {image_size!r}")
    return None if sides is None else (sides[0], sides[1]), {None: None, "rgb": 3, "grayscale": 1}[color_mode]


def _weights(size: int, wanted: int) -> np.ndarray:
    """(wanted, size): how much of each old pixel a new one takes; a triangle as wide as the coarser grid's step."""
    scale = size / wanted
    centres = (np.arange(wanted) + 0.5) * scale
    distance = np.abs(np.arange(size) + 0.5 - centres[:, None]) / max(scale, 1)
    weights = np.maximum(1 - distance, 0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def resized(images: np.ndarray, sides: tuple[int, int] | None, channels: int | None) -> np.ndarray:
    """Images (N, H, W, C) as (N, *sides, channels), dtype kept: bilinear, antialiased; None leaves things as they are.

    Raises DataError for colour or grey from images of neither 1 nor 3 channels.
    """
    old = images.shape[3]
    if channels is not None and old not in (1, 3):
        raise DataError(f"argument 'color_mode': expected images of 1 or 3 channels, got {old}")
    if channels == 3 and old == 1:
        images = resized(images, sides, None)
        return np.broadcast_to(images, (*images.shape[:3], 3)).copy()
    grey = channels == 1 and old == 3
    if not grey and sides in (None, images.shape[1:3]):
        return images
    rows, columns = (_weights(size, wanted) for size, wanted in
                     zip(images.shape[1:3], sides or images.shape[1:3], strict=True))
    made = np.empty((len(images), len(rows), len(columns), 1 if grey else old), images.dtype)
    for first in range(0, len(images), _CHUNK):
        part = images[first : first + _CHUNK].astype(np.float32)
        part = part @ _GREY[:, None] if grey else part
        part = np.einsum("hi,nijc,wj->nhwc", rows, part, columns, optimize=True)
        made[first : first + _CHUNK] = np.rint(part) if images.dtype == np.uint8 else part
    return made
