"""dev.py: what it says is missing, what it takes as changed, how it fails. Nothing is built here."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(not (ROOT / "dev.py").is_file(), reason="needs a checkout")


@pytest.fixture
def dev() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_help_names_every_command(dev: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert dev.main([]) == 0
    out = capsys.readouterr().out
    assert all(f"dev.py {name}" in out for name in dev.COMMANDS)


def test_unknown_command(dev: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert dev.main(["biuld"]) == 2
    assert "biuld" in capsys.readouterr().err


def test_imports_only_the_standard_library() -> None:
    code = ("import sys; before = set(sys.modules); sys.path.insert(0, '.'); import dev; "
            "print(*{m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names))")
    result = subprocess.run([sys.executable, "-IB", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["dev"]


def test_a_missing_compiler_is_named_with_its_package(dev: ModuleType, monkeypatch: pytest.MonkeyPatch,
                                                      tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(dev.Failed, match=r"no C\+\+ compiler(.|\n)*sudo apt-get install g\+\+"):
        dev.check_machine(need_venv=False)


def test_missing_headers_and_venv_are_named_with_their_packages(dev: ModuleType, monkeypatch: pytest.MonkeyPatch,
                                                                tmp_path: Path) -> None:
    monkeypatch.setattr(dev.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    monkeypatch.setattr(dev, "compiler", lambda: "c++")
    monkeypatch.setattr(dev, "speaks_cpp20", lambda path: True)
    monkeypatch.setattr(dev.shutil, "which", lambda name: None)
    with pytest.raises(dev.Failed, match="sudo apt-get install python3-dev python3-venv"):
        dev.check_machine(need_venv=True)


def test_an_old_compiler_is_told_apart(dev: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "c++"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    monkeypatch.setenv("CXX", str(old))
    assert any("does not compile C++20" in what for what, _ in dev.missing(need_venv=False))


def test_fingerprint_follows_sources(dev: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpp").mkdir()
    for name in ("pyproject.toml", "CMakeLists.txt", "cpp/a.cpp"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr(dev, "ROOT", tmp_path)
    first = dev.fingerprint()
    assert dev.fingerprint() == first
    (tmp_path / "cpp/b.cpp").write_text("")
    second = dev.fingerprint()
    assert second["sources"] != first["sources"]
    assert second["project"] == first["project"]
    (tmp_path / "cpp/README.md").write_text("")  # words need no build
    assert dev.fingerprint() == second
    (tmp_path / "pyproject.toml").write_text("[project]")
    assert dev.fingerprint()["project"] != first["project"]


def test_a_failing_step_shows_its_output(dev: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    dev.step("good", [sys.executable, "-c", "print('unseen')"])
    assert "unseen" not in capsys.readouterr().out
    with pytest.raises(dev.Failed, match="exit code 3"):
        dev.step("bad", [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"])
    assert "the reason" in capsys.readouterr().out


def test_of_a_failed_compilation_only_the_compilers_words_are_shown(dev: ModuleType,
                                                                    capsys: pytest.CaptureFixture[str]) -> None:
    text = "Requirement already satisfied\n  FAILED: a.o\n  a.cpp:1: error: no\n  ninja: build stopped.\nnoise"
    with pytest.raises(dev.Failed):
        dev.step("bad", [sys.executable, "-c", f"print({text!r}); raise SystemExit(1)"])
    out = capsys.readouterr().out
    assert "error: no" in out
    assert "Requirement" not in out
    assert "noise" not in out


def test_requirements_come_from_pyproject(dev: ModuleType) -> None:
    names = {re.split("[<>=]", requirement)[0] for requirement in dev.requirements()}
    assert {"scikit-build-core", "pybind11", "numpy", "safetensors", "pytest", "ruff", "cmake", "ninja"} <= names
    assert "torch" not in names
    assert any(requirement.startswith("sphinx") for requirement in dev.requirements(["docs"]))
