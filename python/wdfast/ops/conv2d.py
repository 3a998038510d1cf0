"""Convolution with bias, activation and pooling in one pass over the data."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._dispatch import Array, Case, call, pair
from ._precision import factors, precision_attr
from ._window import Padding, padding_attrs, reference_conv
from .activation import activation as apply_activation
from .activation import reference as activation_reference
from .pool2d import REFERENCES as POOL_REFERENCES
from .pool2d import avg_pool2d, max_pool2d
from .slice import slice

__all__ = ["conv2d"]

_MAX_FUSED_CELLS = 127  # a byte holds the winner and the dead bit
_SHORT_ROW = 10  # pixels of a row from which strided windows are as fast row by row


def can_fuse_pool(pool: Any, padding: str) -> bool:
    """Whether conv2d's kernel takes in a max-pooling with these attributes."""
    return padding == "valid" and pool[0] * pool[1] <= _MAX_FUSED_CELLS


def conv2d(x: Array, w: Array, b: Array | None = None, stride: int | tuple[int, int] = 1, padding: Padding = "valid",
           dilation: int | tuple[int, int] = 1, groups: int = 1, activation: str = "linear", alpha: float | None = None,
           pool: int | tuple[int, int] | None = None, pool_stride: int | tuple[int, int] | None = None,
           pool_padding: Padding = "valid", pool_type: str = "max", precision: str = "highest") -> Array:
    """Convolution, bias, activation and pooling: y = pool(f(x ∗ w + b)).

    z[n,i,j,o] = b[o] + Σ_{a,b,c} x[n, i·s + a·d − top, j·s + b·d − left, c] · w[a,b,c,o]
    (a correlation, as in every framework).

    x (N, H, W, C), w (kh, kw, C/groups, OC), b (OC,); float32. Returns (N, OH, OW, OC), pooled if asked.
    stride, dilation: cells. padding: 'valid', 'same' (⌈H/stride⌉ rows) or ((top, bottom), (left, right)).
    groups: channels are split into so many independent convolutions; groups = C is depthwise. pool: window
    of a max or avg pooling (`pool_type`) with pool_stride (= pool) and pool_padding. Max-pooling without padding
    is fused; other pooling and gelu are ops of their own after it. precision: of the products, and of those of the
    gradients, as in `Model.compile`. Raises ValueError, naming the argument.

    >>> import numpy as np
    >>> from wdfast import ops
    >>> x = np.ones((1, 4, 4, 1), np.float32)
    >>> ops.conv2d(x, np.ones((3, 3, 1, 1), np.float32), activation="relu", pool=2).ravel()
    array([9.], dtype=float32)
    """
    if pool_type not in ("max", "avg"):
        raise ValueError(f"conv2d: argument 'pool_type': expected 'max' or 'avg', got {pool_type!r}")
    if not isinstance(groups, (int, np.integer)) or groups < 1:
        raise ValueError(f"conv2d: argument 'groups': expected an int ≥ 1, got {groups!r}")
    attrs: dict[str, Any] = {
        "stride": list(pair("conv2d", "stride", stride)), "dilation": list(pair("conv2d", "dilation", dilation)),
        "groups": int(groups), **padding_attrs("conv2d", padding), **precision_attr(precision)}
    fused_activation = activation != "gelu"
    fused_pool = False
    if pool is not None:
        window = list(pair("conv2d", "pool", pool))
        step = window if pool_stride is None else list(pair("conv2d", "pool_stride", pool_stride))
        fused_pool = (pool_type == "max" and fused_activation and isinstance(pool_padding, str)
                      and can_fuse_pool(window, pool_padding))
        if fused_pool:
            attrs |= {"pool": window, "pool_stride": step}
    if fused_activation:
        attrs |= {"activation": activation, "alpha": alpha}
    inputs = {"x": x, "w": w, "b": b}
    if not fused_pool and _is_dense(x, w, attrs):
        rows, columns = attrs.pop("stride")
        del attrs["dilation"], attrs["groups"], attrs["padding"]
        if (rows, columns) != (1, 1):
            size = [-1, -(-x.shape[1] // rows), -(-x.shape[2] // columns), -1]
            inputs["x"] = slice(x, (0, 0, 0, 0), size, (1, rows, columns, 1))
        y = call("dense", inputs, **attrs)
    else:
        y = call("conv2d", inputs, **attrs)
    if not fused_activation:
        y = apply_activation(y, activation)
    if pool is not None and not fused_pool:
        y = (max_pool2d if pool_type == "max" else avg_pool2d)(y, pool, pool_stride, pool_padding)
    return y


def _is_dense(x: Array, w: Array, attrs: dict[str, Any]) -> bool:
    """Whether a convolution sees no neighbours: it is a fully connected layer on every pixel, a product of two
    matrices, which is blocked without regard to rows and images. Of strides, where rows are so short that what this
    saves is more than to copy the pixels."""
    image, kernel = getattr(x, "shape", ()), getattr(w, "shape", ())
    if (len(image), len(kernel)) != (4, 4) or kernel[:2] != (1, 1) or image[3] != kernel[2]:
        return False
    stride = attrs["stride"]
    short = None not in image[1:] and image[2] // stride[1] < _SHORT_ROW
    return attrs["groups"] == 1 and attrs["padding"] in ("valid", "same") and (stride == [1, 1] or short)


def reference(x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None, stride: Any = 1, padding: Padding = "valid",
              dilation: Any = 1, groups: int = 1, activation: str = "linear", alpha: float | None = None,
              pool: Any = None, pool_stride: Any = None, pool_padding: Padding = "valid",
              pool_type: str = "max", precision: str = "highest") -> np.ndarray:
    x, w = factors(precision, x, w)
    z = reference_conv(x, w, stride, padding, dilation, groups)
    y = activation_reference(z if b is None else z + b, activation, alpha)
    return y if pool is None else POOL_REFERENCES[f"{pool_type}_pool2d"](y, pool, pool_stride, pool_padding)


REFERENCES: dict[str, Any] = {"conv2d": reference}


def _case(image: tuple[int, ...], kernel: tuple[int, int], out: int, bias: bool = True, gradient: bool = True,
          **attrs: Any) -> Case:
    groups = attrs.get("groups", 1)
    w = (*kernel, image[-1] // groups, out)
    terms = max(kernel[0] * kernel[1] * w[2], image[0] * image[1] * image[2])
    return Case("conv2d", {"x": image, "w": w, "b": (out,) if bias else None}, attrs, terms=terms, gradient=gradient)


CASES = [
    _case((0, 5, 5, 3), (3, 3), 4),
    _case((1, 1, 1, 1), (1, 1), 1),
    _case((2, 5, 7, 3), (3, 3), 31, activation="relu"),
    _case((2, 7, 5, 31), (3, 2), 33, bias=False),
    _case((3, 9, 8, 5), (3, 3), 32, padding="same", activation="relu", pool=2),
    _case((2, 11, 11, 3), (3, 3), 32, activation="relu", pool=2),
    _case((1, 13, 15, 32), (3, 3), 64, activation="relu", pool=2),
    _case((2, 8, 9, 4), (3, 3), 130, activation="leaky_relu", alpha=0.1),
    _case((2, 9, 11, 6), (3, 3), 10, stride=2, padding="same"),
    _case((2, 9, 11, 6), (3, 5), 10, stride=(3, 2), padding=((2, 1), (0, 3)), activation="tanh"),
    _case((1, 12, 11, 3), (3, 3), 7, dilation=2, activation="sigmoid"),
    _case((1, 12, 11, 3), (2, 3), 7, dilation=(3, 2), stride=2, padding="same"),
    _case((2, 7, 7, 8), (3, 3), 12, groups=4, activation="elu"),
    _case((2, 7, 9, 33), (3, 3), 33, groups=33, padding="same", activation="relu"),
    _case((2, 9, 9, 5), (3, 3), 5, groups=5, stride=2, padding="same"),
    # depthwise: every kind of edge, whole and partial vectors
    _case((3, 9, 8, 40), (3, 3), 40, groups=40, padding="same"),
    _case((2, 1, 1, 16), (3, 3), 16, groups=16, padding="same"),
    _case((2, 2, 3, 33), (3, 3), 33, groups=33, padding="same"),
    _case((2, 8, 7, 32), (3, 3), 32, groups=32, bias=False),
    _case((1, 4, 7, 24), (3, 3), 24, groups=24, padding=((3, 2), (0, 4))),
    _case((2, 9, 8, 16), (3, 3), 16, groups=16, stride=(1, 2), padding="same"),
    _case((2, 15, 14, 24), (3, 3), 24, groups=24, stride=2, padding="same", activation="relu"),
    _case((1, 16, 9, 40), (3, 3), 40, groups=40, stride=2, bias=False),
    _case((2, 10, 11, 19), (3, 3), 19, groups=19, stride=2, padding=((2, 1), (0, 2))),
    _case((2, 3, 2, 33), (3, 3), 33, groups=33, stride=2, padding="same"),
    _case((1, 10, 9, 8), (3, 3), 8, groups=8, dilation=2, padding="same"),
    _case((2, 11, 9, 19), (5, 5), 19, groups=19, padding="same"),
    _case((1, 5, 4, 16), (2, 3), 16, groups=16, padding="same", activation="sigmoid"),
    _case((2, 7, 7, 4), (3, 3), 8, groups=4),
    _case((2, 6, 6, 3), (1, 1), 5, stride=2),
    # a 1 × 1 kernel of no stride: a dense layer on every pixel, unless a pool is fused
    _case((2, 7, 9, 40), (1, 1), 24, padding="same", activation="relu"),
    _case((3, 31, 29, 8), (1, 1), 33, bias=False),
    _case((2, 8, 9, 300), (1, 1), 140),
    _case((2, 9, 9, 5), (1, 1), 8, activation="relu", pool=2),
    _case((1, 6, 5, 2), (6, 5), 3),
    _case((1, 4, 4, 2), (1, 1), 3, padding=((3, 2), (1, 4))),
    _case((2, 9, 9, 3), (3, 3), 8, pool=3, pool_stride=2, activation="relu"),
    _case((2, 9, 9, 3), (3, 3), 8, pool=(2, 3), pool_stride=(3, 1), activation="tanh"),
    _case((2, 9, 9, 3), (3, 3), 8, pool=3, pool_padding="same", activation="relu"),
    _case((2, 9, 9, 3), (3, 3), 8, pool=2, pool_type="avg", activation="relu"),
    _case((2, 7, 7, 3), (3, 3), 8, activation="gelu", pool=2),
    _case((1, 70, 67, 17), (5, 5), 48, activation="relu", pool=2),
    _case((33, 6, 6, 2), (3, 3), 16, padding="same"),
    # backward over the winners of a pool: whole vectors of channels, on every instruction set
    _case((3, 13, 15, 16), (3, 3), 33, padding="same", activation="relu", pool=2),
    _case((2, 31, 27, 48), (3, 3), 5, stride=2, dilation=2, padding="same", activation="tanh", pool=(2, 3)),
    _case((2, 17, 18, 32), (3, 3), 9, activation="relu", pool=3, pool_stride=2),
    _case((1, 70, 67, 16), (3, 3), 12, padding=((0, 3), (2, 1)), pool=(1, 4)),
    # Winograd's products: odd and even sizes, every kind of edge
    _case((3, 16, 17, 16), (3, 3), 32, padding="same", activation="relu"),
    _case((2, 33, 7, 48), (3, 3), 16, bias=False),
    _case((1, 9, 31, 32), (3, 3), 48, padding=((0, 3), (2, 1)), activation="elu"),
    _case((1, 2, 2, 16), (3, 3), 16, padding="same"),
    _case((2, 5, 3, 80), (3, 3), 16, padding="same"),
    # … of whole batches, where the channels are many
    _case((1, 4, 5, 144), (3, 3), 304),
    _case((3, 7, 6, 304), (3, 3), 144, padding="same", activation="relu"),
    _case((9, 8, 9, 256), (3, 3), 192, bias=False, padding=((2, 0), (1, 1))),
    _case((2, 5, 7, 144), (3, 3), 304, padding="same", activation="tanh"),
    # 1 × 1 with a stride: rows that are short, and rows that are not
    _case((2, 7, 8, 33), (1, 1), 20, stride=2, activation="relu"),
    _case((1, 6, 5, 16), (1, 1), 48, stride=(1, 3), padding="same", bias=False),
    _case((2, 5, 31, 16), (1, 1), 24, stride=2, activation="elu"),
    # bfloat16 products. Where a kink may lie within their error of the exact one there is no gradient to compare.
    _case((0, 5, 5, 3), (3, 3), 4, precision="medium"),
    _case((1, 1, 1, 1), (1, 1), 1, precision="medium"),
    _case((2, 5, 7, 3), (3, 3), 31, precision="medium"),
    _case((2, 7, 5, 31), (3, 2), 33, bias=False, precision="medium"),
    _case((1, 12, 11, 3), (3, 3), 7, dilation=2, activation="sigmoid", precision="medium"),
    _case((2, 9, 11, 6), (3, 5), 10, stride=(3, 2), padding=((2, 1), (0, 3)), activation="tanh", precision="medium"),
    _case((2, 9, 11, 16), (3, 3), 33, stride=2, padding="same", precision="medium"),
    _case((2, 10, 9, 16), (1, 1), 32, stride=2, padding="same", precision="medium"),
    _case((2, 10, 9, 24), (1, 1), 32, padding="same", precision="medium"),
    _case((2, 7, 7, 12), (3, 3), 20, groups=4, precision="medium"),
    _case((2, 7, 9, 33), (3, 3), 33, groups=33, padding="same", precision="medium"),
    _case((3, 16, 17, 16), (3, 3), 32, padding="same", precision="medium"),
    _case((2, 33, 7, 48), (3, 3), 16, bias=False, precision="medium"),
    _case((1, 9, 31, 32), (3, 3), 80, padding=((0, 3), (2, 1)), precision="medium"),
    _case((1, 2, 2, 16), (3, 3), 16, padding="same", precision="medium"),
    _case((3, 5, 5, 256), (3, 3), 272, padding="same", precision="medium"),
    _case((2, 31, 29, 3), (3, 3), 32, activation="relu", pool=2, gradient=False, precision="medium"),
    _case((3, 13, 15, 16), (3, 3), 32, padding="same", activation="relu", pool=2, gradient=False, precision="medium"),
    _case((2, 9, 9, 16), (3, 3), 16, padding="same", precision="high"),
]
