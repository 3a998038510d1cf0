"""The network of cifar_with_l2.py in PyTorch, behind the names of Keras that are called there.

Initial weights of the same distribution; weight_decay = 2λ, as Keras' λ is that of λΣw²; Adam with Keras' ε.
"""

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

BATCH = 128
utils = SimpleNamespace(set_random_seed=torch.manual_seed)


class Model:
    """fit, predict and get_weights, for cross-entropy with one-hot labels; images are uint8 (N, H, W, C)."""

    def __init__(self, shape, classes, strength):
        pooled = ((shape[0] - 2) // 2 - 2) // 2
        self.net = nn.Sequential(nn.Conv2d(shape[-1], 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3),
                                 nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * pooled**2, 128), nn.ReLU(),
                                 nn.Linear(128, classes)).to(memory_format=torch.channels_last)  # its fastest layout
        for value in self.net.parameters():
            (nn.init.xavier_uniform_ if value.ndim > 1 else nn.init.zeros_)(value)
        *kernels, last = (value for value in self.net.parameters() if value.ndim > 1)
        others = [last, *(value for value in self.net.parameters() if value.ndim == 1)]
        self.adam = torch.optim.Adam([{"params": kernels, "weight_decay": 2 * strength}, {"params": others}], eps=1e-7)
        self.optimizer = SimpleNamespace(learning_rate=0.001)

    def logits(self, images):
        return self.net(images.permute(0, 3, 1, 2).float().div_(64).sub_(2))

    def fit(self, x, y, **_):
        for group in self.adam.param_groups:
            group["lr"] = self.optimizer.learning_rate
        for images, labels in zip(*(torch.from_numpy(values).split(BATCH) for values in (x, y)), strict=True):
            self.adam.zero_grad()
            nn.functional.cross_entropy(self.logits(images), labels).backward()
            self.adam.step()

    def predict(self, x, **_):
        with torch.no_grad():
            return np.concatenate([self.logits(images) for images in torch.from_numpy(x).split(256)])

    def get_weights(self):
        return [value.detach().numpy() for value in self.net.parameters()]


def build(_, shape, classes, loss, strength):
    """The untrained model; `loss` is Keras' name of the cross-entropy."""
    if loss != "categorical_crossentropy":
        raise ValueError(f"build: argument 'loss': expected 'categorical_crossentropy', got {loss!r}")
    return Model(shape, classes, strength)
