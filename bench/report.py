"""`wdfast bench report`: measures everything (also without a command) and writes one report, HTML and PNG."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import _native
from ..io import atomic_write
from ..viz.report import write_page
from . import ceilings, figures, record
from .record import Row, number, right_peers

COMMANDS = {
    "step": ["--peers", "torch,keras,jax"], "waterfall": [], "small": [], "predict": [], "scaling": [], "fresh": [],
    "epoch": [], "search": [], "ops": ["--groups", "all", "--peers", "torch"],
}
"""What is measured, with which arguments, in this order: the long one last."""

QUICK = {
    "step": ["--repeats", "3", "--seconds", "0.2", "--warmup", "0.3", "--nets", "mlp,cifar,resnet20"],
    "waterfall": ["--repeats", "3", "--seconds", "0.05"], "small": ["--repeats", "3", "--seconds", "0.1"],
    "predict": ["--repeats", "3", "--seconds", "0.1", "--nets", "mlp,cifar,resnet20"],
    "scaling": ["--repeats", "3", "--seconds", "0.2", "--warmup", "0.2", "--batch", "32,128,512"],
    "fresh": ["--repeats", "1"], "epoch": ["--repeats", "1", "--images", "10000"],
    "search": ["--lambdas", "4", "--epochs", "4"],
    "ops": ["--repeats", "3", "--seconds", "0.05", "--groups", "nets"],
}
"""What `--quick` adds: some minutes, figures that wobble."""

_BEGIN, _END = "<!-- wdfast bench: begin -->", "<!-- wdfast bench: end -->"
"""The part of README.md that `--readme` writes."""


def _default_output() -> Path:
    """bench/results in a checkout, runs/bench elsewhere."""
    results = record.RESULTS.resolve()
    return results if (results.parents[1] / "pyproject.toml").is_file() else Path("runs", "bench")


# ---- measuring ------------------------------------------------------------------------------------------


Plan = dict[str, tuple[list[str], dict[str, str]]]
"""Name of the file → (arguments, environment)."""


def plan(commands: Sequence[str], quick: bool, more: dict[str, list[str]], threads: int) -> Plan:
    """What is run; `more` arguments by command come last. Where the machine has more than AVX2, the steps are timed
    with everybody held to AVX2 as well."""
    made: Plan = {}
    for command in commands:
        arguments = [command, *COMMANDS[command], *(QUICK[command] if quick else []), *more.get(command, [])]
        arguments += ["--threads", str(threads)] if threads else []
        made[command] = (arguments, {})
        if command == "step" and _native.active_isa() not in ("avx2", "baseline"):
            made["step-avx2"] = (arguments, {"WDFAST_ISA": "avx2"})
    return made


def measure(output: Path, planned: Plan) -> int:
    """Runs the commands one by one, each in a process of its own; returns the worst of their exit codes."""
    worst = 0
    for name, (arguments, environment) in planned.items():
        arguments = [*arguments, "--json", str(output / f"{name}.json")]
        held = "".join(f"{key}={value} " for key, value in environment.items())
        print(f"$ {held}wdfast bench {shlex.join(arguments)}", flush=True)
        code = subprocess.run([sys.executable, "-m", "wdfast", "bench", *arguments],
                              env={**os.environ, **environment}, check=False).returncode
        worst = max(worst, abs(code))
    return worst


# ---- tables ---------------------------------------------------------------------------------------------

Table = list[Sequence[Any]]


def _versions(kept: figures.Kept) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in kept.values():
        for row in file["rows"]:
            found |= row.get("version") or {}
    return found


def machine_table(kept: figures.Kept) -> Table:
    """Machine, versions and load; where the files disagree, the values of all."""
    rows: Table = [("", "")]
    for key in ("cpu", "cores", "isas", "memory_gib", "system", "python", "numpy", "wdfast", "time", "load"):
        values = dict.fromkeys(str(file["machine"].get(key, "–")) for file in kept.values())
        rows.append((key, "; ".join(values) if key not in ("time", "load") else f"{min(values)} to {max(values)}"))
    return rows + [(name, version) for name, version in _versions(kept).items() if name not in ("wdfast", "numpy")]


def race_table(rows: Sequence[Row], limit: bool) -> Table:
    """Times of steps or of inference: ours, the peers', the ratio, the percent of the limit."""
    peers = [name for name in figures.COLOURS if any(name in row["peers"] for row in rows)]
    table: Table = [("net", "precision", "isa", "threads", "wdfast ms", *(f"{p} ms" for p in peers), "ratio",
                     *(["% of limit", "update error"] if limit else ["output error"]), "load")]
    for row in rows:
        error = row.get("update_error" if limit else "error", {}).get("wdfast")
        share = [number(100 * row["limit_ms"] / row["ms"]) if row["ms"] else "–"] if limit else []
        cells = [number(row["peers"].get(p)) + " WRONG" * (p in row["wrong"]) for p in peers]
        load = row.get("load_before", row.get("load"))
        table.append((f"{row['net']} b{row['batch']}", row["precision"], row["isa"], row["threads"], number(row["ms"]),
                      *cells, number(row["ratio"]), *share, "–" if error is None else f"{error:.0e}", number(load)))
    return table


