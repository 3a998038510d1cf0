"""data: every format written here and read back, every kind of damage refused by name."""

from __future__ import annotations

import gzip
import io
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wdfast import data, datasets
from wdfast.data import DataError, formats
from wdfast.data.digits import read_digits

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (30, 6, 5), np.uint8)
LABELS = (np.arange(30) % 3).astype(np.uint8)


def same(dataset, x_train, y_train, x_test, y_test):
    for got, expected in ((dataset.x_train, x_train), (dataset.x_test, x_test)):
        assert got.dtype == np.uint8
        assert np.array_equal(got, expected if expected.ndim == 4 else expected[..., None])
    for got, expected in ((dataset.y_train, y_train), (dataset.y_test, y_test)):
        assert got.dtype == np.int32
        assert np.array_equal(got, expected)


# ---- IDX ------------------------------------------------------------------------------------------------


def idx(array: np.ndarray, code: int = 0x08) -> bytes:
    dims = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, code, array.ndim]) + dims + array.astype(formats._IDX_DTYPES[code]).tobytes()


def write_mnist(folder: Path, suffix: str = "", separator: str = "-", prefix: str = "",
                test: bool = True) -> None:
    pack = gzip.compress if suffix else bytes
    parts = {"train": (IMAGES[:20], LABELS[:20])} | ({"t10k": (IMAGES[20:], LABELS[20:])} if test else {})
    for part, (x, y) in parts.items():
        (folder / f"{prefix}{part}-images{separator}idx3-ubyte{suffix}").write_bytes(pack(idx(x)))
        (folder / f"{prefix}{part}-labels{separator}idx1-ubyte{suffix}").write_bytes(pack(idx(y)))


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("separator", ["-", "."])
@pytest.mark.parametrize("prefix", ["", "emnist-digits-"])
def test_idx(tmp_path, suffix, separator, prefix):
    write_mnist(tmp_path, suffix, separator, prefix)
    (tmp_path / "README.txt").write_text("other files do not matter here")
    dataset = data.load(tmp_path)
    same(dataset, IMAGES[:20], LABELS[:20], IMAGES[20:], LABELS[20:])
    assert dataset.image_shape == (6, 5, 1)
    assert dataset.class_names == ["0", "1", "2"]
    assert dataset.name == tmp_path.name


def test_idx_without_test_part_is_split(tmp_path):
    write_mnist(tmp_path, test=False)
    dataset = data.load(tmp_path, test_fraction=0.3, seed=1)
    assert data.class_counts(dataset.y_test).tolist() == [2, 2, 2]
    both = np.concatenate([dataset.x_train, dataset.x_test])[..., 0]
    assert sorted(x.tobytes() for x in both) == sorted(x.tobytes() for x in IMAGES[:20])


def test_fashion_names(tmp_path):
    folder = tmp_path / "FashionMNIST"
    folder.mkdir()
    write_mnist(folder)
    assert data.load(folder).class_names[9] == "Ankle boot"


@pytest.mark.parametrize("code", sorted(formats._IDX_DTYPES))
def test_idx_dtypes(tmp_path, code):
    values = np.arange(24).reshape(2, 3, 4)
    (tmp_path / "a").write_bytes(idx(values, code))
    read = formats.read_idx(str(tmp_path / "a"))
    assert read.tolist() == values.tolist()
    assert read.dtype.isnative


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an IDX file.*empty file"),
        (b"\0\0\x08", "expected an IDX file.*got 00 00 08"),
        (b"\x89PNG\r\n\x1a\n", "expected an IDX file.*got 89 50 4e 47"),
        (b"\0\0\x07\x03" + bytes(12), "expected an IDX file"),
        (b"\0\0\x08\x03\0\0\0\x02\0\0", "3 dimensions.*ends in its header"),
        (idx(IMAGES[:20])[:-1], r"expected (616|600) bytes.*\(20, 6, 5\).*got (615|599)"),
        (idx(IMAGES[:20]) + b"x", r"\(20, 6, 5\).*got (617|more)"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "expected 79228162458924105385300197391 bytes"),
        (b"\0\0\x08\x03" + struct.pack(">3I", 1 << 20, 1 << 10, 1 << 10), "bytes"),
    ],
)
def test_idx_damaged(tmp_path, suffix, content, message):
    write_mnist(tmp_path, suffix)
    path = tmp_path / f"train-images-idx3-ubyte{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(DataError, match=f"{path.name}: .*{message}"):
        data.load(tmp_path)


