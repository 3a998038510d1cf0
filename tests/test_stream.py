"""Streams: a run that reads its images from disk is the run on the arrays, to the bit, in a ring's memory."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wdfast as wd
from wdfast import callbacks, data, layers, losses, models, optimizers, utils
from wdfast._streamed import Streamed
from wdfast.data import DataError, ImageStream
from wdfast.steps import Augment

Image = pytest.importorskip("PIL.Image")
CLASSES = ("cat", "dog", "eel")
X = np.random.default_rng(3).integers(0, 256, (29, 6, 5, 3)).astype(np.uint8)
Y = np.repeat([0, 1, 2], (10, 10, 9)).astype(np.int32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for i, (image, label) in enumerate(zip(X, Y, strict=True)):
        (root / CLASSES[label]).mkdir(exist_ok=True)
        Image.fromarray(image).save(root / CLASSES[label] / f"{i:02}.png")
    return root


def network(loss: Any = "sparse_categorical_crossentropy") -> models.Sequential:
    wd.set_seed(1)
    model = models.Sequential([layers.Input((6, 5, 3)), layers.Rescaling(1 / 255),
                               layers.Conv2D(4, 3, activation="relu"), layers.Dropout(0.2), layers.Flatten(),
                               layers.Dense(3, activation="softmax")])
    model.compile(optimizers.Adam(1e-2), loss, ["accuracy"])
    return model


def bits(model: Any) -> list[bytes]:
    return [w.tobytes() for w in model.get_weights()]


def both(stream: ImageStream, y: np.ndarray = Y, loss: Any = "sparse_categorical_crossentropy", **options: Any
         ) -> tuple[Any, Any]:
    """(weights, history) of a run on the stream, and of the same on arrays; validation on the same."""
    given = {"epochs": 3, "seed": 5, "verbose": 0} | options
    streamed, plain = network(loss), network(loss)
    first = streamed.fit(stream, validation_data=stream, **given).history
    second = plain.fit(X, y, batch_size=stream.batch_size, shuffle=stream.shuffle, validation_data=(X, y),
                       validation_batch_size=stream.batch_size, **given).history
    assert len(first["loss"]) == 3
    return (bits(streamed), first), (bits(plain), second)


@pytest.mark.parametrize("prefetch", [2, 3, 8])
@pytest.mark.parametrize("options", [{}, {"augment": Augment(flip=True, crop=1, mixup=0.3)},
                                     {"class_weight": {1: 3.0}}])
def test_the_bits_of_the_run_on_arrays(folder: Path, prefetch: int, options: Any) -> None:
    """29 samples in batches of 8: the last batch is short, and the ring shorter or longer than the epoch."""
    streamed, plain = both(data.stream(folder, batch_size=8, prefetch=prefetch), **options)
    assert streamed == plain


def test_one_hot_labels_and_no_shuffling(folder: Path) -> None:
    stream = data.stream(folder, batch_size=5, label_mode="categorical", shuffle=False)
    streamed, plain = both(stream, utils.to_categorical(Y, 3), losses.CategoricalCrossentropy())
    assert streamed == plain


def test_slow_and_unequal_reading_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, read = data.stream(folder, batch_size=4, prefetch=3), ImageStream.read

    def slow(self: ImageStream, indices: Any, out: np.ndarray) -> None:
        out[...] = 0  # a ring that is read too early shows
        time.sleep(0.004 * (int(indices[0]) % 4))
        read(self, indices, out)

    monkeypatch.setattr(ImageStream, "read", slow)
    streamed, plain = both(stream)
    assert streamed == plain


def test_reading_goes_on_while_a_step_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the first batch is handed out, the others of the ring are already asked for."""
    asked, may_go = [], threading.Event()
    read = ImageStream.read

    def watched(self: ImageStream, indices: Any, out: np.ndarray) -> None:
        asked.append(int(indices[0]))
        if len(asked) > 1:
            assert may_go.wait(20)
        read(self, indices, out)

    monkeypatch.setattr(ImageStream, "read", watched)
    stream = data.stream(folder, batch_size=4, prefetch=3)
    arrays = Streamed(stream, [Y], None, 4)
    order = np.arange(29, dtype=np.int32)
    rows = arrays.stage(order, 0, 7, 4)
    assert rows.tolist() == [[0, 1, 2, 3]]  # one, as no other is ready
    np.testing.assert_array_equal(arrays.inputs[0][rows[0]], X[:4])
    may_go.set()
    assert arrays.stage(order, 4, 1, 4).tolist() == [[4, 5, 6, 7]]
    arrays.close()
    assert set(asked) <= {0, 4, 8, 12}  # the ring's three, and the one in the place that was given up
    assert len(asked) >= 2


