"""`wdfast search`: what it prints and writes, its options, going on, wrong input."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wdfast
from wdfast import cli, decay, models, search
from wdfast.cli import prepare

SMALL = ["digits", "--net", "mlp", "--limit", "200", "--epochs", "2", "--folds", "2", "--no-report"]


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    code = cli.main(["search", *(str(a) for a in argv)])
    out, err = capsys.readouterr()
    return code, out, err


def results(folder: Path) -> Any:
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "search"
    assert cli.main(["search", *SMALL, "--values", "none,1,30", "--quiet", "--output", str(folder)]) == 0
    return folder


# ---- results --------------------------------------------------------------------------------------------


def test_files(searched: Path) -> None:
    assert sorted(p.name for p in searched.iterdir() if p.is_file()) == [
        "history.csv", "model.safetensors", "results.csv", "results.json", "search.json", "settings.json"]
    with open(searched / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["decay"] for row in rows[::2]] == ["none()", "epochs(30.0)", "epochs(1.0)"]
    assert len(rows) == 3 * 2


def test_it_prints_the_table_the_choice_and_why(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, *SMALL, "--values", "none,1,30", "--output", searched)
    assert code == 0
    chosen = results(searched)["one_se"]["text"]
    for words in ("Decay", "epochs(30.0)", "one-standard-error choice", f"training  {chosen} on all 200", "p = ",
                  "result    test accuracy", "results.csv"):
        assert words in out


def test_it_is_the_search_of_the_library(searched: Path) -> None:
    """The same cells as `search.decay` with the network, optimizer and data that `wdfast train` would use."""
    from wdfast.cli.prepare import Build

    digits = wdfast.data.load("digits")
    kept = np.sort(np.random.default_rng(0).permutation(len(digits.x_train))[:200])
    digits.x_train, digits.y_train = digits.x_train[kept], digits.y_train[kept]
    args = cli.make_parser().parse_args(["search", *SMALL])
    args.batch_size, args.learning_rate = 32, 0.002
    result = search.decay(Build.of(args, digits, 100), digits.x_train, digits.y_train,
                          [decay.none(), decay.epochs(1), decay.epochs(30)], folds=2, epochs=2, verbose=0)
    for row, own in zip(result.rows, results(searched)["rows"], strict=True):
        assert row.scores.tolist() == own["scores"]


def test_the_model_is_trained_with_the_choice_on_all_images(searched: Path, tmp_path: Path) -> None:
    settings = json.loads((searched / "settings.json").read_text())
    chosen = results(searched)["one_se"]["text"]
    assert settings["options"]["decay"] == chosen
    assert settings["training_images"] == 200
    digits = wdfast.data.load("digits")
    model = models.load(searched / "model.safetensors")
    accuracy = np.mean(model.predict(digits.x_test).argmax(axis=1) == digits.y_test)
    assert accuracy == settings["result"]["test_accuracy"]
    # The same weights as those of `wdfast train` with that decay.
    as_option = chosen.removesuffix(")").replace("(", ":").removesuffix(":")
    assert cli.main(["train", *SMALL[:7], "--no-report", "--quiet", "--decay", as_option,
                     "--output", str(tmp_path)]) == 0
    for mine, trained in zip(model.get_weights(), models.load(tmp_path / "model.safetensors").get_weights(),
                             strict=True):
        assert np.array_equal(mine, trained)


def test_the_model_predicts_with_its_class_names(searched: Path, tmp_path: Path,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(wdfast.data.load("digits").x_test[0][..., 0]).save(tmp_path / "a.png")
    assert cli.main(["predict", str(searched), str(tmp_path / "a.png"), "--json"]) == 0
    assert {c["name"] for c in json.loads(capsys.readouterr().out)[0]["classes"]} <= set("0123456789")


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    code, out, _ = run(capsys, *SMALL[:-1], "--values", "none,1", "--no-refit", "--output", tmp_path / "out")
    assert code == 0
    assert "report.html, report.png" in out
    page = (tmp_path / "out" / "report.html").read_text()
    for words in ("wdfast search", "epochs(1.0)", "one-standard-error choice", "All candidates", "Settings", "digits"):
        assert words in page
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(("options", "decays"), [
    (["--count", "2"], ["none()", "epochs(2.0)", "epochs(1.0)"]),
    (["--unit", "decoupled", "--low", "0.01", "--high", "1", "--count", "2"],
     ["none()", "decoupled(0.01)", "decoupled(1.0)"]),
    (["--unit", "l2", "--values", "1e-3,decoupled:0.1", "--optimizer", "momentum", "--validation-split", "0.3"],
     ["l2(0.001)", "decoupled(0.1)"]),
    (["--method", "random", "--count", "2", "--low", "1", "--high", "20", "--seed", "3"],
     ["none()", *sorted(map(repr, search.random(decay.epochs, 1, 20, 2, seed=3)), key=lambda t: -float(t[7:-1]))]),
    (["--method", "halving", "--epochs", "4", "--count", "3"], ["none()", "epochs(4.0)", "epochs(2.0)", "epochs(1.0)"]),
])
def test_what_is_searched(tmp_path: Path, options: list[str], decays: list[str]) -> None:
    assert cli.main(["search", *SMALL, "--no-refit", "--quiet", *options, "--output", str(tmp_path / "out")]) == 0
    assert [row["candidate"]["text"] for row in results(tmp_path / "out")["rows"]] == decays


def test_the_gradient_finds_a_decay(tmp_path: Path) -> None:
    assert cli.main(["search", *SMALL, "--method", "gradient", "--no-refit", "--quiet", "--output",
                     str(tmp_path / "out")]) == 0
    none, found = results(tmp_path / "out")["rows"]
    assert none["candidate"]["text"] == "none()"
    assert found["candidate"]["text"].startswith("decoupled(")


def test_bounded_norms_beside_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, *SMALL, "--method", "constrained", "--epochs", "5", "--learning-rates", "0.001,0.01",
                       "--output", tmp_path / "out")
    assert code == 0
    assert "constrained: 1 decay and bounded norms" in out
    rows = {(row["candidate"]["text"], row["candidate"]["learning_rate"]) for row in results(tmp_path / "out")["rows"]}
    bound = repr(decay.constrained(warm_start=2))  # a tenth of 4 steps times 5 epochs
    assert rows == {(text, rate) for text in ("none()", bound) for rate in (0.001, 0.01)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_processes_come_to_the_same(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = search.decay
    seen = []
    monkeypatch.setattr(search, "decay", lambda *args, **settings: (seen.append(settings["workers"]),
                                                                    called(*args, **settings))[1])
    assert cli.main(["search", *SMALL, "--values", "none,1,30", "--workers", "processes", "--jobs", "2", "--no-refit",
                     "--quiet", "--output", str(tmp_path / "out")]) == 0
    assert seen == ["processes"]
    for row, own in zip(results(searched)["rows"], results(tmp_path / "out")["rows"], strict=True):
        assert row["scores"] == own["scores"]


def test_optuna_asks_for_trials(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    assert cli.main(["search", *SMALL, "--method", "optuna", "--count", "3", "--no-refit", "--quiet", "--output",
                     str(tmp_path / "out")]) == 0
    assert len(results(tmp_path / "out")["rows"]) == 1 + 3


def test_learning_rates_seeds_and_repeats_multiply(tmp_path: Path) -> None:
    assert cli.main(["search", *SMALL, "--values", "none,1", "--learning-rates", "0.001,0.01", "--seeds", "2",
                     "--repeats", "2", "--choose", "best", "--quiet", "--output", str(tmp_path / "out")]) == 0
    found = results(tmp_path / "out")
    assert [row["candidate"]["learning_rate"] for row in found["rows"]] == [0.001, 0.001, 0.01, 0.01]
    assert {len(row["scores"]) for row in found["rows"]} == {2 * 2 * 2}
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["options"]["decay"] == found["best"]["text"]
    assert settings["options"]["learning_rate"] == found["best"]["learning_rate"]


# ---- going on -------------------------------------------------------------------------------------------


def test_a_finished_search_is_read_and_more_decays_are_added(searched: Path) -> None:
    cells = {path.name: path.stat().st_mtime_ns for path in (searched / "cells").iterdir()}
    before = results(searched)
    assert cli.main(["search", *SMALL, "--values", "none,1,7,30", "--quiet", "--no-refit", "--output",
                     str(searched)]) == 0
    after = {path.name: path.stat().st_mtime_ns for path in (searched / "cells").iterdir()}
    assert len(after) == len(cells) + 2
    assert cells.items() <= after.items()
    rows = {row["candidate"]["text"]: row["scores"] for row in results(searched)["rows"]}
    assert all(rows[row["candidate"]["text"]] == row["scores"] for row in before["rows"])


@pytest.mark.parametrize("other", [["--limit", "100"], ["--learning-rate", "0.01"], ["--net", "digits"],
                                   ["--optimizer", "sgd"], ["--folds", "3"]])
def test_another_search_in_the_folder_is_refused(searched: Path, capsys: pytest.CaptureFixture[str],
                                                 other: list[str]) -> None:
    code, _, err = run(capsys, *SMALL, *other, "--values", "none,1,30", "--quiet", "--output", searched)
    assert code == 2
    assert err.count("\n") == 1
    assert "holds another search" in err


def test_interrupted_it_says_how_to_go_on(tmp_path: Path) -> None:
    argv = ["search", *SMALL, "--epochs", "4", "--values", "none,1,2,3,5,8", "--jobs", "1"]
    command = [sys.executable, "-m", "wdfast", *argv, "--output", str(tmp_path / "cut")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) as process:
        deadline = time.monotonic() + 120
        while not any((tmp_path / "cut" / "cells").glob("*.json")):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    if process.returncode == 0:
        pytest.skip("the search ended before the interruption")
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert err.splitlines()[-1].strip().startswith("wdfast search digits")
    for name in ("cut", "whole"):
        assert cli.main([*argv, "--quiet", "--output", str(tmp_path / name)]) == 0
    cut, whole = ([row["scores"] for row in results(tmp_path / name)["rows"]] for name in ("cut", "whole"))
    assert cut == whole
    assert not list((tmp_path / "cut").glob("refit*"))


def test_interrupted_after_the_search_the_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["search", *SMALL, "--epochs", "4", "--values", "none,1", "--quiet", "--output"]
    assert cli.main([*argv, str(tmp_path / "whole")]) == 0
    make = prepare.make_recorder

    def pressed(path: Path, **options: Any) -> Any:
        recorder = make(path, **options)
        write = recorder.write

        def write_and_press() -> None:
            write()
            if len(recorder.rows) == 2:
                os.kill(os.getpid(), signal.SIGINT)

        recorder.write = write_and_press
        return recorder

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "make_recorder", pressed)
        assert cli.main([*argv, str(tmp_path / "cut")]) == 130
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    assert cli.main([*argv, str(tmp_path / "cut")]) == 0
    whole, cut = (models.load(tmp_path / name / "model.safetensors").get_weights() for name in ("whole", "cut"))
    assert all(np.array_equal(a, b) for a, b in zip(whole, cut, strict=True))
    with open(tmp_path / "cut" / "history.csv", newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3", "4"]
    assert not list((tmp_path / "cut").glob("refit*"))


# ---- wrong input ----------------------------------------------------------------------------------------


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 110
    for words in ("--method", "--values", "--learning-rates", "--net", "--augment", "--workers", "--dask",
                  "constrained", "wdfast search digits"):
        assert words in out


@pytest.mark.parametrize(("options", "words"), [
    (["--method", "magic"], ["--method", "magic"]),
    (["--values", "none,heavy"], ["--values", "heavy"]),
    (["--values", "0"], ["--values", "epochs"]),
    (["--values", "1", "--method", "random"], ["--values", "random"]),
    (["--unit", "decoupled"], ["--low", "--high", "decoupled"]),
    (["--low", "5", "--high", "2"], ["--low", "--high"]),
    (["--learning-rates", "0.1,-1"], ["--learning-rates", "-1"]),
    (["--folds", "1"], ["folds"]),
    (["--folds", "500"], ["folds", "500"]),
    (["--validation-split", "1"], ["--validation-split"]),
    (["--metric", "beauty"], ["metric", "beauty"]),
    (["--jobs", "0"], ["--jobs"]),
    (["--workers", "fibres"], ["--workers", "fibres"]),
    (["--nonsense"], ["--nonsense"]),
])
def test_wrong_options_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str],
                                    words: list[str]) -> None:
    code, _, err = run(capsys, *SMALL, *options, "--quiet", "--output", tmp_path / "out")
    assert code == 2
    assert err.count("\n") == 1, err
    assert all(word in err for word in words), err
    assert not (tmp_path / "out" / "results.json").exists()


def test_the_folder_of_a_training_is_left_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"command": "train"}')
    code, _, err = run(capsys, *SMALL, "--output", tmp_path)
    assert code == 2
    assert "wdfast train" in err
    assert [p.name for p in tmp_path.iterdir()] == ["settings.json"]


def test_on_a_cluster_scores_are_the_same(searched: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=False, protocol="tcp://",
                                  dashboard_address="127.0.0.1:0") as cluster:
        assert cli.main(["search", *SMALL, "--values", "none,1,30", "--no-refit", "--quiet", "--dask",
                         cluster.scheduler_address, "--output", str(tmp_path / "out")]) == 0
    known = {row["candidate"]["text"]: row["scores"] for row in results(searched)["rows"]}
    assert all(known[row["candidate"]["text"]] == row["scores"] for row in results(tmp_path / "out")["rows"])


def test_a_scheduler_that_does_not_answer_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("wdfast.search.distributed._CONNECT", 0.5)
    code, _, err = run(capsys, *SMALL, "--dask", "tcp://127.0.0.1:9", "--quiet", "--output", tmp_path / "out")
    assert code == 2
    assert "tcp://127.0.0.1:9" in err
    assert "Traceback" not in err
