"""Folders of images: decoding, mixed sizes and colours, damage, the cache and its interruptions."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from wdfast import data
from wdfast.data import DataError, folder

Image = pytest.importorskip("PIL.Image")
ROOT = Path(__file__).resolve().parents[1]


def picture(seed: int, height: int = 10, width: int = 12, channels: int = 3) -> np.ndarray:
    x = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return x if channels > 1 else x[..., 0]


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def make(root: Path, parts=("train", "test"), classes=("cat", "dog"), n: int = 5, channels: int = 3) -> Path:
    for p, part in enumerate(parts):
        for c, name in enumerate(classes):
            for i in range(n):
                save(root / part / name / f"{i}.png", picture(100 * p + 10 * c + i, channels=channels))
    return root


# ---- layouts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test_name", ["test", "val", "valid", "validation"])
def test_train_and_test(tmp_path, test_name):
    dataset = data.load(make(tmp_path, ("train", test_name)))
    assert dataset.class_names == ["cat", "dog"]
    assert dataset.y_train.tolist() == [0] * 5 + [1] * 5
    assert np.array_equal(dataset.x_train, [picture(10 * c + i) for c in range(2) for i in range(5)])
    assert np.array_equal(dataset.x_test, [picture(100 + 10 * c + i) for c in range(2) for i in range(5)])
    assert dataset.name == tmp_path.name


@pytest.mark.parametrize("parts", [("",), ("train",)])
def test_without_test_part_it_is_split(tmp_path, parts):
    dataset = data.load(make(tmp_path, parts, n=10), test_fraction=0.3, seed=2)
    assert data.class_counts(dataset.y_train).tolist() == [7, 7]
    for x, y in zip(dataset.x_test, dataset.y_test, strict=True):
        assert any(np.array_equal(x, picture(10 * y + i)) for i in range(10))


def test_clutter_and_deeper_folders(tmp_path):
    make(tmp_path)
    save(tmp_path / "train" / "cat" / "images" / "deep.png", picture(77))
    clutter = ("train/.DS_Store", "train/cat/.hidden", "train/dog/Thumbs.db", "train/cat/desktop.ini")
    for name in (*clutter, "notes.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / ".git").mkdir()
    dataset = data.load(tmp_path)
    assert len(dataset.x_train) == 11
    assert any(np.array_equal(x, picture(77)) for x in dataset.x_train)


def test_classes_of_the_test_part(tmp_path):
    make(tmp_path)
    shutil.rmtree(tmp_path / "test" / "cat")
    assert data.load(tmp_path).y_test.tolist() == [1] * 5
    save(tmp_path / "test" / "emu" / "0.png", picture(0))
    with pytest.raises(DataError, match="emu: expected a class of the training part"):
        data.load(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: shutil.rmtree(root / "train"), r"expected a folder 'train' beside 'test'"),
        (lambda root: (root / "train/cat/a.txt").write_text("x"), r"a\.txt: expected an image .*another"),
        (lambda root: (root / "train/cat/0.png").write_bytes(b""), r"train/cat/0\.png: expected an image"),
        (lambda root: (root / "test/dog/4.png").write_text("text"), r"test/dog/4\.png: expected an image"),
        (lambda root: (root / "train/emu").mkdir(), r"emu: expected images of one class, got none"),
        (lambda root: [shutil.rmtree(root / "train" / c) for c in ("cat", "dog")], r"train: .*got no folder"),
        (lambda root: [shutil.rmtree(root / part) for part in ("test", "train")], r"got no folder"),
        (lambda root: (root / "train/cat/0.png").rename(root / "train/cat/0.eps"), r"0\.eps: expected"),
    ],
)
def test_spoilt_folders(tmp_path, spoil, message):
    spoil(make(tmp_path))
    with pytest.raises(DataError, match=message):
        data.load(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "tiff", "webp", "ppm"])
def test_truncated_anywhere(tmp_path, suffix):
    good = save(tmp_path / f"good.{suffix}", picture(1, 40, 40))
    assert data.read_images([good]).shape == (1, 40, 40, 3)
    whole = good.read_bytes()
    for length in (0, 1, 10, len(whole) // 4, len(whole) // 2):
        path = tmp_path / f"bad.{suffix}"
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=rf"bad\.{suffix}: expected an image"):
            data.read_images([good, path])


def test_formats_that_run_programs_are_not_opened(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    with pytest.raises(DataError, match=r"a\.png: expected an image"):
        data.read_images([path])


def test_decompression_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "_MAX_PIXELS", 119)
    with pytest.raises(DataError, match=r"0\.png: expected at most 119 pixels, got 12 × 10"):
        data.load(make(tmp_path))


def test_more_than_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("wdfast.data.dataset.physical_memory", lambda: 7199)
    make(tmp_path)
    with pytest.raises(DataError, match="GiB for all images: give a smaller 'image_size'"):
        data.load(tmp_path)
    assert data.load(tmp_path, image_size=8).image_shape == (8, 8, 3)


# ---- sizes and colours ----------------------------------------------------------------------------------


def test_mixed_sizes(tmp_path):
    make(tmp_path)
    for i in range(3):
        save(tmp_path / "train" / "cat" / f"tall{i}.png", picture(i, 30, 9))
    assert data.load(tmp_path).image_shape == (10, 12, 3)  # the median
    assert data.load(tmp_path, image_size=7).image_shape == (7, 7, 3)
    assert data.load(tmp_path, image_size=(5, 16), color_mode="grayscale").image_shape == (5, 16, 1)
    flat = save(tmp_path / "flat.jpg", np.full((300, 500, 3), (200, 100, 50), np.uint8))
    resized = data.read_images([flat], image_size=(20, 30))
    assert np.abs(resized.astype(int) - (200, 100, 50)).max() <= 2


def test_colours(tmp_path):
    grey = picture(3, channels=1)
    paths = [save(tmp_path / "grey.png", grey), save(tmp_path / "sixteen.png", grey.astype(np.uint16) * 257)]
    bits = Image.fromarray(np.where(grey > 127, 255, 0).astype(np.uint8)).convert("1")
    bits.save(tmp_path / "bits.png")
    Image.fromarray(grey).convert("LA").save(tmp_path / "alpha.png")
    paths += [tmp_path / "bits.png", tmp_path / "alpha.png"]
    assert data.read_images(paths).shape == (4, 10, 12, 1)
    read = data.read_images(paths)[..., 0]
    for i, expected in enumerate((grey, grey, np.where(grey > 127, 255, 0), grey)):
        assert np.array_equal(read[i], expected)

    rgb = picture(4)
    colour = [save(tmp_path / "rgb.png", rgb)]
    Image.fromarray(rgb).convert("RGBA").save(tmp_path / "rgba.png")
    Image.fromarray(rgb).quantize(256).save(tmp_path / "palette.png")
    colour += [tmp_path / "rgba.png", tmp_path / "palette.png"]
    read = data.read_images(paths + colour)
    assert read.shape == (7, 10, 12, 3)
    assert np.array_equal(read[0], np.repeat(grey[..., None], 3, axis=2))
    assert np.array_equal(read[4], rgb)
    assert np.array_equal(read[5], rgb)
    assert np.abs(read[6].astype(int) - rgb).mean() < 10
    assert data.read_images(paths + colour, color_mode="grayscale").shape[-1] == 1


def test_a_rare_colour_image_is_not_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "_SAMPLE", 3)
    paths = [save(tmp_path / f"{i}.png", picture(i, channels=1)) for i in range(30)]
    assert data.read_images(paths).shape[-1] == 1
    save(paths[17], picture(17))
    images = data.read_images(paths)
    assert images.shape[-1] == 3
    assert np.array_equal(images[17], picture(17))


def test_float_pixels_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "f.tiff")
    with pytest.raises(DataError, match=r"f\.tiff: expected an image.*not mode F"):
        data.read_images([tmp_path / "f.tiff"])


def test_like(tmp_path):
    path = save(tmp_path / "a.png", picture(1))
    assert data.read_images([path], like=(8, 9, 1)).shape == (1, 8, 9, 1)
    assert data.read_images([path], like=data.load("digits")).shape == (1, 8, 8, 1)
    for like in ((8, 8), (8, 8, 4), (None, 8, 3)):
        with pytest.raises((DataError, TypeError)):
            data.read_images([path], like=like)


def test_arguments(tmp_path):
    path = save(tmp_path / "a.png", picture(1))
    for options in ({"image_size": 0}, {"image_size": (3,)}, {"image_size": (3, 4, 5)}, {"image_size": "big"},
                    {"image_size": 2.5}, {"color_mode": "rgba"}):
        with pytest.raises(DataError, match=f"argument '{next(iter(options))}': expected"):
            data.read_images([path], **options)
    with pytest.raises(DataError, match="at least one file"):
        data.read_images([])
    with pytest.raises(DataError, match=r"none\.png: expected an image, got no such file"):
        data.read_images([tmp_path / "none.png"])


# ---- progress and interruption --------------------------------------------------------------------------


def test_progress(tmp_path, capsys, monkeypatch):
    make(tmp_path, n=100)
    seen = []
    data.load(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (400, 400)
    assert len(seen) == 7
    pytest.importorskip("tqdm")
    data.load(tmp_path, progress=True)
    assert capsys.readouterr().err == ""  # no terminal, no bar
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    data.load(tmp_path, progress=True)
    assert "400/400" in capsys.readouterr().err


def test_an_interruption_stops_all_and_leaves_no_cache(tmp_path):
    make(tmp_path / "in", n=200)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data.load(tmp_path / "in", cache_dir=tmp_path / "cache", progress=interrupt)
    assert not (tmp_path / "cache").exists()


KILLED = textwrap.dedent("""
    import os, signal, sys
    from wdfast import data
    from wdfast.io import files
    def killed(*_): os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[2] == "decoding":
        data.load(sys.argv[1] + "/in", cache_dir=sys.argv[1] + "/cache", progress=killed)
    files.os.fsync = killed
    data.load(sys.argv[1] + "/in", cache_dir=sys.argv[1] + "/cache")
