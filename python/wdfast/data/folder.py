"""Folders of images by class: found, decoded in parallel, brought to one size, cached as one array file."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ..io.files import atomic_write
from .dataset import DataError, Dataset, check_memory, split_dataset
from .formats import read_npy
from .resizing import asked_format

Progress = Callable[[int, int], None]  # (images read, images in all)

_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # none that calls another program
_CLUTTER = {"thumbs.db", "desktop.ini"}  # what file managers leave; hidden files are left out too
_TEST_NAMES = ("test", "val", "valid", "validation")
_GREY_MODES = {"1", "L", "LA", "I;16", "I;16B", "I;16L"}
_MAX_PIXELS = 89_478_485  # Pillow's own limit, above which it suspects a decompression bomb
_SAMPLE = 500  # images whose headers decide size and colour, spread over all
_CHUNK = 64  # images per task of the pool: some 10 ms of work
_CACHE_VERSION = "1"

# ---- finding --------------------------------------------------------------------------------------------


def _folders(path: str) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _images_below(folder: str) -> list[str]:
    found = []
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(_EXTENSIONS):
                found.append(os.path.join(here, name))
            elif not name.startswith(".") and name.lower() not in _CLUTTER:
                kinds = " ".join(_EXTENSIONS)
                raise DataError(f"{os.path.join(here, name)}: expected an image ({kinds}), got another file")
    if not found:
        raise DataError(f"{folder}: expected images of one class, got none")
    return found


def by_class(folder: str, class_names: Sequence[str] | None = None
              ) -> tuple[list[str], list[str], np.ndarray]:
    """(class names, paths, labels) of a folder of class folders, in alphabetical order."""
    names = _folders(folder)
    if not names:
        raise DataError(f"{folder}: expected one folder of images per class, got no folder")
    known = {name: label for label, name in enumerate(class_names or names)}
    paths: list[str] = []
    labels: list[int] = []
    for name in names:
        if name not in known:
            where = os.path.join(folder, name)
            raise DataError(f"{where}: expected a class of the training part, got one without images there")
        of_class = _images_below(os.path.join(folder, name))
        paths += of_class
        labels += [known[name]] * len(of_class)
    return list(known), paths, np.array(labels, np.int32)


# ---- decoding -------------------------------------------------------------------------------------------


def _pillow() -> Any:
    try:
        import PIL.Image
    except ModuleNotFoundError:
        raise ModuleNotFoundError("reading image files needs Pillow: pip install wdfast[train]") from None
    return PIL.Image


def _open(path: str) -> Any:
    """The image, its header read and its size checked; the pixels not yet."""
    image_module = _pillow()
    try:
        image = image_module.open(path, formats=_FORMATS)
    except FileNotFoundError:
        raise DataError(f"{path}: expected an image, got no such file") from None
    except Exception as error:  # a damaged header can make Pillow's parsers raise nearly anything
        raise DataError(f"{path}: expected an image, got something else: {error}") from None
    if image.width * image.height > _MAX_PIXELS:
        image.close()
        raise DataError(f"{path}: expected at most {_MAX_PIXELS} pixels, got {image.width} × {image.height}")
    return image


def decode(path: str, height: int, width: int, channels: int) -> tuple[np.ndarray, bool]:
    """One image as uint8 (height, width, channels), and whether the file has colour."""
    image_module = _pillow()
    with _open(path) as image:
        colour = image.mode not in _GREY_MODES
        mode = "RGB" if channels == 3 else "L"
        try:
            if image.format == "JPEG" and image.size != (width, height):
                image.draft(mode, (width, height))  # decodes at ½, ¼ or ⅛ where that is enough
            if image.mode.startswith("I;16"):
                values = (np.asarray(image) >> 8).astype(np.uint8)  # convert() would clip, not scale
                image = image_module.fromarray(values)
            if image.mode == "P":
                image = image.convert("RGBA" if "transparency" in image.info else "RGB")
            if image.mode in ("F", "I"):
                raise ValueError(f"pixels of 8 or 16 bits are supported, not mode {image.mode}")
            if image.mode != mode:
                image = image.convert(mode)
            if image.size != (width, height):
                image = image.resize((width, height), image_module.Resampling.BILINEAR)
            return np.asarray(image).reshape(height, width, channels), colour
        except Exception as error:  # truncated or damaged data
            raise DataError(f"{path}: expected an image, got a damaged one: {error}") from None


def common_format(paths: Sequence[str], image_size: int | tuple[int, int] | None,
                   color_mode: str | None) -> tuple[int, int, int]:
    """(height, width, channels) for all: as asked, else the median size, and RGB if any image has colour."""
    sides, channels = asked_format(image_size, color_mode)
    if sides is not None and channels is not None:
        return *sides, channels
    heads = []
    for path in paths[:: max(1, len(paths) // _SAMPLE)]:
        with _open(path) as image:
            heads.append((image.height, image.width, image.mode in _GREY_MODES))
    heights, widths, grey = zip(*heads, strict=True)
    if sides is None:
        sides = sorted(heights)[len(heights) // 2], sorted(widths)[len(widths) // 2]
    return *sides, channels or (1 if all(grey) else 3)


def read_images(paths: Iterable[str | os.PathLike[str]], *, like: Any = None,
                image_size: int | tuple[int, int] | None = None, color_mode: str | None = None,
                progress: bool | Progress = False) -> np.ndarray:
    """Reads image files into one array: uint8 (N, H, W, C), C = 1 or 3; decoded in parallel.

    like: the shape to bring them to, (H, W, C), or a Dataset, whose `image_shape` it is.
    image_size, color_mode: the same in parts, "rgb" or "grayscale"; without, the median size, and RGB if any
    image has colour. Other sizes are resized (bilinear, antialiased), the aspect ratio is not kept.
    progress: a function of (images read, images in all), or True for a bar.
    Raises DataError, naming the file, for one that is no image, damaged, or of more than 89 million pixels.
    """
    files = [os.fspath(path) for path in paths]
    if not files:
        raise DataError("read_images: argument 'paths': expected at least one file, got none")
    if like is not None:
        shape = tuple(getattr(like, "image_shape", like))
        if len(shape) != 3 or shape[2] not in (1, 3):
            raise DataError(f"read_images: argument 'like': expected (H, W, 1) or (H, W, 3), got {shape}")
        image_size, color_mode = (int(shape[0]), int(shape[1])), "rgb" if shape[2] == 3 else "grayscale"
    shape = common_format(files, image_size, color_mode)
    images, colour = _decode_all(files, shape, progress)
    if colour and color_mode is None and shape[2] == 1:  # the sample of headers had none of the colour images
        images, _ = _decode_all(files, (*shape[:2], 3), progress)
    return images


def _decode_all(paths: Sequence[str], shape: tuple[int, int, int], progress: bool | Progress
                ) -> tuple[np.ndarray, bool]:
    """All images, and whether any has colour. Threads: Pillow decodes without the interpreter's lock."""
    from concurrent.futures import ThreadPoolExecutor, as_completed

    from .. import _native

    check_memory(paths[0], len(paths) * int(np.prod(shape)), " for all images: give a smaller 'image_size'")
    images = np.empty((len(paths), *shape), np.uint8)
    stopped = False

    def work(begin: int) -> tuple[int, bool]:
        end, colour = min(begin + _CHUNK, len(paths)), False
        for i in range(begin, end):
            if stopped:
                break
            images[i], has_colour = decode(paths[i], *shape)
            colour |= has_colour
        return end - begin, colour

    # Twice the cores: half of the time a thread waits for the file or for the interpreter.
    with _reporter(progress, len(paths)) as report, ThreadPoolExecutor(2 * _native.usable_cores()) as pool:
        tasks = [pool.submit(work, begin) for begin in range(0, len(paths), _CHUNK)]
        done, any_colour = 0, False
        try:
            for task in as_completed(tasks):
                count, colour = task.result()
                done, any_colour = done + count, any_colour or colour
                report(done, len(paths))
        except BaseException:  # Ctrl-C too: no thread goes on with what nobody waits for
            stopped = True
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return images, any_colour


