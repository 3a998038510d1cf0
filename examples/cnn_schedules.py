"""The article's CNN for photographs, 1,000 classes of 224×224×3, with its three learning-rate schedules, from disk.

    python examples/cnn_schedules.py [--quick] [--data FOLDER] [--out cnn_schedules.png]

A class is one of ten kinds of real images (without `--data`: digits), ten windows, ten tints. Training reads the JPEG
files while it runs. Measured with CIFAR-10 (2 cores of an AMD EPYC, Zen 4): 115 images/s. At 0.001, the article's, the
loss stays at ln 1,000 for three epochs; from 0.0001 it is 3.66, 3.66 (linear) and 5.11 (step) after six.
"""

import argparse
import colorsys
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import wdfast as wd
from wdfast import datasets, layers, models
from wdfast.callbacks import LearningRateScheduler
from wdfast.optimizers import Adam
from wdfast.utils import image_dataset_from_directory

CLASSES = 1000
WINDOWS = [(0, 0, 1, 1), *((i / 8, j / 8, i / 8 + 0.75, j / 8 + 0.75) for i in range(3) for j in range(3))]


def make_folder(root, images, labels, side, count, rng):
    """So many JPEG files for each class: kind × window × tint; grey images are inverted, dark on light."""
    kinds, images = min(10, int(labels.max()) + 1), images if images.shape[-1] == 3 else 255 - images
    for label in range(CLASSES):
        (tint, window), kind = divmod(label // kinds, len(WINDOWS)), label % kinds
        colour = 0.3 + 0.7 * np.array(colorsys.hsv_to_rgb(tint * kinds * len(WINDOWS) / CLASSES, 1, 1))
        Path(root, f"{label:03}").mkdir(parents=True)
        for i in range(count):
            image = Image.fromarray(np.squeeze(images[rng.choice(np.flatnonzero(labels == kind))])).convert("RGB")
            image = image.resize((side, side), box=tuple(np.tile(image.size, 2) * WINDOWS[window]))
            Image.fromarray(np.uint8(np.asarray(image) * colour)).save(f"{root}/{label:03}/{i}.jpg", quality=90)


def build(side=224, classes=CLASSES):
    """The article's network, for pixels from −1 to 1."""
    model = models.Sequential([layers.Rescaling(2 / 255, -1, input_shape=(side, side, 3))])
    for filters in (32, 64, 128):
        model.add(layers.Conv2D(filters, (3, 3), activation="relu"))
        model.add(layers.MaxPooling2D((2, 2)))
    for layer in (layers.Flatten(), layers.Dense(512, activation="relu"), layers.Dense(classes, activation="softmax")):
        model.add(layer)
    return model


def schedules(lr, epochs):
    """The article's three, as functions of the epoch."""
    return {"exponential": lambda epoch: lr * 0.8**epoch, "linear": lambda epoch: lr * (1 - epoch / epochs),
            "step": lambda epoch: lr * 0.1 ** (3 * epoch // epochs)}


def trained(schedule, folder, side, epochs):
    """Rate and loss of each epoch; loss, accuracy and that within five on the test images; images per second."""
    train, test = (image_dataset_from_directory(f"{folder}/{part}", batch_size=32) for part in ("train", "test"))
    wd.set_seed(0)
    model = build(side)
    model.compile(optimizer=Adam(learning_rate=schedule(0)), loss="sparse_categorical_crossentropy",
                  metrics=["accuracy", "sparse_top_k_categorical_accuracy"])
    start = time.perf_counter()
    history = model.fit(train, epochs=epochs, callbacks=[LearningRateScheduler(schedule)], seed=0).history
    speed = epochs * len(train.paths) / (time.perf_counter() - start)
    return [schedule(epoch) for epoch in range(epochs)], history["loss"], model.evaluate(test), speed


def report(results, images):
    """A row per schedule; then how fast reading is without training, and what memory it takes."""
    print(f"\n{'schedule':12} {'rates':22} first loss  last loss  test loss  right %  in five %  images/s")
    for name, (rates, losses, (loss, right, five), speed) in results.items():
        print(f"{name:12} {f'{rates[0]:.2e} … {rates[-1]:.2e}':22} {losses[0]:10.4f} {losses[-1]:10.4f} {loss:10.4f} "
              f"{100 * right:8.2f} {100 * five:10.2f} {speed:9.1f}")
    start = time.perf_counter()
    speed = sum(len(labels) for _, labels in images) / (time.perf_counter() - start)
    whole, peak = np.prod(images.shape) / 2**20, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"\nreading without training: {speed:.0f} images/s on one thread\nMiB: all images {whole:.1f}, the ring "
          f"{whole * images.prefetch / len(images):.1f}, peak of the process {peak:.0f}")


def draw(results, images, path):
    """The rates, the loss that they lead to, and images of some classes."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    rates = figure.add_subplot(1, 3, 1, title="learning rate", xlabel="epoch")
    losses = figure.add_subplot(1, 3, 2, title="cross-entropy in training", xlabel="epoch")
    sheet = figure.add_subplot(1, 3, 3, title="24 of the 1,000 classes", xticks=[], yticks=[])
    for name, (rate, loss, *_) in results.items():
        rates.plot(range(1, len(rate) + 1), rate, ".-", label=name)
        losses.plot(range(1, len(loss) + 1), loss, ".-")
    rates.legend()
    chosen = np.empty((24, *images.image_shape), np.uint8)
    images.read(np.arange(24) * (len(images.paths) // 24), chosen)  # side by side in four rows
    sheet.imshow(np.concatenate(np.concatenate(chosen.reshape(4, 6, *images.image_shape), axis=1), axis=1))
    figure.savefig(path, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="images of 32×32, for a test")
    parser.add_argument("--data", default="digits", help="what wdfast.data.load reads")
    parser.add_argument("--out", default="cnn_schedules.png")
    given = parser.parse_args()
    side, count, epochs, lr = (32, 1, 8, 1e-3) if given.quick else (224, 4, 6, 1e-4)
    with tempfile.TemporaryDirectory() as folder:
        for part, images in zip(("train", "test"), datasets.load(given.data), strict=True):
            make_folder(f"{folder}/{part}", *images, side, count, np.random.default_rng(len(part)))
        results = {name: trained(schedule, folder, side, epochs) for name, schedule in schedules(lr, epochs).items()}
        images = image_dataset_from_directory(f"{folder}/train")
        report(results, images)
        draw(results, images, given.out)


if __name__ == "__main__":
    main()