""")


@pytest.mark.parametrize("moment", ["decoding", "writing"])
def test_a_kill_leaves_no_broken_cache(tmp_path, moment):
    make(tmp_path / "in")
    run = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), moment], check=False)
    assert run.returncode == -signal.SIGKILL
    assert not list(tmp_path.glob("cache/images-*.npy"))
    expected = data.load(tmp_path / "in").x_train
    for _ in range(2):
        assert np.array_equal(data.load(tmp_path / "in", cache_dir=tmp_path / "cache").x_train, expected)
    assert len(list(tmp_path.glob("cache/images-*.npy"))) == 1


def test_ctrl_c_ends_soon(tmp_path):
    """SIGINT while threads decode: KeyboardInterrupt in the caller, no thread left behind."""
    make(tmp_path, n=200)
    program = textwrap.dedent("""
        import os, signal, sys, threading
        from wdfast import data
        from wdfast.data import folder
        slow = folder.decode
        def decode(*arguments):
            threading.Event().wait(0.02)
            return slow(*arguments)
        folder.decode = decode
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            data.load(sys.argv[1])
        except KeyboardInterrupt:
            print("interrupted,", threading.active_count(), "thread")
    """)
    command = [sys.executable, "-c", program, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == "interrupted, 1 thread\n"


# ---- cache ----------------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch):
    """The number of images decoded so far."""
    count = [0]
    decode = folder.decode

    def counted(*arguments):
        count[0] += 1
        return decode(*arguments)

    monkeypatch.setattr(folder, "decode", counted)
    return count


def test_cache_is_used_and_one_file(tmp_path, decoded):
    root, cache = make(tmp_path / "in"), tmp_path / "a" / "cache"
    first = data.load(root, cache_dir=cache)
    assert decoded == [20]
    second = data.load(root, cache_dir=cache)
    assert decoded == [20]
    for name in ("x_train", "y_train", "x_test", "y_test"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    assert second.class_names == ["cat", "dog"]
    second.x_train[:] = 0
    assert data.load(root, cache_dir=cache).x_train.any()
    (file,) = cache.iterdir()
    assert np.array_equal(np.load(file, allow_pickle=False)[:10], first.x_train)
    root.rename(tmp_path / "moved")
    data.load(tmp_path / "moved", cache_dir=cache)
    assert decoded == [20]


@pytest.mark.parametrize(
    "change",
    [
        lambda root: save(root / "train/cat/0.png", picture(99)),
        lambda root: os.utime(root / "train/cat/0.png", (1, 1)),
        lambda root: save(root / "test/cat/9.png", picture(99)),
        lambda root: (root / "train/cat/0.png").unlink(),
        lambda root: (root / "train/cat/0.png").rename(root / "train/dog/9.png"),
        lambda root: (root / "test").rename(root / "val"),
    ],
)
def test_changed_data_is_not_served_stale(tmp_path, decoded, change):
    root, cache = make(tmp_path / "in"), tmp_path / "cache"
    data.load(root, cache_dir=cache)
    time.sleep(0.01)  # longer than the file system's clock tick
    change(root)
    got, expected = data.load(root, cache_dir=cache), data.load(root)
    assert decoded[0] > 50
    assert np.array_equal(got.x_train, expected.x_train)
    assert np.array_equal(got.x_test, expected.x_test)
    assert np.array_equal(got.y_train, expected.y_train)


def test_options_are_part_of_the_key(tmp_path):
    root, cache = make(tmp_path / "in"), tmp_path / "cache"
    for options in ({}, {"image_size": 6}, {"color_mode": "grayscale"}):
        for _ in range(2):
            got = data.load(root, cache_dir=cache, **options)
            assert np.array_equal(got.x_train, data.load(root, **options).x_train)
    assert len(list(cache.iterdir())) == 3
    data.load(root, cache_dir=cache, seed=3, test_fraction=0.4)
    assert len(list(cache.iterdir())) == 3


def test_damaged_cache_is_made_again(tmp_path):
    root, cache = make(tmp_path / "in"), tmp_path / "cache"
    expected = data.load(root, cache_dir=cache).x_train
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    other = io.BytesIO()
    np.save(other, np.zeros((3, 10, 12, 3), np.uint8))
    for content in (b"", whole[:50], whole[:-1], whole + b"x", b"text" * 100, other.getvalue()):
        file.write_bytes(content)
        assert np.array_equal(data.load(root, cache_dir=cache).x_train, expected)
        assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_nothing(tmp_path):
    root = make(tmp_path / "in")
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(UserWarning, match="the images were read, but not kept"):
        dataset = data.load(root, cache_dir=tmp_path / "file")
    assert len(dataset.x_train) == 10


# ---- real images ----------------------------------------------------------------------------------------


def test_a_piece_of_cifar10(tmp_path):
    """The first images of the archive beside the checkout: bytes of real JPEG files."""
    path = ROOT.parent / "shared" / "data" / "cifar10-jpeg.tar.xz"
    if not path.exists():
        pytest.skip(f"needs {path.name}")
    with tarfile.open(path) as archive:
        for _ in range(60):
            member = archive.next()
            if member is not None and member.isfile():
                target = tmp_path.joinpath(*Path(member.name).parts[-2:])
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(archive.extractfile(member).read())
    save(tmp_path / "zebra" / "0.png", picture(0, 32, 32))
    save(tmp_path / "zebra" / "1.png", picture(1, 32, 32))
    dataset = data.load(tmp_path)
    assert dataset.image_shape == (32, 32, 3)
    assert len(dataset.x_train) + len(dataset.x_test) > 40
    one = next(tmp_path.glob("*/*.jpg"))
    assert np.array_equal(data.read_images([one])[0], np.asarray(Image.open(one)))
