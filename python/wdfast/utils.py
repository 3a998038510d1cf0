"""Keras' names for what lies elsewhere here: `to_categorical`, `image_dataset_from_directory`, `set_random_seed`."""

from __future__ import annotations

from .data import stream as image_dataset_from_directory
from .data import to_categorical
from .initializers import set_seed as set_random_seed

__all__ = ["image_dataset_from_directory", "set_random_seed", "to_categorical"]
