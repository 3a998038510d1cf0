"""Many small images as one picture."""

from __future__ import annotations

from typing import Any

import numpy as np


def image_sheet(images: Any, columns: int = 10, low: float = 0.0, high: float = 1.0, gap: int = 1) -> np.ndarray:
    """Images in rows of `columns`, white lines between and around them: float32 (height, width, 3), for `imshow`.

    images: (N, H, W), (N, H, W, 1) or (N, H, W, 3); `low` becomes 0, `high` 1, what is beyond is cut off; uint8 goes
    from 0 to 255 whatever these are. A last row that is not full is white behind its images. Raises ValueError for
    other shapes, no image, and columns < 1.

    >>> import numpy as np
    >>> from wdfast import viz
    >>> viz.image_sheet(np.zeros((5, 8, 8, 1), np.uint8), columns=3).shape
    (19, 28, 3)
    """
    images = np.asarray(images)
    if images.dtype == np.uint8:
        low, high = 0, 255
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
        raise ValueError(f"image_sheet: argument 'images': expected (N, H, W[, 1 or 3]), N ≥ 1, got {images.shape}")
    if columns < 1:
        raise ValueError(f"image_sheet: argument 'columns': expected an int ≥ 1, got {columns}")
    count, height, width, _ = images.shape
    columns = min(columns, count)
    rows, down, across = -(-count // columns), height + gap, width + gap
    cells = np.ones((rows * columns, down, across, 3), np.float32)
    cells[:count, gap:, gap:] = np.clip((images.astype(np.float32) - low) / (high - low), 0, 1)
    sheet = np.ones((rows * down + gap, columns * across + gap, 3), np.float32)
    sheet[: rows * down, : columns * across] = (
        cells.reshape(rows, columns, down, across, 3).swapaxes(1, 2).reshape(rows * down, columns * across, 3))
    return sheet
