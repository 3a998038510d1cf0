"""Layers: descriptions only, parameters and which op; names and arguments as in Keras."""

from __future__ import annotations

from typing import Any

from .._config import serialize
from .activation import ELU, GELU, Activation, LeakyReLU, PReLU, ReLU, Softmax
from .base import Layer
from .convolution import Conv1D, Conv2D, Conv2DTranspose, DepthwiseConv2D, SeparableConv2D
from .core import Dense, Flatten, Input, InputLayer, Permute, RepeatVector, Rescaling, Reshape
from .embedding import Embedding, Masking
from .merge import (
    Add,
    Average,
    Concatenate,
    Maximum,
    Minimum,
    Multiply,
    Subtract,
    add,
    average,
    concatenate,
    maximum,
    minimum,
    multiply,
    subtract,
)
from .normalization import BatchNormalization, GroupNormalization, LayerNormalization
from .padding import Cropping1D, Cropping2D, ZeroPadding1D, ZeroPadding2D
from .pooling import (
    AveragePooling1D,
    AveragePooling2D,
    GlobalAveragePooling1D,
    GlobalAveragePooling2D,
    GlobalMaxPooling1D,
    GlobalMaxPooling2D,
    MaxPooling1D,
    MaxPooling2D,
    UpSampling2D,
)
from .recurrent import GRU, LSTM, SimpleRNN
from .regularization import ActivityRegularization, Dropout, GaussianNoise, SpatialDropout1D, SpatialDropout2D
from .sampling import GaussianSampling
from .wrapper import Bidirectional, TimeDistributed

MaxPool1D = MaxPooling1D
AvgPool1D = AveragePooling1D
GlobalMaxPool1D = GlobalMaxPooling1D
GlobalAvgPool1D = GlobalAveragePooling1D
MaxPool2D = MaxPooling2D
AvgPool2D = AveragePooling2D
GlobalMaxPool2D = GlobalMaxPooling2D
GlobalAvgPool2D = GlobalAveragePooling2D

__all__ = [
    "ELU", "GELU", "GRU", "LSTM", "Activation", "ActivityRegularization", "Add", "Average", "AveragePooling1D",
    "AveragePooling2D", "AvgPool1D", "AvgPool2D", "BatchNormalization", "Bidirectional", "Concatenate",
    "Conv1D", "Conv2D", "Conv2DTranspose", "Cropping1D", "Cropping2D", "Dense", "DepthwiseConv2D", "Dropout",
    "Embedding", "Flatten", "GaussianNoise", "GaussianSampling", "GlobalAveragePooling1D",
    "GlobalAveragePooling2D", "GlobalAvgPool1D", "GlobalAvgPool2D", "GlobalMaxPool1D", "GlobalMaxPool2D",
    "GlobalMaxPooling1D", "GlobalMaxPooling2D", "GroupNormalization", "Input", "InputLayer", "Layer",
    "LayerNormalization", "LeakyReLU", "Masking", "MaxPool1D", "MaxPool2D", "MaxPooling1D", "MaxPooling2D",
    "Maximum", "Minimum", "Multiply", "PReLU", "Permute", "ReLU", "RepeatVector", "Rescaling", "Reshape",
    "SeparableConv2D", "SimpleRNN", "Softmax", "SpatialDropout1D", "SpatialDropout2D", "Subtract",
    "TimeDistributed", "UpSampling2D", "ZeroPadding1D", "ZeroPadding2D", "add", "average", "concatenate",
    "from_config", "get", "maximum", "minimum", "multiply", "serialize", "subtract",
]

_CLASSES: dict[str, type[Layer]] = {
    name: value for name, value in list(globals().items())
    if isinstance(value, type) and issubclass(value, Layer) and value is not Layer
}


def get(name: str, custom_objects: dict[str, type[Layer]] | None = None) -> type[Layer]:
    """The layer class of this name; `custom_objects` adds a user's own. Raises ValueError if there is none.

    >>> from wdfast import layers
    >>> layers.get("Dense") is layers.Dense
    True
    """
    cls = (custom_objects or {}).get(name) or _CLASSES.get(name)
    if cls is None:
        raise ValueError(
            f"layers.get: no layer class '{name}'; name one of your own in custom_objects={{'{name}': {name}}}"
        )
    return cls


def from_config(config: dict[str, Any], custom_objects: dict[str, type[Layer]] | None = None) -> Layer:
    """A new layer, weights not yet made, from what `layers.serialize(layer)` gave.

    >>> from wdfast import layers
    >>> layers.from_config(layers.serialize(layers.Dense(3, name="out")))
    <Dense 'out' output=None>
    """
    return get(config["class_name"], custom_objects).from_config(config["config"])
