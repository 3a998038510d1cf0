"""The command `wdfast search`: the decay is chosen by training with many, then the network is trained with it."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import options
from .options import UsageError
from .prepare import Build, augmentation, check_output, chosen_decay, load_data, say, settings_of, train_and_save

METHODS = ("grid", "random", "halving", "gradient", "constrained", "optuna")

_EXAMPLES = """\
examples:
  wdfast search digits
  wdfast search digits --values none,1,3,10,30 --repeats 3
  wdfast search ~/data/cifar10 --limit 10000 --epochs 10 --method halving --validation-split 0.2 --seeds 3
  wdfast search photos/ --unit decoupled --low 1e-4 --high 1 --learning-rates 0.001,0.002,0.004

Every decay meets the same weights, order and folds, so that differences are paired. The output folder gets
results.csv, results.json, report.png, report.html, and model.safetensors, history.csv, settings.json of the
network that is trained with the choice on all training images. A search that was interrupted goes on when it
is called again; no training is run twice.
"""


def _values(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        options.decay(part)  # raises what argparse shows
    return parts


def _rates(text: str) -> list[float]:
    return [options.positive(part.strip()) for part in text.split(",")]


def add(commands: Any) -> None:
    """The parser of the command."""
    parser = commands.add_parser("search", formatter_class=options.Help, help="find the weight decay",
                                 description="Finds the weight decay for a network and its images, and trains with "
                                             "it.\n\n" + options.DATA_HELP, epilog=_EXAMPLES)
    options.add_data(parser)
    parser.add_argument("--output", metavar="DIR", type=Path, help="folder of the results (runs/DATA-search)")
    parser.add_argument("--refit", action=argparse.BooleanOptionalAction, default=True,
                        help="train with the choice on all training images (on)")
    parser.add_argument("--choose", choices=("one-se", "best"), default="one-se",
                        help="the strongest decay that is worse than the best by no more than a standard error of the "
                             "difference, or the best (one-se)")
    parser.add_argument("--no-report", dest="report", action="store_false", help="no report.png, report.html")
    parser.add_argument("--quiet", action="store_true", help="print errors only")

    group = parser.add_argument_group("search")
    group.add_argument("--method", choices=METHODS, default="grid",
                       help="grid: all, evenly spaced; random: all, drawn; halving: the better half goes on after a "
                            "quarter and a half of the epochs; gradient: λ follows the held-out loss; constrained: "
                            "each weight's norm is bounded, nothing is searched; optuna (grid)")
    group.add_argument("--values", type=_values, metavar="DECAY,…",
                       help="these decays, as train's --decay has them; a bare number takes --unit")
    group.add_argument("--unit", choices=options.UNITS, default="epochs", metavar="UNIT",
                       help=f"of --low, --high, --values: {', '.join(options.UNITS)} (epochs)")
    group.add_argument("--low", type=options.positive, metavar="V", help="(1 epoch; of other units needed)")
    group.add_argument("--high", type=options.positive, metavar="V", help="(the run's epochs; of other units needed)")
    group.add_argument("--count", type=options.positive_int, default=8, metavar="N",
                       help="decays from --low to --high, none beside them (8); of optuna, trials")
    group.add_argument("--learning-rates", type=_rates, metavar="ETA,…", help="search these too, each with each decay")
    group.add_argument("--folds", type=options.positive_int, default=5, metavar="K",
                       help="parts, each held out once; stratified (5)")
    group.add_argument("--repeats", type=options.positive_int, default=1, metavar="N",
                       help="of the folds, shuffled anew (1)")
    group.add_argument("--validation-split", type=options.fraction, metavar="F",
                       help="hold out this part of the training images once, instead of folds")
    group.add_argument("--seeds", type=options.positive_int, default=1, metavar="N",
                       help="trainings with --seed, --seed + 1, … for each decay and fold (1)")
    group.add_argument("--metric", metavar="NAME", help="what is compared (val_accuracy), such as val_loss")
    group.add_argument("--jobs", type=options.positive_int, metavar="N", help="trainings at a time (all cores)")
    group.add_argument("--workers", choices=("threads", "processes"), default="threads",
                       help="what trains; processes are faster where a step takes less than about 0.1 ms (threads)")
    group.add_argument("--dask", metavar="ADDRESS", help="train on the workers of a Dask scheduler, tcp://HOST:PORT")
    options.add_training_group(parser)
    options.add_data_group(parser)


# ---- what is searched -----------------------------------------------------------------------------------


def _range(args: argparse.Namespace) -> tuple[Callable[[float], Any], float, float]:
    """The unit and the ends of the range."""
    from .. import decay

    low, high = args.low, args.high
    if args.unit == "epochs":
        low, high = low or 1.0, high or max(float(args.epochs), 2.0)
    if low is None or high is None:
        raise UsageError(f"--low and --high are needed for --unit {args.unit}: only of epochs it is known where the "
                         "best decay lies")
    if low > high:
        raise UsageError(f"--low: expected at most --high, got {low:g} and {high:g}")
    return getattr(decay, args.unit), low, high


def _plan(args: argparse.Namespace) -> tuple[list[Any], Any]:
    """The decays to measure, and the method."""
    from .. import decay, search

    if args.values is not None and args.method in ("random", "optuna"):
        raise UsageError(f"--values: not with --method {args.method}, which draws its own")
    if args.values is not None:
        full = [text if text == "none" or ":" in text else f"{args.unit}:{text}" for text in args.values]
        try:
            values = [chosen_decay(options.decay(text)) for text in full]
        except argparse.ArgumentTypeError as error:
            raise UsageError(f"--values: {error}") from None
    elif args.method in ("gradient", "constrained", "optuna"):
        values = [decay.none()]
    elif args.method == "random":
        values = [decay.none(), *search.random(*_range(args), args.count, seed=args.seed)]
    else:
        values = [decay.none(), *search.grid(*_range(args), args.count)]
    if args.method == "optuna":
        return values, search.Optuna(*_range(args), trials=args.count)
    methods = {"halving": search.Halving, "gradient": search.Gradient, "constrained": search.Constrained}
    return values, methods.get(args.method, search.Grid)()


def _check_folder(folder: Path) -> None:
    """Raises UsageError for the folder of a training, whose model would be lost."""
    settings = folder / "settings.json"
    try:
        command = json.loads(settings.read_text(encoding="utf-8")).get("command")
    except (OSError, ValueError, AttributeError):
        return
    if command != "search":
        raise UsageError(f"{folder} holds what `wdfast {command}` wrote: give another --output")


# ---- the command ----------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> int:
    """Searches, prints what was found, trains with the choice, and writes the output folder."""
    from .. import _native, search

    if args.threads:
        _native.set_num_threads(args.threads)
    check_output(args, "-search")
    _check_folder(args.output)
    data = load_data(args)
    values, method = _plan(args)
    samples = len(data.x_train)
    held_out = args.validation_split or 1 / args.folds
    build = Build.of(args, data, max(1, round(samples * (1 - held_out))))
    rates = [args.learning_rate] if args.learning_rates is None else args.learning_rates
    splits = "one split" if args.validation_split else f"{args.folds} folds"
    splits += f" × {args.repeats}" if args.repeats > 1 and not args.validation_split else ""
    more = {"optuna": f" and {args.count} trials", "gradient": " and the one that the gradient finds",
            "constrained": " and bounded norms"}
    told = f"{len(values)} decay{'s' * (len(values) > 1)}{more.get(args.method, '')}"
    say(args, "search", f"{args.method}: {told}, {splits}, {args.seeds} "
                        f"seed{'s' * (args.seeds > 1)}, net {args.net}, {args.epochs} epochs, batch "
                        f"{args.batch_size}, {args.optimizer}, learning rate {', '.join(f'{r:g}' for r in rates)} "
                        f"({args.schedule})")
    try:
        result = search.decay(build, data.x_train, data.y_train, values, epochs=args.epochs,
                              batch_size=args.batch_size, seed=args.seed, seeds=args.seeds, folds=args.folds,
                              repeats=args.repeats, validation_split=args.validation_split or None,
                              learning_rates=args.learning_rates, method=method, metric=args.metric,
                              augment=augmentation(args, data), jobs=args.jobs, workers=args.workers, client=args.dask,
                              output=args.output, report=False, verbose=0 if args.quiet else "auto")
        if not args.quiet:
            print(f"\n{result}\n", flush=True)
        if args.refit:
            _refit(args, data, build, result)
        if args.report:
            _report(args, data, result)
    except KeyboardInterrupt:
        print(f"\ninterrupted; the same command goes on from here:\n  {shlex.join(['wdfast', *args.line])}",
              file=sys.stderr)
        return 130
    kept = sorted(p.name for p in args.output.iterdir() if p.is_file())
    say(args, "written", ", ".join(kept) + f" in {args.output}")
    return 0


def _report(args: argparse.Namespace, data: Any, result: Any) -> None:
    from ..viz import write_search

    settings = {"command": shlex.join(["wdfast", *args.line]), "source": data.source, "images": len(data.x_train),
                "method": args.method}
    if args.refit:
        trained = json.loads((args.output / "settings.json").read_text(encoding="utf-8"))
        settings |= {"trained with": trained["options"]["decay"],
                     "its test accuracy": f"{trained['result']['test_accuracy']:.2%} of {len(data.x_test):,} images"}
    try:
        write_search(args.output, result, title=f"wdfast search {data.name}: net {args.net}, {args.epochs} epochs",
                     settings=settings)
    except ImportError as error:  # matplotlib is an extra; the search is worth more than its picture
        say(args, "report", f"not written: {error}")


def _refit(args: argparse.Namespace, data: Any, build: Build, result: Any) -> None:
    """Trains with the choice on all training images; goes on from a checkpoint of the same."""
    from dataclasses import replace

    from .. import initializers
    from ..io import write_json

    row = result.best_row if args.choose == "best" else result.one_se_row
    rate = row.candidate.learning_rate or args.learning_rate
    samples = len(data.x_train)
    whole = replace(build, learning_rate=rate, steps_per_epoch=-(-samples // args.batch_size))
    initializers.set_seed(args.seed)
    model = whole(args.epochs, row.candidate.decay)
    settings = settings_of(args, data, model, decay=repr(row.candidate.decay), learning_rate=rate,
                           values=[repr(r.candidate.decay) for r in result.rows])
    settings["why"] = result.reasons
    wanted, checkpoint = args.output / "refit.json", args.output / "refit"
    same = json.loads(json.dumps({"options": settings["options"], "isa": settings["isa"]}))
    resume = wanted.is_file() and json.loads(wanted.read_text(encoding="utf-8")) == same and checkpoint.is_dir()
    if not resume:
        shutil.rmtree(checkpoint, ignore_errors=True)
        write_json(wanted, same)
    say(args, "training", f"{row.candidate.decay!r} on all {samples:,} training images, learning rate {rate:g}")
    train_and_save(args, data, model, settings, checkpoint, rows=(data.x_train, data.y_train), shown=None,
                   resume=resume)
    shutil.rmtree(checkpoint, ignore_errors=True)
    wanted.unlink()
