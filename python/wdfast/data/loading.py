"""`load`: looks at what it is given, and hands it to the reader of that format."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from .dataset import DataError, Dataset
from .digits import load_digits
from .folder import load_folder
from .formats import find_cifar, find_idx, load_cifar, load_idx, load_npz
from .resizing import asked_format, resized

_KINDS = ("'digits', a folder of images by class, an IDX folder (MNIST), a folder of CIFAR binary files, "
          "or an .npz file")


def load(path_or_name: str | os.PathLike[str], *, test_fraction: float = 0.2, seed: int = 0,
         image_size: int | tuple[int, int] | None = None, color_mode: str | None = None,
         label_mode: str = "fine", cache_dir: str | os.PathLike[str] | None = None,
         progress: bool | Callable[[int, int], None] = False) -> Dataset:
    """Reads a labelled set of images from local files; the format is found out from the files.

    path_or_name: "digits" (embedded); a folder with train/ and test/ (or val/) of one folder of images per
    class, or of such class folders alone; a folder with the files of MNIST or Fashion-MNIST (IDX, gz or not),
    or of CIFAR-10 or CIFAR-100 (binary version); an .npz with x_train, y_train, x_test, y_test, or x, y.
    test_fraction, seed: where there is no test part, a stratified random part of this size is held out.
    image_size: pixels or (height, width) to bring the images to (bilinear, antialiased). color_mode: "rgb" or
    "grayscale". cache_dir, progress: for image folders, see `wdfast.data.folder.load_folder`.
    label_mode: "fine" or "coarse" labels of CIFAR-100.

    Raises DataError (a ValueError) that names the file, what was expected and what came.

    >>> from wdfast import data
    >>> digits = data.load("digits")
    >>> digits.x_train.shape, digits.num_classes
    ((1442, 8, 8, 1), 10)
    >>> data.load("digits", image_size=32, color_mode="rgb").image_shape
    (32, 32, 3)
    """
    path = os.fspath(path_or_name)
    if label_mode not in ("fine", "coarse"):
        raise DataError(f"load: argument 'label_mode': expected 'fine' or 'coarse', got {label_mode!r}")
    if not 0 < test_fraction < 1:
        raise DataError(f"load: argument 'test_fraction': expected a number in (0, 1), got {test_fraction}")
    name = os.path.basename(os.path.abspath(path))
    split = {"test_fraction": test_fraction, "seed": seed}
    wanted = asked_format(image_size, color_mode)
    try:
        if os.path.isdir(path) and path != "digits":
            idx = find_idx(path)
            train, test = find_cifar(path)
            if idx:
                return _brought_to(load_idx(path, name, idx, **split), *wanted)
            if train:
                return _brought_to(load_cifar(path, name, train, test, label_mode=label_mode), *wanted)
            return load_folder(path, **split, image_size=image_size, color_mode=color_mode, cache_dir=cache_dir,
                               progress=progress)
        if path == "digits":
            return _brought_to(load_digits(), *wanted)
        if os.path.isfile(path) and path.endswith(".npz"):
            return _brought_to(load_npz(path, name.removesuffix(".npz"), **split), *wanted)
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be read: {error.strerror or error}") from None
    came = "a file of another kind" if os.path.exists(path) else "nothing at this path"
    raise DataError(f"{path}: expected {_KINDS}; got {came}")


def _brought_to(data: Dataset, sides: tuple[int, int] | None, channels: int | None) -> Dataset:
    x, x_test = (resized(part, sides, channels) for part in (data.x_train, data.x_test))
    return replace(data, x_train=x, x_test=x_test)
