"""The report: which panels there are, what its numbers say, and that the page stands alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from wdfast.viz import Evaluation, draw_report, image_sheet, write_report
from wdfast.viz.report import per_class

HISTORY = {"loss": [2.0, 1.0, 0.1], "val_loss": [2.1, 1.2, 0.4], "penalty": [0.3, 0.2, 0.1],
           "accuracy": [0.3, 0.6, 0.9], "learning_rate": [1e-3, 5e-4, 0.0]}


def evaluation(classes: int = 3, images: bool = True) -> Evaluation:
    labels = np.arange(12) % classes
    probabilities = np.full((12, classes), 0.1 / classes)
    probabilities[np.arange(12), labels] += 0.9
    probabilities[0] = np.roll(probabilities[0], 1)  # one mistake: a 0 that is called 1
    shown = np.zeros((12, 4, 5, 1), np.uint8) if images else None
    return Evaluation(shown, labels, probabilities, [f"class {i}" for i in range(classes)])


def titles(figure: object) -> list[str]:
    return [axes.get_title() for axes in figure.axes]  # type: ignore[attr-defined]


def test_every_panel_is_drawn() -> None:
    figure = draw_report(HISTORY, title="all", evaluation=evaluation(), kernel=np.ones((3, 3, 1, 8)),
                         norms={"a": [1.0, 2.0, 3.0]})
    shown = titles(figure)
    for words in ("data loss", "penalty", "accuracy", "learning rate", "first layer: 8 of 8 filters, 3×3",
                  "‖w‖ of each kernel", "class 1 9"):
        assert any(words in title for title in shown), words
    assert any("91.67%" in title for title in shown)


def test_telemetry_has_panels() -> None:
    history = {"loss": [2.0, 1.0], "weight_norm": [3.0, 2.0], "decay_to_gradient": [0.1, 0.2], "sparsity": [0.1, 0.3],
               "nonfinite": [0.0, 0.0]}
    panels = ["data loss", "‖w‖ of all kernels", "decay / gradient", "share of exact zeros"]
    assert titles(draw_report(history)) == panels
    figure = draw_report(history | {"nonfinite": [0.0, 2.0], "penalty": [0.5, 0.4]})
    assert titles(figure) == ["data loss", "penalty (weight decay)", *panels[1:], "gradients not finite"]
    tops = [round(axes.get_subplotspec().get_topmost_subplotspec().rowspan.start) for axes in figure.axes]
    assert tops == [0, 0, 0, 1, 1, 1]  # two rows: six in one are too narrow


def test_absent_values_leave_no_panel() -> None:
    assert titles(draw_report({"loss": [1.0], "penalty": [0.0]})) == ["data loss"]
    assert len(draw_report({"accuracy": [0.5, 0.6]}, evaluation=evaluation(images=False)).axes) == 2


@pytest.mark.parametrize("shape", [(3, 3, 3, 32), (5, 5, 7, 3), (8, 8, 1, 100), (1, 1, 1, 1)])
def test_filters_of_any_shape(shape: tuple[int, ...]) -> None:
    figure = draw_report({"loss": [1.0]}, kernel=np.random.default_rng(0).normal(size=shape))
    figure.canvas.draw()
    assert np.asarray(figure.canvas.buffer_rgba())[..., :3].std() > 0  # something is drawn


def test_many_classes_and_many_kernels() -> None:
    norms = {f"layer {i}": [1.0, 2.0] for i in range(21)}
    draw_report(HISTORY, evaluation=evaluation(classes=12), norms=norms).canvas.draw()
    labels = np.arange(100)
    wide = Evaluation(None, labels, np.eye(100), [f"class {i}" for i in labels])
    draw_report(HISTORY, evaluation=wide).canvas.draw()
    assert wide.accuracy == 1.0


def test_confusion_and_worst_mistakes() -> None:
    e = evaluation()
    assert e.confusion().tolist() == [[3, 1, 0], [0, 4, 0], [0, 0, 4]]
    assert e.worst().tolist() == [0]
    assert per_class(e)[1:] == [("class 0", "4", "75.0%", "100.0%"), ("class 1", "4", "100.0%", "80.0%"),
                                ("class 2", "4", "100.0%", "100.0%")]


def test_image_sheet_keeps_every_pixel() -> None:
    images = np.arange(5 * 2 * 3 * 3, dtype=np.uint8).reshape(5, 2, 3, 3)
    sheet = image_sheet(images, 3)
    assert sheet.shape == (2 * 3 + 1, 3 * 4 + 1, 3)
    for i, image in enumerate(images):
        top, left = 1 + i // 3 * 3, 1 + i % 3 * 4
        np.testing.assert_allclose(sheet[top : top + 2, left : left + 3], image / 255, atol=1e-7)
        sheet[top : top + 2, left : left + 3] = 1
    assert (sheet == 1).all()  # lines, and where the sixth would be
    bounds = image_sheet(np.array([[[-2.0, -1.0, 0.0, 1.0, 2.0]]]), low=-1, high=1, gap=0)
    np.testing.assert_array_equal(bounds[0, :, 0], [0, 0, 0.5, 1, 1])
    for shape in ((2, 3), (0, 2, 2, 1), (1, 2, 2, 4)):
        with pytest.raises(ValueError, match=r"'images': expected \(N, H, W"):
            image_sheet(np.zeros(shape))
    with pytest.raises(ValueError, match="'columns': expected an int ≥ 1, got 0"):
        image_sheet(images, 0)


def test_page_stands_alone_and_escapes(tmp_path: Path) -> None:
    paths = write_report(tmp_path, HISTORY, title="a <b> & c", tables={"T": [("k", "v"), ("<x>", 1)]},
                         evaluation=evaluation())
    assert [p.name for p in paths] == ["report.png", "report.html"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    page = paths[1].read_text()
    assert "a &lt;b&gt; &amp; c" in page
    assert "&lt;x&gt;" in page
    assert "Per class" in page
    assert "http" not in page
    assert "src=\"data:image/png;base64," in page