def test_memory_is_that_of_the_ring(folder: Path) -> None:
    arrays = Streamed(data.stream(folder, batch_size=4, prefetch=3), [Y], None, 4)
    assert arrays.inputs[0].shape == (12, 6, 5, 3)
    assert arrays.size == 29
    before = threading.active_count()
    model = network()
    model.fit(data.stream(folder, batch_size=4), epochs=1, verbose=0)
    model.evaluate(data.stream(folder))
    assert threading.active_count() == before  # no reader is left behind


def test_evaluate_and_predict(folder: Path) -> None:
    stream = data.stream(folder, batch_size=8)
    lazy = models.Sequential([layers.Flatten(), layers.Dense(3)])
    assert lazy.predict(stream).shape == (29, 3)
    model = network()
    np.testing.assert_array_equal(model.predict(stream), model.predict(X, batch_size=8))
    assert model.evaluate(stream) == model.evaluate(X, Y, batch_size=8)


def test_batches_one_after_another(folder: Path) -> None:
    stream = data.stream(folder, batch_size=8, image_size=(6, 5))
    assert (len(stream), stream.shape, stream.class_names) == (4, (29, 6, 5, 3), list(CLASSES))
    images, labels = zip(*stream, strict=True)
    np.testing.assert_array_equal(np.concatenate(images), X)
    np.testing.assert_array_equal(np.concatenate(labels), Y)
    grey = data.stream(folder, image_size=3, color_mode="grayscale")
    assert next(iter(grey))[0].shape == (29, 3, 3, 1)
    assert repr(stream) == "<ImageStream 29 images of (6, 5, 3), 3 classes, batches of 8>"


def test_parts_of_a_split(folder: Path) -> None:
    parts = [utils.image_dataset_from_directory(folder, validation_split=0.3, subset=part, seed=4)
             for part in ("training", "validation")]
    paths = [set(part.paths) for part in parts]
    assert (len(paths[0]), len(paths[1])) == (20, 9)
    assert paths[0] | paths[1] == set(data.stream(folder).paths)
    assert np.bincount(parts[1].labels).tolist() == [3, 3, 3]
    for part in parts:
        assert [Path(path).parent.name for path in part.paths] == [CLASSES[label] for label in part.labels]


class Interrupt(callbacks.Callback):
    def __init__(self, at: int) -> None:
        self.left = at

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


def test_interrupted_and_resumed_is_uninterrupted(folder: Path, tmp_path: Path) -> None:
    def run(checkpoint: Path | None, at: int, stream: ImageStream) -> list[bytes]:
        model = network()
        model.fit(stream, epochs=2, seed=3, verbose=0, checkpoint=checkpoint, callbacks=[Interrupt(at)])
        return bits(model)

    whole = run(None, 0, data.stream(folder, batch_size=4))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 10, data.stream(folder, batch_size=4))
    assert run(tmp_path, 0, data.stream(folder, batch_size=4)) == whole
    other = data.stream(folder, batch_size=4)
    other.labels = other.labels[::-1].copy()
    with pytest.raises(ValueError, match="other data"):
        run(tmp_path, 0, other)


def test_a_damaged_image_is_named_and_readers_end(folder: Path, tmp_path: Path) -> None:
    for name in CLASSES:
        (tmp_path / name).mkdir()
    for source in folder.rglob("*.png"):
        (tmp_path / source.parent.name / source.name).write_bytes(source.read_bytes())
    stream = data.stream(tmp_path, batch_size=4)
    damaged = tmp_path / "dog" / "13.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    before = threading.active_count()
    with pytest.raises(DataError, match=r"dog.13\.png: expected an image"):
        network().fit(stream, verbose=0)
    assert threading.active_count() == before


@pytest.mark.parametrize(("options", "message"), [
    ({"label_mode": "binary"}, "'label_mode': expected one of"),
    ({"batch_size": 0}, "'batch_size': expected an int ≥ 1"), ({"prefetch": 1}, "'prefetch': expected an int ≥ 2"),
    ({"validation_split": 0.2}, "'validation_split' and 'subset'"),
    ({"validation_split": 0.2, "subset": "test"}, "'validation_split' and 'subset'"),
])  # fmt: skip
def test_wrong_arguments_are_named(folder: Path, options: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        data.stream(folder, **options)
    with pytest.raises(DataError, match="cannot be read"):
        data.stream(folder / "nothing")


def test_what_does_not_go_with_a_stream(folder: Path) -> None:
    stream = data.stream(folder)
    with pytest.raises(ValueError, match="argument 'y': expected None beside a stream"):
        network().fit(stream, Y)
    with pytest.raises(ValueError, match="a stream cannot be split"):
        network().fit(stream, validation_split=0.2)
    other = models.Sequential([layers.Input((7, 5, 3)), layers.Flatten(), layers.Dense(3)])
    other.compile("sgd", losses.SparseCategoricalCrossentropy(True))
    with pytest.raises(ValueError, match="argument 'x': expected"):
        other.fit(stream)
    with pytest.raises(ValueError, match="argument 'x': expected"):
        other.predict(stream)