class _reporter:
    """`progress` as a function: the caller's, a bar (tqdm where installed), or none."""

    def __init__(self, progress: bool | Progress, total: int) -> None:
        self.bar: Any = None
        self.call: Progress = progress if callable(progress) else lambda done, total: None
        if progress is True and sys.stderr.isatty():  # a bar in a log file is noise
            try:
                from tqdm import tqdm
            except ModuleNotFoundError:
                return
            self.bar = tqdm(total=total, desc="reading images", unit=" images", unit_scale=True)
            self.call = lambda done, total: self.bar.update(done - self.bar.n)

    def __enter__(self) -> Progress:
        return self.call

    def __exit__(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.close()


# ---- the whole folder, and its cache --------------------------------------------------------------------


def _key(root: str, paths: Sequence[str], options: Any) -> str:
    """Changes when a file is added, removed, renamed or written, or an option is another."""
    digest = hashlib.sha256(json.dumps([_CACHE_VERSION, options]).encode())
    for path in paths:
        status = os.stat(path)
        entry = f"{os.path.relpath(path, root)}\0{status.st_size}\0{status.st_mtime_ns}\0"
        digest.update(entry.encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def _load_cache(path: str, count: int) -> np.ndarray | None:
    try:
        with open(path, "rb") as file:
            images = read_npy(path, file, os.path.getsize(path))
    except (OSError, DataError):  # there is none, or it is damaged: the files are read again
        return None
    return images if images.dtype == np.uint8 and images.ndim == 4 and len(images) == count else None


def load_folder(path: str | os.PathLike[str], *, test_fraction: float = 0.2, seed: int = 0,
                image_size: int | tuple[int, int] | None = None, color_mode: str | None = None,
                cache_dir: str | os.PathLike[str] | None = None,
                progress: bool | Progress = False) -> Dataset:
    """Reads a folder of images by class: train/<class>/… and test/ (or val/), or <class>/… to be split.

    Classes are the folders' names in alphabetical order; images may lie in folders below a class. Hidden
    files are left out, any other file that is no image is an error.
    image_size, color_mode, progress: see `read_images`.
    cache_dir: where to keep the decoded images as one array file, made if need be. It is used again as long
    as the list of files, their sizes, their times and the options are the same; an interruption leaves none.
    Raises DataError, naming the file or folder.
    """
    root = os.fspath(path)
    parts = _folders(root)
    test_name = next((name for name in _TEST_NAMES if name in parts), None)
    test_paths: list[str] = []
    if "train" in parts:
        names, paths, labels = by_class(os.path.join(root, "train"))
        if test_name:
            _, test_paths, test_labels = by_class(os.path.join(root, test_name), names)
    elif test_name:
        raise DataError(f"{root}: expected a folder 'train' beside '{test_name}', got {', '.join(parts)}")
    else:
        names, paths, labels = by_class(root)

    images = _read_cached(root, paths + test_paths, image_size, color_mode, cache_dir, progress)
    name = os.path.basename(os.path.abspath(root))
    x, x_test = images[: len(paths)], images[len(paths) :]
    if not test_paths:
        return split_dataset(x, labels, names, name, root, test_fraction=test_fraction, seed=seed)
    return Dataset(x, labels, x_test, test_labels, names, name, root)


def _read_cached(root: str, paths: list[str], image_size: Any, color_mode: str | None, cache_dir: Any,
                 progress: bool | Progress) -> np.ndarray:
    if cache_dir is None:
        return read_images(paths, image_size=image_size, color_mode=color_mode, progress=progress)
    key = _key(root, paths, [image_size, color_mode])
    file = os.path.join(os.fspath(cache_dir), f"images-{key}.npy")
    images = _load_cache(file, len(paths))
    if images is None:
        images = read_images(paths, image_size=image_size, color_mode=color_mode, progress=progress)
        try:
            os.makedirs(cache_dir, exist_ok=True)
            with atomic_write(file) as stream:
                np.lib.format.write_array(stream, images, allow_pickle=False)
        except OSError as error:  # a full or read-only disk must not cost what was decoded
            warnings.warn(f"the images were read, but not kept in {file}: {error}", stacklevel=4)
    return images