def test_gzip_damaged(tmp_path):
    write_mnist(tmp_path, ".gz")
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    whole = path.read_bytes()
    damaged = whole[:12] + b"\xff\xff" + whole[14:]
    for content in (whole[:-9], b"", b"plain text", damaged, whole[:-8] + bytes(8)):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz: expected"):
            data.load(tmp_path)


def test_idx_that_do_not_fit_together(tmp_path):
    write_mnist(tmp_path)
    labels = tmp_path / "train-labels-idx1-ubyte"
    labels.write_bytes(idx(LABELS[:19]))
    with pytest.raises(DataError, match="one label per image, got 19 for 20 images"):
        data.load(tmp_path)
    labels.write_bytes(idx(IMAGES[:20]))
    with pytest.raises(DataError, match=r"labels of 1 dimensions, got \(20, 6, 5\)"):
        data.load(tmp_path)
    labels.unlink()
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\[.gz\], got no such file"):
        data.load(tmp_path)
    labels.write_bytes(idx(LABELS[:20]))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(IMAGES[20:, :5]))
    with pytest.raises(DataError, match=r"test images: expected \(6, 5, 1\).*got \(5, 5, 1\)"):
        data.load(tmp_path)
    write_mnist(tmp_path, prefix="emnist-letters-")
    with pytest.raises(DataError, match="several: '', 'emnist-letters-'"):
        data.load(tmp_path)


# ---- CIFAR binary ---------------------------------------------------------------------------------------


