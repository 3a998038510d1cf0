"""The programs of examples/, run as a user would, in their small settings."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="needs a checkout")


def run(example: str, folder: Path, *arguments: str | Path) -> str:
    """What the example prints in its small setting; it says nothing on stderr (TensorFlow does)."""
    command = [sys.executable, EXAMPLES / f"{example}.py", "--quick", *arguments]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    assert "keras" in arguments or printed.stderr == ""
    return printed.stdout


def drawn(example: str, folder: Path, *arguments: str | Path) -> str:
    """As `run`, of an example that also saves a picture."""
    pytest.importorskip("matplotlib")
    picture = folder / f"{example}.png"
    printed = run(example, folder, "--out", picture, *arguments)
    assert picture.read_bytes().startswith(b"\x89PNG")
    return printed


def test_decay_vs_l2(tmp_path: Path) -> None:
    cells = tmp_path / "cells.jsonl"
    printed = drawn("decay_vs_l2", tmp_path, "--cells", cells)
    rows = re.findall(r"^ ?\[+([\d. ]+)\]", printed, re.MULTILINE)
    errors = [float(value) for row in rows for value in row.split()]
    assert len(errors) == 8  # two rules, two decays, two rates
    assert all(0 <= error < 90 for error in errors)  # 90 is chance
    assert errors[2:4] != errors[6:8]  # with much decay the rules differ
    assert re.search(r"2 paired seeds .*: loss [+-]\d", printed)

    kept = cells.read_text().splitlines(keepends=True)
    assert len(kept) == 16  # and two seeds
    cells.write_text("".join(kept[:-1]))  # as an interrupted run leaves it
    assert drawn("decay_vs_l2", tmp_path, "--cells", cells) == printed
    assert cells.read_text().splitlines(keepends=True) == kept


def test_linear_regression(tmp_path: Path) -> None:
    printed = drawn("linear_regression", tmp_path)
    apart = [(name.strip(), float(value)) for name, value in
             re.findall(r"^(\S.*|  ….*?) +(\d\.\de[+-]\d\d)$", printed, re.MULTILINE)]
    assert len(apart) == (4 if importlib.util.find_spec("sklearn") is None else 7)
    for name, distance in apart:
        limit = 1e-5 if "float32" in name else 1e-6
        assert distance > 0.1 if "sum of θ" in name else distance < limit, name
    gains = [float(gain) for gain in re.findall(r" ([+-]\d+\.\d\d) ± ", printed)]
    assert len(gains) == 4
    assert gains[0] == 0
    assert min(gains[1:]) > 0  # each choice of λ beats hardly any decay, on images that chose nothing


def test_mlp_with_l2(tmp_path: Path) -> None:
    printed = drawn("mlp_with_l2", tmp_path)
    rows = [[float(value) for value in re.findall(r"([+-]?\d+\.\d+) ±", line)] for line in printed.splitlines()]
    rows = [row for row in rows if row]
    assert len(rows) == 9  # five nets, four differences from the first
    nets, differences = [rows[0], *rows[1::2]], rows[2::2]
    assert all(train > 60 and test > 60 for train, test, _ in nets)  # 10 is chance
    assert nets[0][0] > nets[0][1]  # it overfits
    for net, difference in zip(nets[1:], differences, strict=True):
        assert difference[2] != 0
        assert difference == pytest.approx([a - b for a, b in zip(net, nets[0], strict=True)], abs=0.011)


def test_choosing_decay(tmp_path: Path) -> None:
    printed = drawn("choosing_decay", tmp_path)
    number = r" +([+-]?[\d.]+) ± [\d.]+"
    for measure, low, high in (("test loss", 0.1, 1.5), ("right, %", 60, 100)):  # by chance 2.3, and 10
        rows = re.findall(rf"^(\S.*?) {number}{number}{number}$", printed.split(measure)[1].split("decided")[0],
                          re.MULTILINE)
        found = {name: float(value) for name, value, *_ in rows}
        assert len(found) == 6  # four that need no search, two choices
        assert all(low < value < high for value in found.values())
        for name, value, over_none, over_it in rows:
            assert float(over_none) == pytest.approx(float(value) - found["no decay"], abs=0.0011), name
            assert float(over_it) == pytest.approx(found["one standard error"] - float(value), abs=0.0011), name
    for name in ("best of the folds", "one standard error"):
        (line,) = re.findall(rf"^{name}: (.*)$", printed, re.MULTILINE)
        chosen = dict(re.findall(r"(\S+) (\d)×", line))
        assert sum(map(int, chosen.values())) == 2
        assert set(chosen) <= {"none()", "epochs(12.0)", "epochs(3.464)", "epochs(1.0)"}


def test_imbalanced(tmp_path: Path) -> None:
    printed = drawn("imbalanced", tmp_path)
    rows = [[float(value) for value in re.findall(r"([+-]?\d+\.\d\d) ±", line)] for line in printed.splitlines()]
    rows = [row for row in rows if row]
    assert len(rows) == 6  # three weightings, two λs: recall 0–4 and 5–9, accuracy, balanced accuracy, its gain
    for frequent, rare, accuracy, balanced, gain in rows:
        assert balanced == pytest.approx((frequent + rare) / 2, abs=0.011)
        assert accuracy == pytest.approx((10 * frequent + rare) / 11, abs=0.011)
        assert gain == pytest.approx(balanced - rows[0][3], abs=0.011)
    none, weighted, softer = (row[1] for row in rows[::2])
    assert none < softer < weighted  # without decay the weights lift the recall of the rare classes
    assert rows[1][1] < none - 20  # unweighted, λ = 0.01 takes it away
    assert rows[3][1] > rows[1][1] + 20  # weighted, it does not
    classes = [line.split()[-10:] for line in printed.split("recall of each class")[1].splitlines()[1:]]
    for row, recalls in zip(rows, classes, strict=True):
        assert row[1] == pytest.approx(sum(map(float, recalls[5:])) / 5, abs=0.06)


def test_resnet20(tmp_path: Path) -> None:
    printed = drawn("resnet20", tmp_path, "--checkpoint", tmp_path / "kept")
    roles = dict(re.findall(r"^\d+ +(\w+) +(\S+\(.*?\)|does not train)", printed, re.MULTILINE))
    assert roles == {"kernel": "epochs(2.5)", "norm_scale": "none()", "norm_shift": "none()", "bias": "none()",
                     "state": "does not train"}
    sizes = [int(size.replace(",", "")) for size in re.findall(r"^\d+ .* ([\d,]+)$", printed, re.MULTILINE)]
    assert sum(sizes[:6]) == 273_754  # the six rows of the table; CIFAR's ResNet-20 has two colours more
    right, images = re.search(r"right of (\d+) test images: (\S+) %", printed).group(2, 1)
    assert images == "355"
    assert 90 < float(right) <= 100  # 98.3 to 99.2 where it was measured
    rows = re.findall(r"^(\d) +(\d+\.\d\d)  (?:(\d): (\d+) of (\d+)|none)$", printed, re.MULTILINE)
    assert [row[0] for row in rows] == list("0123456789")
    assert sum(float(row[1]) for row in rows) / 10 == pytest.approx(float(right), abs=0.5)  # 34 to 36 of each class
    again = drawn("resnet20", tmp_path, "--checkpoint", tmp_path / "kept")
    assert again.split("class  ")[1] == printed.split("class  ")[1]  # nothing is trained twice
    assert "epoch 8/8" not in again


def test_gan(tmp_path: Path) -> None:
    outcomes = []
    for loop in ([], ["--vjp"]):
        printed = drawn("gan", tmp_path, *loop)
        sheets = sorted(tmp_path.glob("*.png"))
        assert [sheet.name for sheet in sheets] == ["gan.png", "gan_0.01.png", "gan_0.png"]
        assert all(sheet.read_bytes().startswith(b"\x89PNG") for sheet in sheets)
        outcomes.append([printed, *(sheet.read_bytes() for sheet in sheets)])
    assert outcomes[0] == outcomes[1]  # the two loops do the same, to the bit
    lines = printed.splitlines()
    assert float(re.search(r"(\S+) % of 355", lines[0])[1]) > 90
    rows = [[float(value) for value in line.split()] for line in lines[3:]]
    assert [row[0] for row in rows] == [0, 1e-2]
    assert all(0.2 < row[1] < 0.69 < row[2] < 2 for row in rows)  # the discriminator is ahead, not out of reach
    assert all(10 <= row[4] <= 100 for row in rows)
    assert rows[0][1:] != rows[1][1:]  # λ acts
    assert max(row[5] for row in rows) < 120  # of an untrained generator it is 252


def test_vae(tmp_path: Path) -> None:
    printed = drawn("vae", tmp_path)
    rows = [[float(value) for value in line.replace("±", "").split()] for line in printed.splitlines()[4:]]
    assert [row[:2] for row in rows] == [[1, 0], [1, 1e-3]]
    for _, _, *trained_with, gain, _ in rows:
        for pixels, divergence, bound in (trained_with[:3], trained_with[3:]):
            assert pixels + divergence + bound == pytest.approx(0, abs=0.016)
            assert -30 < bound < -24  # at chance 64 ln ½ = −44; after ten times as many steps −25
        assert gain == pytest.approx(trained_with[5] - rows[0][7], abs=0.011)
        assert trained_with[2] > trained_with[5]  # images that were not trained with have less
    assert rows[0][6] > 0.1 > rows[1][6]  # so large a λ leaves nothing in the codes


def test_vae_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    printed = drawn("vae_torch", tmp_path)
    bounds = [float(bound) for bound in re.findall(r"(-\d+\.\d+) ±", printed)]
    assert len(bounds) == 4
    assert bounds[0::2] == pytest.approx(bounds[1::2], abs=1)

    monkeypatch.syspath_prepend(EXAMPLES)
    vae, twin = importlib.import_module("vae"), importlib.import_module("vae_torch")
    encoder, decoder, _ = vae.build((8, 12, 3), 1, 0)
    x = np.random.default_rng(0).random((5, 8, 12, 3), np.float32)
    model = twin.Autoencoder((8, 12, 3))
    weights = iter([torch.from_numpy(w) for part in (encoder, decoder) for w in part.get_weights()])
    layers = [layer for layer in model.modules() if hasattr(layer, "weight")]
    with torch.no_grad():
        for layer in layers:
            kernel, bias = next(weights), next(weights)
            if layer is model.hidden[5]:  # reads what Flatten made: (H, W, C) there, (C, H, W) here
                kernel = kernel.reshape(2, 3, 64, -1).permute(2, 0, 1, 3).reshape(kernel.shape)
            if layer is model.decoder[2]:
                kernel = kernel.reshape(-1, 2, 3, 64).permute(0, 3, 1, 2).reshape(kernel.shape)
                bias = bias.reshape(2, 3, 64).permute(2, 0, 1).reshape(bias.shape)
            layer.weight.copy_(kernel.permute(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T)
            layer.bias.copy_(bias)
        hidden = model.hidden(torch.from_numpy(x).permute(0, 3, 1, 2))
        mean, log_variance = model.mean(hidden), model.log_variance(hidden)
        logits = model.decoder(mean).permute(0, 2, 3, 1)
    np.testing.assert_allclose(mean, encoder.predict(x)[0], atol=1e-5)
    np.testing.assert_allclose(log_variance, encoder.predict(x)[1], atol=1e-5)
    np.testing.assert_allclose(logits, decoder.predict(encoder.predict(x)[0]), atol=1e-5)


@pytest.mark.parametrize("peer", ["", "torch", "keras"])
def test_cifar_with_l2(peer: str, tmp_path: Path) -> None:
    if peer:
        pytest.importorskip(peer)
    printed = drawn("cifar_with_l2", tmp_path, *(["--peers", peer] if peer else []))
    rows = re.findall(r"^(\w+) +(\S.*?) +((?:[\d.]+ +){5}[\d.]+)$", printed, re.MULTILINE)
    runs = {(library, run): list(map(float, values.split())) for library, run, values in rows}
    assert list(runs) == [("wdfast", "cross-entropy, no decay"), ("wdfast", "cross-entropy, L2"),
                          ("wdfast", "squared error, L2"), *([(peer, "cross-entropy, L2")] if peer else [])]
    for train, test, low, high, _, seconds in runs.values():
        assert 80 < low <= test <= high <= 100  # 10 is chance
        assert train > 80
        assert seconds > 0
    free, decayed, squared, *others = (values[4] for values in runs.values())
    assert decayed < free  # the norm of the kernels
    assert squared != decayed
    assert all(other == pytest.approx(decayed, rel=0.03) for other in others)


def test_cnn_schedules(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    printed = drawn("cnn_schedules", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cnn_schedules.png"]  # its folder was a temporary one
    rows = re.findall(r"^(\w+) +([\d.e-]+) … ([\d.e-]+) +((?:[\d.]+ +){5}[\d.]+)$", printed, re.MULTILINE)
    assert [row[:2] for row in rows] == [(name, "1.00e-03") for name in ("exponential", "linear", "step")]
    for (name, _, last_rate, figures), expected in zip(rows, (1e-3 * 0.8**7, 1e-3 / 8, 1e-5), strict=True):
        first, last, test, right, five, speed = map(float, figures.split())
        assert float(last_rate) == pytest.approx(expected, rel=5e-3), name
        assert 6.8 < first < 7.1  # ln 1,000 = 6.91: nothing is known yet
        assert last < first
        assert test < 7.1
        assert 0 <= right <= five <= 100
        assert speed > 0
    exponential, linear, step = (float(row[3].split()[1]) for row in rows)
    assert max(exponential, linear) < step - 0.2  # the rate that fell tenfold after three epochs learned least
    whole, ring, peak = map(float, re.search(r"images ([\d.]+), the ring ([\d.]+), .* (\d+)$", printed).groups())
    assert ring == pytest.approx(whole / 4, abs=0.1)  # 8 batches of 32, of 1,000 images
    assert whole < peak


def test_text(tmp_path: Path) -> None:
    printed = drawn("text", tmp_path)
    found = re.match(r"([\d,]+) texts of (\d+) packages, (\d+) to test with; (\d+) splits\n", printed)
    texts, classes, test, splits = found.groups()
    count = int(texts.replace(",", ""))
    assert count > 1000  # the standard library differs from version to version
    assert (classes, splits) == ("10", "2")
    assert int(test) == pytest.approx(count / 4, abs=10)  # of each class a quarter
    rows = re.findall(r"^(\w\S.*?) +([\d.]+) ± [\d.]+ +(-?[\d.]+) ± [\d.]+$", printed, re.MULTILINE)
    right = {name: float(value) for name, value, _ in rows}
    names = [f"{net}, {what}" for net in ("TextCNN", "GRU") for what in ("no decay", "decay")]
    assert list(right) == names + (["TF-IDF"] if importlib.util.find_spec("sklearn") else [])
    assert all(30 < value < 100 for value in right.values())  # the largest class is a sixth of the texts
    for name, value, difference in rows:
        assert float(difference) == pytest.approx(float(value) - right[rows[-1][0]], abs=0.011), name
    assert right["TextCNN, decay"] != right["TextCNN, no decay"]


def test_segmentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = drawn("segmentation", tmp_path)
    values = [float(value) for value in printed.splitlines()[-1].replace("±", "").split()]
    assert values[0] == 1
    assert 28 < values[3] < values[1] < 80  # all background would be 20

    monkeypatch.syspath_prepend(EXAMPLES)
    example = importlib.import_module("segmentation")
    training, test = example.photographs(None)
    assert {part.tobytes() for part in training}.isdisjoint(part.tobytes() for part in test)
    images, truth = example.scenes(training[:1], 20, 0)  # on one photograph: what differs from it is a shape
    assert set(np.unique(truth)) == {0, 1, 2, 3}
    np.testing.assert_array_equal((images != training[0]).any(axis=-1) & (truth == 0), False)
    assert (images != training[0]).any(axis=-1)[truth > 0].mean() > 0.9
