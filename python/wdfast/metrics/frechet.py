"""How far apart two sets of vectors are, each taken for a normal distribution."""

from __future__ import annotations

from typing import Any

import numpy as np


def frechet_distance(a: Any, b: Any) -> float:
    """‖μₐ − μ_b‖² + tr(Cₐ + C_b − 2(CₐC_b)^½): the squared Fréchet distance of two normal distributions.

    a (N, k), b (M, k): vectors, such as the logits or features that a classifier has for real and for generated
    images; μ, C their means and covariances, in float64. With the features of Inception it is the FID. It grows as
    samples get fewer: compare sets of one size. Raises ValueError for other shapes, and fewer than two vectors.
    Dowson & Landau, J. Multivariate Analysis 12, 1982; Heusel et al., arXiv 1706.08500.

    >>> import numpy as np
    >>> from wdfast import metrics
    >>> metrics.frechet_distance(np.array([[0.0], [2.0]]), np.array([[3.0], [5.0]]))
    9.0
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    for name, vectors in (("a", a), ("b", b)):
        if vectors.ndim != 2 or len(vectors) < 2 or vectors.shape[1] != a.shape[1]:
            expected = f"(N ≥ 2, {a.shape[1]})" if a.ndim == 2 else "(N ≥ 2, k)"
            raise ValueError(f"frechet_distance: argument '{name}': expected {expected}, got {vectors.shape}")
    (mean, covariance), (other, of_other) = ((v.mean(axis=0), np.atleast_2d(np.cov(v, rowvar=False))) for v in (a, b))
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ of_other @ root), 0)).sum()  # tr (CₐC_b)^½
    distance = ((mean - other) ** 2).sum() + np.trace(covariance) + np.trace(of_other) - 2 * overlap
    return max(float(distance), 0.0)  # rounding may leave it just below