def write_cifar(folder: Path, hundred: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
    ten = ["data_batch_1.bin", "data_batch_2.bin", "test_batch.bin"]
    names = ["train.bin", "test.bin"] if hundred else ten
    images, labels = [], []
    for name in names:
        x = RNG.integers(0, 256, (4, 32, 32, 3), np.uint8)
        y = np.array([[1, 99], [19, 0], [5, 50], [7, 7]] if hundred else [[0], [9], [4], [5]], np.uint8)
        rows = np.concatenate([y, x.transpose(0, 3, 1, 2).reshape(4, -1)], axis=1)
        (folder / name).write_bytes(rows.tobytes())
        images.append(x)
        labels.append(y)
    return images, labels


def test_cifar10(tmp_path):
    images, labels = write_cifar(tmp_path, hundred=False)
    (tmp_path / "batches.meta.txt").write_text("\n".join(f"class {i}" for i in range(10)) + "\n\n")
    dataset = data.load(tmp_path)
    same(dataset, np.concatenate(images[:2]), np.concatenate(labels[:2])[:, 0], images[2], labels[2][:, 0])
    assert dataset.class_names[9] == "class 9"
    (tmp_path / "batches.meta.txt").write_text("cat\n")
    with pytest.raises(DataError, match=r"batches\.meta\.txt: expected 10 class names, got 1"):
        data.load(tmp_path)


@pytest.mark.parametrize(("label_mode", "column", "classes"), [("coarse", 0, 20), ("fine", 1, 100)])
def test_cifar100(tmp_path, label_mode, column, classes):
    images, labels = write_cifar(tmp_path, hundred=True)
    dataset = data.load(tmp_path, label_mode=label_mode)
    same(dataset, images[0], labels[0][:, column], images[1], labels[1][:, column])
    assert dataset.num_classes == classes


def test_cifar_damaged(tmp_path):
    write_cifar(tmp_path, hundred=False)
    path = tmp_path / "data_batch_2.bin"
    for content in (b"", path.read_bytes()[:-1], bytes(3074)):
        path.write_bytes(content)
        message = rf"data_batch_2\.bin: expected records of 3073 bytes.* {len(content)} bytes"
        with pytest.raises(DataError, match=message):
            data.load(tmp_path)
    path.write_bytes(b"\x0a" + bytes(3072))
    with pytest.raises(DataError, match=r"data_batch_2\.bin: labels: expected values in \[0, 10\), got 10"):
        data.load(tmp_path)
    (tmp_path / "test_batch.bin").unlink()
    with pytest.raises(DataError, match=r"expected test_batch\.bin beside data_batch_1\.bin"):
        data.load(tmp_path)


def test_cifar_pickles_are_refused(tmp_path):
    for names in (("batches.meta", "data_batch_1"), ("meta", "train", "test")):
        folder = tmp_path / names[0]
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
        with pytest.raises(DataError, match=r"expected CIFAR's binary version.*pickles"):
            data.load(folder)


# ---- npz ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("names", formats._NPZ_SPLIT)
def test_npz(tmp_path, save, names):
    arrays = (IMAGES[:20], LABELS[:20], np.asfortranarray(IMAGES[20:]), LABELS[20:].astype(">i8")[:, None])
    save(tmp_path / "a.npz", **dict(zip(names, arrays, strict=True)), other=np.array([None]))
    dataset = data.load(tmp_path / "a.npz")
    same(dataset, IMAGES[:20], LABELS[:20], IMAGES[20:], LABELS[20:])
    assert dataset.name == "a"


@pytest.mark.parametrize("names", formats._NPZ_WHOLE)
def test_npz_to_be_split(tmp_path, names):
    np.savez(tmp_path / "a.npz", **dict(zip(names, (IMAGES.astype(np.int64), LABELS), strict=True)))
    dataset = data.load(tmp_path / "a.npz", test_fraction=0.1)
    assert (len(dataset.x_train), len(dataset.x_test)) == (27, 3)
    assert dataset.x_train.dtype == np.uint8


def test_npz_of_floats(tmp_path):
    x = RNG.random((10, 4, 4, 2))
    np.savez(tmp_path / "a.npz", x=x, y=LABELS[:10])
    dataset = data.load(tmp_path / "a.npz")
    assert dataset.x_train.dtype == np.float32
    x[3, 1, 1, 1] = np.nan
    np.savez(tmp_path / "a.npz", x=x, y=LABELS[:10])
    with pytest.raises(DataError, match="finite"):
        data.load(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": IMAGES}, "expected arrays x_train/y_train.* or x/y .*got x$"),
        ({"x": IMAGES, "y": LABELS[:-1]}, "one label per image"),
        ({"x": IMAGES[:, 0], "y": LABELS}, r"expected \(N, H, W\[, C\]\).*got \(30, 5\)"),
        ({"x": IMAGES[:0], "y": LABELS[:0]}, r"none of them 0, got \(0, 6, 5, 1\)"),
        ({"x": IMAGES, "y": LABELS.astype(float)}, "labels: expected integers.*float64"),
        ({"x": IMAGES, "y": LABELS.astype(int) - 1}, r"labels: expected values in \[0, 100000\), got -1"),
        ({"x": IMAGES, "y": LABELS.astype(int) * 10**9}, "got 2000000000"),
        ({"x": IMAGES.astype(int) * 2, "y": LABELS}, "expected floats or 0 … 255"),
        ({"x": IMAGES, "y": np.array([None] * 30)}, "y.npy: expected numbers, got object"),
        ({"x": np.array(["a"]), "y": LABELS}, "x.npy: expected numbers, got <U1"),
        ({"x": IMAGES[:1], "y": LABELS[:1]}, "at least two samples"),
    ],
)
def test_npz_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=rf"a\.npz: .*{message}"):
        data.load(tmp_path / "a.npz")


def npy(shape: str, size: int, descr: str = "|u1") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(size)