def ops_table(rows: Sequence[Row]) -> Table:
    """Every op and pass; slower than torch first."""
    table: Table = [("op", "pass", "isa", "GFLOP", "MB", "ms", "GFLOP/s", "GB/s", "% of roof", "roof", "torch ms",
                     "ratio", "")]
    for row in sorted(rows, key=lambda row: not row["below_torch"]):
        shape = "×".join(map(str, row["shape"]))
        table.append((f"{row['net']} b{row['batch']} {row['op']} on {shape}", row["pass"], row["isa"],
                      number(row["flop"] / 1e9), number(row["bytes"] / 1e6), number(row["ms"]),
                      number(row["gflops"]), number(row["gbs"]),
                      number(100 * row["roof_ms"] / row["ms"]) if row["ms"] else "–", row["roof"],
                      number(row["peers"].get("torch")), number(row["ratio"]),
                      "below torch" if row["below_torch"] else row["status"] * (row["status"] != "ok")))
    return table


def waterfall_table(rows: Sequence[Row]) -> Table:
    """Milliseconds of each part; the last column is the wall time, and their sum."""
    parts = [part for part in figures.ORDER if any(sum(row["parts_ms"][part].values()) for row in rows)]
    return [("net", *parts, "wall time ms"),
            *((f"{row['net']} b{row['batch']} {row['precision']}",
               *(number(sum(row["parts_ms"][part].values())) for part in parts), number(row["ms"])) for row in rows)]


def scaling_table(rows: Sequence[Row]) -> Table:
    """Steps on more threads and of larger batches."""
    return [("net", "threads", "ms", "µs an image", "speed-up", "ratio", "same bits"),
            *((f"{row['net']} b{row['batch']}", row["threads"], number(row["ms"]),
               number(row["us_per_image"].get("wdfast")), number(row["speedup"]), number(row["ratio"]),
               "yes" if row["same_bits"] else "NO") for row in rows)]


def once_table(kept: figures.Kept) -> Table:
    """Small work, first steps, memory, epochs, and steps without work."""
    table: Table = [("what", "wdfast", "peers", "unit", "ratio")]
    for label, row, unit in figures.rows_once(kept):
        peers = ", ".join(f"{name} {number(value)}" for name, value in row["peers"].items())
        table.append((label, number(row[unit]), peers, unit.replace("mb", "MB"), number(row["ratio"])))
    for row in kept.get("small", {"rows": []})["rows"]:
        if "net" not in row:
            table.append((row["what"], number(row["us"]), "–", "µs", "–"))
    return table


def tables(kept: figures.Kept) -> dict[str, str | Table]:
    """The tables of the page, by caption."""
    shown: dict[str, str | Table] = {"Machine": machine_table(kept)}
    limits = [file["limits"] for name in ("step", "ops", "small") if (file := kept.get(name)) and "limits" in file]
    if limits:
        shown["Ceilings"] = ceilings.text(limits[0])
    if steps := figures.steps(kept):
        shown["Training steps"] = race_table(steps, limit=True)
    for name, caption, make in (("predict", "Inference", lambda rows: race_table(rows, limit=False)),
                                ("waterfall", "Where a step's time goes, ms", waterfall_table),
                                ("scaling", "Scaling", scaling_table)):
        if name in kept:
            shown[caption] = make(kept[name]["rows"])
    if figures.rows_once(kept):
        shown["Small work, first step, memory, epoch, search"] = once_table(kept)
    if "ops" in kept:
        shown["Ops"] = ops_table(kept["ops"]["rows"])
    shown["Raw rows, beside this page"] = "\n".join(f"{name}.json" for name in kept)
    return shown


def _run(file: dict[str, Any]) -> str:
    """Where and when a file's rows were measured."""
    machine, row = file["machine"], file["rows"][0]
    when = f", {str(machine['time'])[:10]}" if machine.get("time") else ""
    return f"{row['isa']}: {row['threads']} threads of {machine.get('cpu', 'an unknown machine')}{when}"


