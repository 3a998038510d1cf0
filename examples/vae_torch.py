"""The autoencoder of vae.py in PyTorch, layer by layer, and the evidence bounds of both beside each other.

    python examples/vae_torch.py [--quick] [--data FOLDER] [--out vae_torch.png]

Weights and noise come from other random numbers, so the bounds agree within the spread of seeds. Measured as in vae.py,
five seeds, ± standard deviation, without decay: wdfast −25.34 ± 0.23, PyTorch 2.13 −25.32 ± 0.28; with λ = 1e-5:
−25.23 ± 0.21 and −25.26 ± 0.23.
"""

import argparse
import itertools

import numpy as np
import torch
import vae
from matplotlib.figure import Figure
from torch import nn


class Autoencoder(nn.Module):
    """The same layers; weights by Glorot and Bengio's uniform distribution, biases 0, as in Keras and wdfast."""

    def __init__(self, shape):
        super().__init__()
        height, width, channels = shape[0] // 4, shape[1] // 4, shape[2]
        self.hidden = nn.Sequential(nn.Conv2d(channels, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU(),
                                    nn.Flatten(), nn.Linear(height * width * 64, 64), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(64, vae.LATENT), nn.Linear(64, vae.LATENT)
        self.decoder = nn.Sequential(
            nn.Linear(vae.LATENT, 64), nn.ReLU(), nn.Linear(64, height * width * 64), nn.ReLU(),
            nn.Unflatten(1, (64, height, width)), nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(32, channels, 4, 2, 1))
        for p in self.parameters():
            nn.init.xavier_uniform_(p) if p.ndim > 1 else nn.init.zeros_(p)

    def forward(self, x):
        """−log-likelihood of the pixels and KL divergence, in nats, the means over the batch."""
        hidden = self.hidden(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        z = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
        lost = nn.functional.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        divergence = (mean**2 + log_variance.exp() - log_variance - 1).sum() / 2
        return lost / len(x), divergence / len(x)


def trained(x, lambda_, beta, seed, epochs):
    """The model after the training of vae.py: Adam, Keras' λ on kernels alone, batches of 64 in random order."""
    torch.manual_seed(seed)
    model = Autoencoder((*x.shape[2:], x.shape[1]))
    groups = [{"params": [p for p in model.parameters() if (p.ndim > 1) == kernels], "weight_decay": decay}
              for kernels, decay in ((True, 2 * lambda_), (False, 0.0))]
    optimizer = torch.optim.Adam(groups, lr=2e-3, eps=1e-7)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            lost, divergence = model(x[rows])
            optimizer.zero_grad()
            ((lost + beta * divergence) / x[0].numel()).backward()
            optimizer.step()
    return model


@torch.no_grad()
def bound(model, x, draws=4):
    """As vae.bound: pixels, KL divergence and evidence bound of an image."""
    lost, divergence = (part.item() for part in model(x.repeat(draws, 1, 1, 1)))
    return lost, divergence, -lost - divergence


def draw(bounds, path):
    """A mark for each seed's evidence bound, a row for each λ and library."""
    panel = Figure(figsize=(6, 2.2), layout="constrained").add_subplot(xlabel="evidence bound of each seed, nats")
    for row, values in enumerate(bounds.values()):
        panel.plot(values, np.full(len(values), row), "|", color=f"C{row}", markersize=14)
        panel.plot(np.mean(values), row, "o", color=f"C{row}")
    panel.set_yticks(range(len(bounds)), bounds)
    panel.figure.savefig(path, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2 seeds, 10 epochs, for a test")
    parser.add_argument("--data", default="digits", help="what wdfast.data.load reads; sides that 4 divides")
    parser.add_argument("--out", default="vae_torch.png")
    given = parser.parse_args()
    seeds, epochs = (2, 10) if given.quick else (5, 600)
    parts = [vae.split(given.data, seed)[:2] for seed in range(seeds)]
    print(f"nats of {len(parts[0][1])} held-out images; {seeds} seeds, ± standard deviation\n\n"
          f"{'λ':>6}  {'':8}  pixels      KL   bound")
    bounds = {}
    for lambda_, name in itertools.product((0, 1e-5), ("wdfast", "PyTorch")):
        rows = []
        for seed, (x, others) in enumerate(parts):
            if name == "wdfast":
                rows.append(vae.bound(vae.trained(x, lambda_, 1, seed, epochs)[2], others, 1))
            else:
                x, others = (torch.from_numpy(np.ascontiguousarray(part.transpose(0, 3, 1, 2))) for part in (x, others))
                rows.append(bound(trained(x, lambda_, 1, seed, epochs), others))
        mean, spread = np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1)
        print(f"{lambda_:6g}  {name:8}{mean[0]:8.2f}{mean[1]:8.2f}{mean[2]:8.2f} ± {spread[2]:.2f}")
        bounds[f"{name}, λ = {lambda_:g}"] = [row[2] for row in rows]
    draw(bounds, given.out)


if __name__ == "__main__":
    main()
