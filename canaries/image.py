"""Image canaries: uniform noise with random labels, and real images with wrong labels.

Exposure ranks an inserted canary among references of its family that were never inserted. That
rank means something only if, without training, every order is equally likely: draw the canaries
and the references of a family together, in one call, and divide them afterwards.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def noise_images(
    n: int, shape: Sequence[int], classes: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Images of independent uniform noise, each with an independent uniform label.

    The n pairs are independent and identically distributed, hence exchangeable: any of them may
    serve as canary and the others as its references.

    Args:
        n: Number of images.
        shape: Shape of one image, for example (1, 28, 28).
        classes: Number of labels.
        rng: Source of randomness.

    Returns:
        images [n, *shape] float32 in [0, 1], and labels [n] int64 in 0 to classes - 1.

    Raises:
        ValueError: If n is negative or there are fewer than 2 classes.
    """
    _check_counts(n, classes)
    images = rng.random((n, *shape), dtype=np.float32)
    labels = rng.integers(0, classes, size=n, dtype=np.int64)
    return torch.from_numpy(images), torch.from_numpy(labels)


def mislabelled(
    images: Tensor, labels: Tensor, classes: int, n: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Distinct pairs of a pool image and a wrong label, every pair equally likely.

    Drawn without replacement from all (image, wrong label) pairs: exchangeable, so that any of the
    n may serve as canary and the others as its references. Take the pool from data that is not
    trained on, or all of it from data that is; a mixture would not be exchangeable.

    Args:
        images: [p, *shape] the pool, all different.
        labels: [p] their true labels, integers in 0 to classes - 1.
        classes: Number of labels.
        n: Number of pairs.
        rng: Source of randomness.

    Returns:
        images [n, *shape], copied from the pool, and wrong labels [n] int64.

    Raises:
        ValueError: If the pool has fewer than n pairs, or its labels are not one integer in
            0 to classes - 1 per image.
    """
    _check_counts(n, classes)
    if labels.shape != images.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"found {labels.dtype} labels of shape {list(labels.shape)} for {len(images)} images; "
            "expected one integer per image"
        )
    true = labels.long()  # first, because bytes wrap around in what follows
    outside = true[(true < 0) | (true >= classes)]
    if len(outside):
        raise ValueError(f"found label {int(outside[0])}; expected 0 to {classes - 1}")
    pairs = len(images) * (classes - 1)
    if n > pairs:
        raise ValueError(
            f"found a pool of {len(images)} images with {pairs} wrong labels between them, "
            f"expected at least {n}; enlarge the pool or ask for fewer canaries"
        )
    drawn = torch.from_numpy(rng.choice(pairs, size=n, replace=False).astype(np.int64))
    picks, shifts = drawn // (classes - 1), drawn % (classes - 1)
    # A shift of 1 to classes - 1, around the circle of labels, reaches every label but the true.
    return images[picks], (true[picks] + 1 + shifts) % classes


def _check_counts(n: int, classes: int) -> None:
    if n < 0 or classes < 2:
        raise ValueError(f"found n={n}, classes={classes}; expected n >= 0 and classes >= 2")
