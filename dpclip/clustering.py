"""Groups of samples that the model sees alike: k-means clusters of features."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from dpclip.types import Grouping, GroupingFacts, Members, Stream
from dpclip.whole_numbers import check_count

_TOGETHER = (
    "clusters are formed from the whole batch, so one record that leaves may move all others to "
    "other groups"
)
_ROUNDS = 20  # of Lloyd's algorithm on a GPU, where asking whether it has converged would wait


def clusters(
    k: int | None = None, *, features: str | nn.Module, per: int | None = None
) -> Grouping:
    """Returns groups of samples with similar features in the same forward (arXiv 2404.16917).

    The output of one module, flattened for each sample, is clustered by k-means (k-means++,
    seeded by the engine, so that runs repeat) when the batch has gone through the model whole.
    A cluster may stay empty; then there are fewer groups. Samples whose features are not finite
    make one more group. Nothing can be claimed: a sample's cluster depends on all others.

    Args:
        k: clusters, >= 1, at most one for each sample.
        features: the module, or its name in the model, e.g. "layers.2"; it must return one row
            for each sample. The paper takes a dense layer in the middle.
        per: instead of k, samples per cluster: k = max(1, B // per). The paper takes 64.

    Raises:
        ValueError: both or neither of k and per, or one below 1.
    """
    if (k is None) == (per is None):
        raise ValueError(
            f"clusters(k={k}, per={per}): give k, the number of clusters, or per, for one cluster "
            "per so many samples."
        )
    number = k if k is not None else per
    assert number is not None
    what = "clusters" if per is None else "samples per cluster"
    check_count(f"clusters({'k' if per is None else 'per'}", number, what)

    def assign(members: Members) -> Tensor:
        if members.features is None:  # drawn, but not seen by the model yet
            return torch.zeros(members.rows, dtype=torch.int64)
        assert members.stream is not None
        wanted = k if k is not None else max(1, members.rows // number)
        return grouped(members.features, wanted, members.stream)

    named = features if isinstance(features, str) else type(features).__name__
    given = f"{k}" if k is not None else f"per={per}"
    return Grouping(
        label=f"clusters({given}, features={named!r})",
        kind="cluster",
        assign=assign,
        divisor=lambda _q, _n: None,
        facts=GroupingFacts(None, _TOGETHER, "as much as all groups together"),
        features=features,
    )


def grouped(features: Tensor, k: int, stream: Stream) -> Tensor:
    """Returns [B] cluster numbers: 0 .. k-1, and k for samples with features that are not finite.

    Args:
        features: [B, d].
        k: at most so many clusters.
        stream: seeds k-means.
    """
    wide = features.float() if features.dtype.itemsize < 4 else features
    finite = wide.isfinite().all(1)
    some = wide[finite]
    found = torch.full((len(features),), k, device=features.device)
    if k == 1 or len(some) < 2:
        return found.masked_fill_(finite, 0)
    cluster = _on_cpu if some.device.type == "cpu" else lloyd
    found[finite] = cluster(some, min(k, len(some)), stream)
    return found


def _on_cpu(features: Tensor, k: int, stream: Stream) -> Tensor:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    seed = int(stream.integers(2**31 - 1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct samples than clusters
        found = KMeans(k, n_init=1, random_state=seed).fit_predict(features.numpy())
    return torch.from_numpy(found).to(torch.int64)


def lloyd(features: Tensor, k: int, stream: Stream) -> Tensor:
    """Returns [B] cluster numbers by k-means, on any device and without waiting for it.

    Args:
        features: [B, d], finite.
        k: clusters, at most B.
        stream: draws the first centres, by k-means++.
    """
    draws = stream.uniform(k).to(features)
    centres = features.new_empty(k, features.shape[1])
    nearest = torch.ones_like(features[:, 0])
    for i, draw in enumerate(draws):  # in proportion to the squared distance from those before
        reached = nearest.cumsum(0)
        index = torch.searchsorted(reached, (draw * reached[-1])[None], right=True)
        centres[i] = features.index_select(0, index.clamp(max=len(features) - 1))[0]
        distance = (features - centres[i]).square().sum(1)
        nearest = distance if i == 0 else torch.minimum(nearest, distance)
    for _ in range(_ROUNDS):
        found = torch.cdist(features, centres).argmin(1)
        counts = features.new_zeros(k).index_add_(0, found, torch.ones_like(nearest))
        sums = torch.zeros_like(centres).index_add_(0, found, features)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
    return torch.cdist(features, centres).argmin(1)
