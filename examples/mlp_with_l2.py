"""An MLP with L2, as the article builds it, beside the same without decay, with L1, dropout, batch normalisation.

    python examples/mlp_with_l2.py [--quick] [--data FOLDER] [--out mlp_with_l2.png]

784-64-64-10, Adam, batches of 128, λ in Keras' unit. Without MNIST at hand the images are the embedded 8×8 digits
brought to 28×28 by linear interpolation; `--data FOLDER` takes a folder with MNIST's IDX files. Few images train (200),
up to 2,000 others test. Ten seeds are paired: all five nets of a seed see the same images.

Measured on the 1,597 other digits (2 cores of an AMD EPYC, Zen 4; 1 min): test accuracy 92.69 % without decay; L2 gains
0.53 ± 0.15 points, L1 0.32 ± 0.16, batch normalisation 0.93 ± 0.38, dropout loses 0.71 ± 0.37. Each net has all of its
training images right in the end (dropout: 99.9 %). What decay removes shows in the loss: without it the test loss rises
again from epoch 80 on, to 0.289; with L2 it ends at 0.229. 400 epochs, as batch normalisation and dropout had not
settled after 200.
"""

import argparse

import numpy as np
from matplotlib.figure import Figure

from wdfast import datasets, initializers, layers, models, regularizers

SAMPLES = 200
NETS = {"no decay": {}, "L2, λ = 0.001": {"regularizer": regularizers.l2(0.001)},
        "L1, λ = 0.0001": {"regularizer": regularizers.l1(0.0001)}, "dropout, 0.5": {"dropout": 0.5},
        "batch normalisation": {"normalised": True}}


def build(regularizer=None, dropout=0.0, normalised=False):
    """The article's model; the four others differ from it by one thing each."""
    model = models.Sequential()
    for first in (True, False):
        model.add(layers.Dense(64, kernel_regularizer=regularizer, **({"input_shape": (784,)} if first else {})))
        if normalised:
            model.add(layers.BatchNormalization())
        model.add(layers.Activation("relu"))
        if dropout:
            model.add(layers.Dropout(dropout))
    model.add(layers.Dense(10, activation="softmax", kernel_regularizer=regularizer))
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def load(data):
    """All images as rows of 784 values from 0 to 1, and their labels."""
    x, y = (np.concatenate(parts) for parts in zip(*datasets.load(data), strict=True))
    side = x.shape[1]
    at = (np.arange(28) + 0.5) * side / 28 - 0.5  # pixel centres; at the border the nearest
    weights = np.array([np.interp(at, np.arange(side), unit) for unit in np.eye(side)], np.float32)
    return (weights.T @ (x[..., 0] / np.float32(255)) @ weights).reshape(-1, 784), y


def trained(name, x, y, seed, epochs):
    """Per epoch the loss on training and test images; at the end accuracy and loss on both, without dropout."""
    order = np.random.default_rng(seed).permutation(len(x))
    train, test = order[:SAMPLES], order[SAMPLES:][:2000]
    initializers.set_seed(seed)
    model = build(**NETS[name])
    history = model.fit(x[train], y[train], batch_size=128, epochs=epochs, seed=seed, verbose=0,
                        validation_data=(x[test[:500]], y[test[:500]])).history  # for the curves
    (loss, right), (test_loss, test_right) = (model.evaluate(x[part], y[part]) for part in (train, test))
    return [history["loss"], history["val_loss"]], [100 * right, 100 * test_right, loss, test_loss]


def mean(values, form):
    """Mean and standard error over the seeds."""
    return f"{np.mean(values):{form}} ± {np.std(values, ddof=1) / len(values) ** 0.5:{form.lstrip('+')}}"


def report(results):
    """Accuracy and loss of each net, and the paired differences from the net without decay."""
    seeds = len(next(iter(results.values())))
    print(f"{SAMPLES} images, {seeds} paired seeds, ± standard error; under each net its difference from no decay\n\n"
          f"{'':20}   train %         test %           test loss")
    for name, values in results.items():
        train, test, _, loss = np.transpose(values)
        print(f"{name:20} {mean(train, '7.2f'):14} {mean(test, '7.2f'):14} {mean(loss, '8.4f')}")
        if name != "no decay":
            train, test, _, loss = np.transpose(values) - np.transpose(results["no decay"])
            print(f"{'':20} {mean(train, '+7.2f'):14} {mean(test, '+7.2f'):14} {mean(loss, '+8.4f')}")


def draw(curves, path):
    """Loss against epochs, the mean of the seeds: on training images dashed, on test images solid."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for colour, (name, values) in enumerate(curves.items()):
        train, test = np.mean(values, axis=0)
        epochs = np.arange(1, len(test) + 1)
        panels[0].semilogy(epochs, train, "--", color=f"C{colour}")
        panels[0].semilogy(epochs, test, color=f"C{colour}", label=name)
        panels[1].plot(epochs, test, color=f"C{colour}")
    low = min(np.mean(values, axis=0)[1].min() for values in curves.values())
    panels[0].set(title="train (dashed) and test", xlabel="epoch", ylabel="cross-entropy")
    panels[1].set(title="test: what rises again is overfitting", xlabel="epoch", ylim=(0.9 * low, 2 * low))
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2 seeds, 30 epochs, for a test")
    parser.add_argument("--data", default="digits", help="a folder with MNIST's IDX files, or what wdfast.data reads")
    parser.add_argument("--out", default="mlp_with_l2.png")
    given = parser.parse_args()
    seeds, epochs = (2, 30) if given.quick else (10, 400)
    x, y = load(given.data)
    outcome = {name: [trained(name, x, y, seed, epochs) for seed in range(seeds)] for name in NETS}
    report({name: [end for _, end in runs] for name, runs in outcome.items()})
    draw({name: [curve for curve, _ in runs] for name, runs in outcome.items()}, given.out)


if __name__ == "__main__":
    main()