def archive(path: Path, method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy("(1000000, 1000000, 1000000)", 10), "expected 1000000000000000000 bytes"),
        (npy("(2, 3, 4)", 23), "expected 24 bytes.*got 23"),
        (npy("(2, 3, 4)", 25), "expected 24 bytes.*got 25"),
        (npy("(-2, 3, -4)", 24), "dimensions ≥ 0"),
        (npy("(2, 3, 4)", 24, "|O"), "expected numbers, got object"),
        (npy("(((((2,", 24), "plain .npy"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "format version"),
        (b"", "plain .npy"),
        (b"text", "plain .npy"),
    ],
)
def test_npz_lying_headers(tmp_path, content, message):
    archive(tmp_path / "a.npz", x=content, y=npy("(2,)", 2))
    with pytest.raises(DataError, match=f"x.npy: .*{message}"):
        data.load(tmp_path / "a.npz")


def test_zip_bomb_is_refused_before_memory_is_taken(tmp_path, monkeypatch):
    """A consistent claim beyond this machine, and one beyond what the archive's bytes can expand to."""
    monkeypatch.setattr("wdfast.data.dataset.physical_memory", lambda: 1 << 20)
    path = archive(tmp_path / "a.npz", x=npy("(2, 1024, 1024)", 1 << 21), y=npy("(2,)", 2))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"this machine's 0\.0 GiB"):
            data.load(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    raw = bytearray(path.read_bytes())
    entry = raw.index(b"PK\x01\x02")
    raw[entry + 24 : entry + 28] = struct.pack("<I", 4_000_000_000)
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"expected at most .* got 4000000000"):
        data.load(path)


def test_npz_damaged(tmp_path):
    good = io.BytesIO()
    np.savez_compressed(good, x=IMAGES, y=LABELS)
    whole = good.getvalue()
    path = tmp_path / "a.npz"
    scrambled = whole[:60] + b"\xff" * 20 + whole[80:]
    for content in (b"", b"PK", whole[:100], whole[:-30], scrambled, b"text" * 50):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.npz: "):
            data.load(path)
    archive(path, zipfile.ZIP_LZMA, x=npy("(2,3,4)", 24), y=npy("(2,)", 2))
    with pytest.raises(DataError, match="stored or deflated"):
        data.load(path)


# ---- fuzz -----------------------------------------------------------------------------------------------


def survives(path: Path, content: bytes) -> None:
    """Either it is read, or DataError is raised; and no memory is taken beyond what the file can hold."""
    path.write_bytes(content)
    tracemalloc.start()
    try:
        data.load(path if path.suffix == ".npz" else path.parent)
    except DataError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 16 << 20


def damaged(whole: bytes):
    flips = st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=6)
    return st.tuples(flips, st.integers(0, len(whole)), st.binary(max_size=20))


def damage(whole: bytes, how) -> bytes:
    flips, end, tail = how
    content = bytearray(whole)
    for position, value in flips:
        content[position] = value
    return bytes(content[:end]) + tail


FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
IDX_FILE = idx(IMAGES[:20])
NPZ_FILE = io.BytesIO()
np.savez_compressed(NPZ_FILE, x=IMAGES[:4], y=LABELS[:4])
NPZ_STORED = io.BytesIO()
np.savez(NPZ_STORED, x=IMAGES[:4], y=LABELS[:4])


@FUZZ
@given(damaged(IDX_FILE[:40]))
def test_fuzz_idx(tmp_path, how):
    write_mnist(tmp_path)
    survives(tmp_path / "train-images-idx3-ubyte", damage(IDX_FILE, how))


@FUZZ
@given(st.binary(max_size=12))
def test_fuzz_idx_dimensions(tmp_path, dims):
    write_mnist(tmp_path, ".gz")
    survives(tmp_path / "train-images-idx3-ubyte.gz", gzip.compress(b"\0\0\x08\x03" + dims))


@FUZZ
@given(damaged(gzip.compress(IDX_FILE)))
def test_fuzz_gzip(tmp_path, how):
    write_mnist(tmp_path, ".gz")
    survives(tmp_path / "train-images-idx3-ubyte.gz", damage(gzip.compress(IDX_FILE), how))


