"""A network of one's own: ResNet-20, decay only where it belongs, and all that one adds to reach its accuracy.

    python examples/resnet20.py [--quick] [--data FOLDER] [--epochs N] [--precision P] [--checkpoint FOLDER]

The network of arXiv 1512.03385, section 4.2, in two functions. Decay is on kernels alone (`model.decay_table()`): 2.5
epochs is λ = 5e-4 in PyTorch's unit at rate 0.2, momentum 0.9, 391 steps an epoch. Cosine, smooth labels, mixup, flip,
crop. Measured on CIFAR-10, one seed: --epochs 70 --precision medium, 88.36 % right; --epochs 45, 87.84 %.
"""

import argparse
import time

import numpy as np
from matplotlib.figure import Figure

import wdfast as wd
from wdfast import data, decay, layers, losses, metrics, models, optimizers, schedules
from wdfast.steps import Augment

BATCH, RATE, TAU, SMOOTHING, MIXUP = 128, 0.2, 2.5, 0.1, 0.1


def convolution(x, filters, stride=1, size=3):
    """A convolution without bias, which the normalisation behind it would take away."""
    x = layers.Conv2D(filters, size, stride, "same", use_bias=False, kernel_initializer="he_normal")(x)
    return layers.BatchNormalization(momentum=0.97, epsilon=1e-5)(x)


def block(x, filters, stride):
    """Two convolutions beside a shortcut; where the shape changes, the shortcut is a 1×1 convolution."""
    y = layers.ReLU()(convolution(x, filters, stride))
    shortcut = x if stride == 1 else convolution(x, filters, stride, size=1)
    return layers.ReLU()(layers.Add()([convolution(y, filters), shortcut]))


def resnet20(x_train, classes):
    """Three stages of three blocks, for images normalised by the training images' mean and deviation."""
    pixels = x_train.reshape(-1, x_train.shape[-1])
    mean, std = pixels.mean(axis=0), pixels.std(axis=0)
    image = layers.Input(x_train.shape[1:])
    x = layers.Rescaling((1 / std).tolist(), (-mean / std).tolist())(image)
    x = layers.ReLU()(convolution(x, 16))
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        for i in range(3):
            x = block(x, filters, 1 if i else stride)
    return models.Model(image, layers.Dense(classes)(layers.GlobalAveragePooling2D()(x)))


def train(images, batch, epochs, seed, precision, checkpoint):
    """The trained model, its history with learning rates, and the seconds of this run."""
    wd.set_seed(seed)
    model = resnet20(images.x_train, images.num_classes)
    steps = -(-len(images.x_train) // batch)
    rate = schedules.CosineDecay(0.0, (epochs - 1) * steps, warmup_target=RATE * batch / 128, warmup_steps=steps)
    model.compile(optimizers.SGD(rate, momentum=0.9, nesterov=True, decay=decay.epochs(TAU)),
                  losses.CategoricalCrossentropy(from_logits=True, label_smoothing=SMOOTHING), ["accuracy"],
                  precision=precision)
    model.optimizer.set_run(steps)  # so that the table counts in epochs, of which the first warms up
    print(f"{model.decay_table(by_role=True)}\n")
    augment = Augment(flip=images.image_shape[-1] == 3, crop=images.image_shape[0] // 8, mixup=MIXUP)
    labels = [data.to_categorical(y, images.num_classes) for y in (images.y_train, images.y_test)]
    start = time.perf_counter()
    history = model.fit(images.x_train, labels[0], batch_size=batch, epochs=epochs, seed=seed, augment=augment,
                        validation_data=(images.x_test, labels[1]), checkpoint=checkpoint).history
    history["rate"] = rate(steps * np.arange(1, epochs + 1) - 1).tolist()
    return model, history, time.perf_counter() - start


def report(model, images, seconds):
    """What is right in the end, in all and of each class. Returns the confusion matrix."""
    names = images.class_names
    confusion = metrics.confusion_matrix(images.y_test, model.predict(images.x_test), len(names))
    recalls = 100 * confusion.diagonal() / confusion.sum(axis=1)
    print(f"\nright of {len(images.x_test):,} test images: {100 * confusion.trace() / confusion.sum():.2f} %; "
          f"{seconds / 60:.1f} min in this run\n\n{'class':14}  right %  most often taken for")
    for i, name in enumerate(names):
        most, other = max((confusion[i, j], other) for j, other in enumerate(names) if j != i)
        print(f"{name:14} {recalls[i]:8.2f}  {f'{other}: {most} of {confusion[i].sum()}' if most else 'none'}")
    return confusion


def draw(history, confusion, names, path):
    """Loss and accuracy against epochs, the rate behind them, and which class is taken for which."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    epochs = range(1, len(history["loss"]) + 1)
    for panel, name, title in ((panels[0], "loss", "cross-entropy"), (panels[1], "accuracy", "accuracy")):
        panel.plot(epochs, history[name], "--", label="train: mixed, smoothed labels")
        panel.plot(epochs, history[f"val_{name}"], label="test")
        panel.set(title=title, xlabel="epoch")
    panels[0].legend(fontsize=8)
    behind = panels[1].twinx()
    behind.fill_between(epochs, history["rate"], color="0.9")
    behind.set(ylabel="learning rate (grey)", ylim=(0, None))
    panels[1].set(zorder=1, facecolor="none")
    shares = confusion / confusion.sum(axis=1, keepdims=True)
    panels[2].imshow(np.where(np.eye(len(names)), np.nan, shares), cmap="Reds")
    panels[2].set(title="what is taken for what", xlabel="predicted", ylabel="true")
    for axis, turned in ((panels[2].xaxis, 90), (panels[2].yaxis, 0)):
        axis.set_ticks(range(len(names)), names, rotation=turned, fontsize=8)
    figure.savefig(path, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="8 epochs of small batches, for a test")
    parser.add_argument("--data", default="digits", help="what wdfast.data.load reads")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--precision", default="highest", choices=("highest", "high", "medium"))
    parser.add_argument("--checkpoint", help="a folder: a run that was killed goes on from it")
    parser.add_argument("--out", default="resnet20.png")
    given = parser.parse_args()
    images = data.load(given.data)
    size = (32, 8) if given.quick else (min(BATCH, len(images.x_train) // 16), given.epochs)
    model, history, seconds = train(images, *size, 0, given.precision, given.checkpoint)
    draw(history, report(model, images, seconds), images.class_names, given.out)


if __name__ == "__main__":
    main()
