"""What an object was made with, as plain JSON values.

One habit makes it work: an argument `x` is kept as `self.x`.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np

_VARKEYWORDS = 0x08  # the flag of a function that takes **options (inspect.CO_VARKEYWORDS)


def config_of(thing: Any) -> dict[str, Any]:
    """The arguments of the constructor, read from the attributes of the same names.

    A constructor that takes **options hands them to its base class, so that one's arguments count too.
    """
    names: list[str] = []
    for cls in type(thing).__mro__:
        code = getattr(cls.__dict__.get("__init__"), "__code__", None)
        if code is not None:
            names += code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
            if not code.co_flags & _VARKEYWORDS:
                break
    return {name: _plain(thing, name, getattr(thing, name)) for name in names if hasattr(thing, name)}


def serialize(thing: Any) -> dict[str, Any]:
    """`{"class_name": …, "config": …}`, from which the object can be made again."""
    return {"class_name": type(thing).__name__, "config": thing.get_config()}


def _plain(owner: Any, name: str, value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(owner, name, item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(owner, name, item) for key, item in value.items()}
    if hasattr(value, "get_config"):
        return serialize(value)
    raise ValueError(
        f"{type(owner).__name__}: argument '{name}': {value!r} cannot be written to a file; give a name, "
        "a number or an object with get_config"
    )


@functools.lru_cache
def snake_case(name: str) -> str:
    """`MaxPooling2D` → `max_pooling2d`, as Keras names its layers."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