@FUZZ
@pytest.mark.parametrize("whole", [NPZ_FILE.getvalue(), NPZ_STORED.getvalue()], ids=["deflated", "stored"])
@given(how=st.data())
def test_fuzz_npz(tmp_path, whole, how):
    survives(tmp_path / "a.npz", damage(whole, how.draw(damaged(whole))))


@FUZZ
@given(st.text("0123456789(),-[]'L ", max_size=40),
       st.sampled_from(["|u1", ">f8", "O", "<U9", "V3", "x", "<M8[s]"]))
def test_fuzz_npy_header(tmp_path, shape, descr):
    archive(tmp_path / "b.npz", x=npy(shape, 24, descr), y=npy("(2,)", 2))
    survives(tmp_path / "a.npz", (tmp_path / "b.npz").read_bytes())


# ---- digits ---------------------------------------------------------------------------------------------


def test_digits():
    dataset = data.load("digits")
    assert dataset.x_train.shape == (1442, 8, 8, 1)
    assert dataset.x_test.shape == (355, 8, 8, 1)
    assert dataset.x_train.max() == 255
    for part in (dataset.y_train, dataset.y_test):
        share = data.class_counts(part) / len(part)
        assert np.abs(share - 0.1).max() < 0.01
    train = {x.tobytes() for x in dataset.x_train}
    assert not any(x.tobytes() in train for x in dataset.x_test)
    (x, y), (x_test, y_test) = datasets.load_digits()
    same(dataset, x, y, x_test, y_test)


def test_digits_are_those_of_the_source():
    source = pytest.importorskip("sklearn.datasets").load_digits()
    images, labels = read_digits()
    assert np.array_equal(images, source.images)
    assert np.array_equal(labels, source.target)


def test_digits_file_is_checked(tmp_path):
    images, labels = read_digits()
    whole = images.tobytes() + labels.tobytes()
    for content, message in ((whole[:-1], "expected 116805 bytes, got 116804"), (b"", "got 0"),
                             (b"\x11" + whole[1:], "got 17 and 9"), (whole[:-1] + b"\x0a", "got 16 and 10")):
        (tmp_path / "digits.bin").write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_digits(str(tmp_path / "digits.bin"))


# ---- labels and splits ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.99])
def test_split(stratified, fraction):
    y = np.repeat([0, 1, 2, 7], [100, 50, 2, 1])
    kept, held_out = data.split_indices(y, fraction, stratified=stratified, seed=4)
    assert sorted([*kept, *held_out]) == list(range(len(y)))
    assert (np.diff(kept) > 0).all()
    assert (np.diff(held_out) > 0).all()
    if stratified:
        expected = {0: round(100 * fraction), 1: min(max(1, round(50 * fraction)), 49), 2: 1, 7: 0}
        assert {label: int((y[held_out] == label).sum()) for label in expected} == expected
    else:
        assert len(held_out) == round(fraction * len(y))
    again = data.split_indices(y, fraction, stratified=stratified, seed=4)
    assert np.array_equal(again[1], held_out)
    if fraction == 0.5:
        other = data.split_indices(y, fraction, stratified=stratified, seed=5)
        assert not np.array_equal(other[1], held_out)


def test_split_is_the_same_on_every_machine():
    assert data.split_indices(np.arange(20) % 2, 0.2, seed=0)[1].tolist() == [2, 13, 14, 17]


def test_split_refuses():
    for fraction in (0, 1, -0.5, 2, float("nan")):
        with pytest.raises(ValueError, match="'fraction': expected"):
            data.split_indices([0, 1], fraction)
    for y in ([], [3], [0, 1, 2]):
        with pytest.raises(ValueError, match="at least two"):
            data.split_indices(y, 0.5)
    with pytest.raises(ValueError, match="got 2 for 3"):
        data.train_validation_split(np.zeros((3, 1)), [0, 1])


