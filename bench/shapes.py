"""The convolutions of well-known networks on 224×224 images, each distinct one once, and recurrent layers, for
`wdfast bench ops`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .nets import Conv, Recurrent, Shape

BATCH = 8
Convolutions = Iterator[tuple[Conv, Shape]]


def _conv(channels: int, filters: int, kernel: int, size: int, stride: int = 1, groups: int = 1) -> tuple[Conv, Shape]:
    """With an input of `size`² pixels. One with a stride is given its border, because libraries place it on
    different sides, and where they would not, they copy."""
    if stride == 1:
        return Conv(filters, kernel, 1, "same", bias=False, groups=groups), (size, size, channels)
    padded = (size // stride - 1) * stride + kernel
    return Conv(filters, kernel, stride, "valid", bias=False, groups=groups), (padded, padded, channels)


def vgg16() -> Convolutions:
    """VGG-16 (arXiv 1409.1556, table 1, column D)."""
    size, channels = 224, 3
    for filters, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            yield _conv(channels, filters, 3, size)
            channels = filters
        size //= 2


def resnet50() -> Convolutions:
    """ResNet-50 (arXiv 1512.03385, table 1), with the stride in the 3×3 convolution, as libraries have it."""
    yield _conv(3, 64, 7, 224, 2)
    size, channels = 56, 64
    for stage, (width, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for block in range(count):
            stride = 2 if stage and not block else 1
            yield _conv(channels, width, 1, size)
            yield _conv(width, width, 3, size, stride)
            yield _conv(width, 4 * width, 1, size // stride)
            if not block:
                yield _conv(channels, 4 * width, 1, size, stride)
            size, channels = size // stride, 4 * width


def mobilenet_v2() -> Convolutions:
    """MobileNet-V2 (arXiv 1801.04381, table 2): 1×1 to the expanded width, depthwise 3×3, 1×1 back."""
    yield _conv(3, 32, 3, 224, 2)
    size, channels = 112, 32
    for expansion, filters, count, first in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
                                             (6, 160, 3, 2), (6, 320, 1, 1)):
        for block in range(count):
            hidden, stride = expansion * channels, 1 if block else first
            if expansion > 1:
                yield _conv(channels, hidden, 1, size)
            yield _conv(hidden, hidden, 3, size, stride, groups=hidden)
            size //= stride
            yield _conv(hidden, filters, 1, size)
            channels = filters
    yield _conv(320, 1280, 1, size)


SEQUENCES = 32
"""The batch of the recurrent layers."""


def recurrent() -> Iterator[tuple[Recurrent, Shape]]:
    """Of a usual size, and of a small one over many steps, where what is no product costs most."""
    for cell in ("SimpleRNN", "GRU", "LSTM"):
        yield Recurrent(cell, 128), (100, 64)
        yield Recurrent(cell, 16), (400, 8)


NETWORKS: dict[str, Callable[[], Convolutions]] = {"vgg16": vgg16, "resnet50": resnet50, "mobilenet_v2": mobilenet_v2}
