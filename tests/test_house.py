"""The rules of the house that a program can check: names agree, symbols stay apart, all is documented."""

from __future__ import annotations

import importlib.util
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import wdfast
from wdfast import ops

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ROOT / "cpp" / "kernels"
PACKAGE = ROOT / "python" / "wdfast"

pytestmark = pytest.mark.skipif(not KERNELS.is_dir(), reason="needs a checkout")


def public_modules() -> list[str]:
    """Every module that a user may import; `wdfast.bench` is a program of its own."""
    names = ["wdfast"]
    for info in pkgutil.walk_packages(wdfast.__path__, "wdfast."):
        parts = info.name.split(".")
        # `wdfast.bench` lies in bench/, so an editable install also finds what lies beside it: dev.py.
        beside = getattr(info.module_finder, "path", None) == str(ROOT)
        if parts[1] in ("torch", "sklearn") and importlib.util.find_spec(parts[1]) is None:
            continue  # they are for those who have PyTorch, scikit-learn
        if not beside and not any(part.startswith("_") for part in parts) and parts[1] != "bench":
            names.append(info.name)
    return names


# ---- registry -------------------------------------------------------------------------------------------


def registered_in(source: Path) -> set[str]:
    return set(re.findall(r'\.name = "(\w+)"', source.read_text()))


def own_ops() -> set[str]:
    """The ops of this checkout, without those that other tests load from libraries."""
    return set().union(*(registered_in(source) for source in KERNELS.glob("*.cpp")))


def test_every_registered_op_has_a_reference_and_cases() -> None:
    native, known = own_ops(), set(ops.registry())
    assert native <= known, "compiled from other sources: rebuild"
    assert native - set(ops.REFERENCES) == set(), "no NumPy reference"
    assert native - {case.op for case in ops.CASES} == set(), "no CASES"


def test_references_and_cases_name_registered_ops() -> None:
    native = own_ops()
    assert set(ops.REFERENCES) - native == set(), "a reference without a kernel"
    assert {case.op for case in ops.CASES} - native == set(), "a case without a kernel"


def test_kernels_and_python_files_share_one_stem() -> None:
    kernels = {p.stem for p in KERNELS.glob("*.cpp")}
    python = {p.stem for p in (PACKAGE / "ops").glob("*.py") if not p.stem.startswith("_")}
    assert kernels - python == set(), "a kernel without its Python file"


def test_each_kernel_file_documents_and_declares_its_ops() -> None:
    for source in sorted(KERNELS.glob("*.cpp")):
        module = importlib.import_module(f"wdfast.ops.{source.stem}")
        module = sys.modules[module.__name__]
        assert registered_in(source) == set(module.REFERENCES), source.name
        assert module.__all__, source.name
        for name in module.__all__:
            assert callable(getattr(ops, name))


# ---- kernels compiled once per instruction set ----------------------------------------------------------


def kernel_objects() -> list[Path]:
    """The objects of the newest build in this checkout that are compiled once per instruction set."""
    builds: dict[str, list[Path]] = {}
    for folder, _, names in os.walk(ROOT / "build"):
        build, inside, source = folder.partition("/CMakeFiles/_native_")
        for name in names if inside else []:
            if (ROOT / source.partition(".dir/")[2] / name.removesuffix(".o")).is_file():
                builds.setdefault(build, []).append(Path(folder, name))
    return max(builds.values(), key=lambda objects: max(p.stat().st_mtime for p in objects), default=[])


def test_kernel_objects_share_no_inline_symbol() -> None:
    """A weak symbol in them would be merged by the linker, perhaps to the AVX-512 copy for every machine."""
    nm, objects = shutil.which("nm"), kernel_objects()
    if nm is None or not objects:
        pytest.skip("needs binutils' nm and a build folder in the checkout")
    command = [nm, "-C", "--print-file-name", *objects]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    shared = [line for line in listing if re.search(r"[:\s][0-9a-f]* [WVuwv] ", line)]
    assert shared == []


# ---- documentation, stub, size --------------------------------------------------------------------------


def test_public_symbols_are_documented() -> None:
    bare = []
    for name in public_modules():
        importlib.import_module(name)
        module = sys.modules[name]
        if not module.__doc__:
            bare.append(name)
        public = getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")])
        for symbol in public:
            value = getattr(module, symbol)
            is_class = inspect.isclass(value)
            if (is_class or inspect.isfunction(value)) and str(value.__module__).startswith("wdfast"):
                text = vars(value).get("__doc__") if is_class else value.__doc__
                if not text or (is_class and text.startswith(f"{symbol}(")):  # as a NamedTuple writes it
                    bare.append(f"{name}.{symbol}")
    assert bare == []


def test_stub_is_that_of_the_compiled_module(tmp_path: Path) -> None:
    pytest.importorskip("pybind11_stubgen")
    command = [sys.executable, "-m", "pybind11_stubgen", "wdfast._native", "--output-dir", tmp_path]
    subprocess.run(command, capture_output=True, check=True)
    fresh = (tmp_path / "wdfast" / "_native.pyi").read_text()
    assert (PACKAGE / "_native.pyi").read_text() == fresh, "run `python3 dev.py stub`"


def test_no_file_is_long() -> None:
    """600 lines: what one can still read in one sitting; an example 120, at a glance."""
    files = [p for top in ("cpp", "python", "bench", "tests", "examples") for p in (ROOT / top).rglob("*")
             if p.suffix in {".py", ".cpp", ".h", ".cu", ".cuh"}] + [ROOT / "dev.py"]
    most = {p: 120 if p.parent.name == "examples" else 600 for p in files}
    assert [p.name for p in files if len(p.read_text().splitlines()) > most[p]] == []