def readme_part(kept: figures.Kept) -> str:
    """The table of step ratios in Markdown."""
    rows = figures.steps(kept)
    peers = [name for name in figures.COLOURS if any(name in right_peers(row) for row in rows)]
    versions = _versions({"step": kept["step"]})
    heads = [f"{name} {versions.get(name, '')}".rstrip() for name in peers]
    lines = [f"| net, batch | precision, ISA | wdfast | {' | '.join(heads)} | ratio | of the limit |",
             "|---" * (len(peers) + 5) + "|"]
    for row in rows:
        if row["ms"]:
            cells = [f"{number(right_peers(row)[p])} ms" if p in right_peers(row) else "–" for p in peers]
            ratio = f"**{row['ratio']:.2f}**" if row["ratio"] else "–"
            share = f"{100 * row['limit_ms'] / row['ms']:.0f} %"
            lines.append(f"| `{row['net']}` b{row['batch']} | {row['precision']}, {row['isa']} | "
                         f"**{number(row['ms'])} ms** | {' | '.join(cells)} | {ratio} | {share} |")
    runs = [file for file in kept.values() if file["command"] == "step" and file["rows"]]
    about = "; ".join(dict.fromkeys(_run(file) for file in runs))
    return "\n".join([*lines, "", f"{about}; written by `wdfast bench report --readme README.md`."])


def write_readme(path: Path, part: str) -> None:
    """Replaces what is between the two marks. Raises ValueError if they are not there."""
    text = path.read_text()
    pattern = re.compile(f"({re.escape(_BEGIN)}\n).*?({re.escape(_END)})", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{path}: expected the marks {_BEGIN} and {_END}")
    with atomic_write(path, "w") as file:
        file.write(pattern.sub(lambda found: f"{found[1]}{part}\n{found[2]}", text))


# ---- the command ----------------------------------------------------------------------------------------


def write(output: Path, kept: figures.Kept) -> list[Path]:
    """Writes report.html, report.png and ratios.png; returns their paths."""
    machines = [file["machine"] for file in kept.values()]
    where = " and ".join(sorted({m.get("cpu", "an unknown machine") for m in machines}))
    times = sorted(str(m["time"])[:10] for m in machines if m.get("time"))
    when = ", " + " to ".join(dict.fromkeys([times[0], times[-1]])) if times else ""
    title = f"wdfast {machines[0].get('wdfast', '')} on {where}{when}"
    paths = write_page(output, figures.draw(kept, title), title="wdfast bench", tables=tables(kept),
                       alt="ratios, roofline, waterfalls, scaling")
    if figures.steps(kept):
        paths.append(output / "ratios.png")
        with atomic_write(paths[-1]) as file:
            figures.draw_ratios(kept).savefig(file, format="png")
    return paths


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, default=_default_output(), metavar="DIR",
                        help="folder of the report and of the raw JSON (bench/results in a checkout)")
    parser.add_argument("--only", default=",".join(COMMANDS), help=f"measure these alone, of {','.join(COMMANDS)}; "
                        "what else DIR holds is drawn as it is")
    parser.add_argument("--from", dest="source", nargs="+", type=Path, metavar="FILE",
                        help="draw these kept files, named after their commands, and measure nothing")
    parser.add_argument("--quick", action="store_true", help="some minutes instead of most of an hour")
    parser.add_argument("--precision", default="highest",
                        help="of the steps: highest, high or medium, or several (highest)")
    parser.add_argument("--compile", action="store_true", help="torch.compile is tried as well (takes minutes)")
    parser.add_argument("--threads", type=int, default=0, help="for every contestant (default: all usable cores)")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="write the table of step ratios into this file")


def main(args: argparse.Namespace) -> int:
    commands = record.chosen(args.only, COMMANDS, "only")
    if args.threads < 0:
        raise ValueError("--threads must be at least 0")
    args.output.mkdir(parents=True, exist_ok=True)
    more = {"step": ["--precision", args.precision, *["--compile"] * args.compile],
            "waterfall": ["--precision", args.precision]}
    code = 0 if args.source else measure(args.output, plan(commands, args.quick, more, args.threads))
    known = {*COMMANDS, "step-avx2"}
    files = args.source or sorted(args.output.glob("*.json"))
    for path in files:
        if path.stem not in known:
            print(f"left out  {path}: not named after {', '.join(sorted(known))}")
    kept = {path.stem: file for path in files if path.stem in known and (file := record.read(path))["rows"]}
    if not kept:
        raise ValueError(f"no rows to draw in {', '.join(map(str, files)) or args.output}")
    if args.readme:
        if "step" not in kept:
            raise ValueError("--readme: needs the rows of `step`")
        write_readme(args.readme, readme_part(kept))
    for path in write(args.output, kept):
        print(f"written   {path}")
    return code
