"""Choosing λ with few images: cross-validation and the one-standard-error rule against no decay and the defaults.

    python examples/choosing_decay.py [--quick] [--out choosing_decay.png]

200 of the embedded digits train an MLP, 64-100-10: Adam, its rate falling from 0.01 as a cosine, 200 epochs; the other
1,597 test. None and eight τ from 1 to 200 epochs are compared by loss in five folds of the 200. The best mean, and the
strongest decay worse by no more than a standard error of the difference, each train on all 200, as do the defaults of
PyTorch's AdamW and scikit-learn's MLPs (Keras has none) and a bound of the weights' norms (CPR).

Measured on 20 paired draws of the 200 (80 s on one core): by the one-SE choice the test loss is 0.244,
0.048 ± 0.009 below no decay, 0.037 ± 0.008 below PyTorch's default, and 93.17 % are right, 0.26 ± 0.10 and 0.23 ± 0.09
points above. Setting and rule were chosen with other draws; docs/further.md has other settings.
"""

import argparse
import math
import warnings

import numpy as np
from matplotlib.figure import Figure

from wdfast import datasets, decay, initializers, layers, losses, models, optimizers, search
from wdfast.callbacks import LearningRateScheduler
from wdfast.telemetry import WeightDecayWarning

X, Y = (np.concatenate(parts) for parts in zip(*datasets.load_digits(), strict=True))
X = X.reshape(-1, 64) / np.float32(255)
TRAIN, BATCH, RATE = 200, 32, 0.01
FIXED = {"no decay": decay.none(), "PyTorch's default, decoupled 0.01": decay.decoupled(0.01),
         "scikit-learn's default, α = 1e-4": decay.from_sklearn(1e-4, BATCH),
         "bound of the norm, not searched": decay.constrained(initial=1.0)}
CHOSEN = ("best of the folds", "one standard error")


def build(decay=None):
    """An MLP, 64-100-10."""
    model = models.Sequential([layers.Input((64,)), layers.Dense(100, "relu"), layers.Dense(10)])
    model.compile(optimizers.Adam(RATE, decay=decay), losses.SparseCategoricalCrossentropy(from_logits=True),
                  ["accuracy"])
    return model


def cosine(epochs):
    return [LearningRateScheduler(lambda epoch: RATE * (1 + math.cos(math.pi * epoch / epochs)) / 2)]


def measured(value, train, test, seed, epochs):
    """Loss, and what is right, %, of the test images by a network trained on all 200."""
    with initializers.seeded(seed):
        model = build(value)
    model.fit(X[train], Y[train], BATCH, epochs, seed=seed, callbacks=cosine(epochs), verbose=0)
    return np.array(model.evaluate(X[test], Y[test])) * (1, 100)


def repetition(seed, values, folds, epochs):
    """The search's choices; what every decay comes to on test images; the folds' mean losses of those searched."""
    train, test = np.split(np.random.default_rng(seed).permutation(len(Y)), [TRAIN])
    found = search.decay(build, X[train], Y[train], values, folds=folds, epochs=epochs, batch_size=BATCH, seed=seed,
                         metric="val_loss", callbacks=lambda: cosine(epochs), verbose=0)
    means = {row.candidate.decay: row.mean for row in found.rows}
    known = {value: measured(value, train, test, seed, epochs) for value in {*values, *FIXED.values()}}
    return (found.best, found.one_se), known, [means[value] for value in values]


def gain(values):
    """Mean and standard error over the repetitions."""
    return f"{np.mean(values):+8.3f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.3f}"


def report(rows):
    """Both measures on test images by what decided the decay; paired with it, what the one-SE choice gains."""
    print(f"\n{len(rows['no decay'])} paired repetitions, ± standard error")
    for k, measure in enumerate(("test loss", "right, %")):
        print(f"\n{'decided by':36} {measure:16} less no decay    one SE less it")
        for name, own in rows.items():
            gains = gain((own - rows["no decay"])[:, k]), gain((rows[CHOSEN[1]] - own)[:, k])
            print(f"{name:36}{gain(own[:, k]).replace('+', ' ')}", *gains)


def draw(rows, values, tests, folds, path):
    """Left: loss by τ, in the folds and on test images. Right: each repetition's gain over no decay."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    curves, gains = figure.subplots(1, 2)
    for means, label in ((folds, "folds"), (tests, "test images")):
        curves.errorbar(range(len(values)), means.mean(axis=0), means.std(axis=0, ddof=1) / len(means) ** 0.5,
                        fmt="o-", label=label)
    curves.set_xticks(range(len(values)), [f"{v.terms[0].strength:.3g}" if v.terms else "none" for v in values])
    curves.set(title=f"{len(folds)} draws of {TRAIN} images", xlabel="τ, epochs", ylabel="loss", ylim=(0.15, 0.6))
    curves.legend()
    names = [name.replace(", ", ",\n") for name in rows]
    for k, name in enumerate(rows):
        points = (rows["no decay"] - rows[name])[:, 0]
        gains.plot(points, np.full(len(points), k), "|", color=f"C{k}", markersize=12)
        gains.errorbar(points.mean(), k, xerr=points.std(ddof=1) / len(points) ** 0.5, fmt="o", color=f"C{k}")
    gains.axvline(0, color="grey", linewidth=0.8)
    gains.set(title="each draw, mean ± standard error", xlabel="loss that no decay has more")
    gains.set_yticks(range(len(names)), names, fontsize=8)
    figure.savefig(path, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2 repetitions, 2 folds, 3 τ, for a test")
    parser.add_argument("--out", default="choosing_decay.png")
    given = parser.parse_args()
    warnings.simplefilter("ignore", WeightDecayWarning)  # the defaults do next to nothing here, and are told so
    repetitions, folds, epochs, count = (2, 2, 12, 3) if given.quick else (20, 5, 200, 8)
    values = [decay.none(), *search.grid(decay.epochs, 1, epochs, count)[::-1]]
    draws = [repetition(seed, values, folds, epochs) for seed in range(100, 100 + repetitions)]
    choices, known, means = zip(*draws, strict=True)
    rows = {name: np.array([own[value] for own in known]) for name, value in FIXED.items()}
    for name, chosen in zip(CHOSEN, zip(*choices, strict=True), strict=True):
        rows[name] = np.array([own[value] for own, value in zip(known, chosen, strict=True)])
        print(f"{name}: " + ", ".join(f"{value} {chosen.count(value)}×" for value in values if value in chosen))
    report(rows)
    draw(rows, values, np.array([[own[value][0] for value in values] for own in known]), np.array(means), given.out)


if __name__ == "__main__":
    main()