def test_to_categorical_and_class_counts():
    assert data.to_categorical([1, 0, 2]).tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert data.to_categorical(np.array([[1], [0]]), 3).shape == (2, 3)
    assert data.to_categorical(np.array([[1, 0], [0, 1]], np.uint8), 2).shape == (2, 2, 2)
    assert data.to_categorical(np.zeros(0, int), 4).shape == (0, 4)
    assert data.class_counts([0, 2, 2]).tolist() == [1, 0, 2]
    for function in (data.to_categorical, data.class_counts):
        for y in ([-1], [5]):
            with pytest.raises(ValueError, match=rf"\[0, 5\), got {y[0]}"):
                function(y, 5)
        with pytest.raises(TypeError, match="integer labels, got float64"):
            function([0.5])


# ---- load -----------------------------------------------------------------------------------------------


def test_load_refuses_what_it_does_not_know(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    for path, came in ((tmp_path / "none", "nothing at this path"), ("mnist", "nothing at this path"),
                       (tmp_path / "a.txt", "a file of another kind")):
        with pytest.raises(DataError, match=f"expected 'digits', a folder.*got {came}"):
            data.load(path)
    for options, message in (({"label_mode": "both"}, "'label_mode'"),
                             ({"test_fraction": 1}, "'test_fraction'"),
                             ({"image_size": 0}, "'image_size': expected pixels or"),
                             ({"color_mode": "rgba"}, "'color_mode': expected None, 'rgb'")):
        with pytest.raises(DataError, match=message):
            data.load("digits", **options)


@pytest.mark.parametrize("sides", [(16, 16), (3, 20), (5, 4), (8, 8)])
def test_load_resizes_as_pillow_does(sides):
    image = pytest.importorskip("PIL.Image")
    plain, made = data.load("digits"), data.load("digits", image_size=sides)
    assert made.image_shape == (*sides, 1)
    assert made.x_test.dtype == np.uint8
    np.testing.assert_array_equal(made.y_test, plain.y_test)
    for before, after in zip(plain.x_test[:20, ..., 0], made.x_test[:20, ..., 0], strict=True):
        wanted = np.asarray(image.fromarray(before).resize(sides[::-1], image.Resampling.BILINEAR))
        assert np.abs(wanted.astype(int) - after).max() <= 1  # Pillow also rounds between rows and columns


def test_load_makes_grey_and_colour(tmp_path):
    image = pytest.importorskip("PIL.Image")
    x = np.random.default_rng(0).integers(0, 256, (1030, 4, 6, 3), np.uint8)  # more than are resized at a time
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(1030) % 2)
    plain, grey = data.load(tmp_path / "a.npz"), data.load(tmp_path / "a.npz", color_mode="grayscale")
    assert grey.image_shape == (4, 6, 1)
    for before, after in zip(plain.x_train, grey.x_train, strict=True):
        assert np.abs(np.asarray(image.fromarray(before).convert("L")).astype(int) - after[..., 0]).max() <= 1
    assert data.load(tmp_path / "a.npz", color_mode="rgb").x_train.tobytes() == plain.x_train.tobytes()
    colour = data.load("digits", image_size=5, color_mode="rgb")
    assert colour.image_shape == (5, 5, 3)
    assert (colour.x_test == data.load("digits", image_size=5).x_test).all()
    np.savez(tmp_path / "floats.npz", x=np.linspace(0, 1, 160).reshape(10, 4, 4, 1), y=np.arange(10) % 2)
    assert data.load(tmp_path / "floats.npz", image_size=2).x_train.dtype == np.float32
    np.savez(tmp_path / "two.npz", x=np.zeros((4, 2, 2, 2), np.uint8), y=np.arange(4) % 2)
    with pytest.raises(DataError, match="1 or 3 channels, got 2"):
        data.load(tmp_path / "two.npz", color_mode="rgb")


def test_import_is_light():
    program = ("import sys, numpy; old = set(sys.modules); import wdfast.data, wdfast.datasets, wdfast.io\n"
               "print(*{m.split('.')[0] for m in set(sys.modules) - old})")
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = run.stdout.split()
    heavy = {"PIL", "safetensors", "concurrent", "zipfile", "gzip", "multiprocessing", "tqdm", "sklearn"}
    assert heavy.isdisjoint(loaded)
    assert "wdfast" in loaded
