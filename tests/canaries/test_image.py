import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from canaries import mislabelled, noise_images, stream


def test_noise_is_uniform_with_uniform_labels() -> None:
    images, labels = noise_images(500, (1, 8, 8), 10, stream(0, "test"))
    assert (images.shape, images.dtype) == ((500, 1, 8, 8), torch.float32)
    assert (labels.shape, labels.dtype) == ((500,), torch.int64)
    assert 0 <= images.min() <= images.max() <= 1
    assert kstest(images.flatten()[:8000].numpy(), "uniform").pvalue > 1e-3
    assert chisquare(np.bincount(labels.numpy(), minlength=10)).pvalue > 1e-3


def test_noise_repeats_with_its_seed_and_only_with_it() -> None:
    first, again, other = (noise_images(2, (3,), 5, stream(s, "test"))[0] for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


def pool(size: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(float(size)).reshape(size, 1, 1), torch.arange(size) % classes


@given(st.integers(1, 9), st.integers(2, 5), st.integers(0, 2**32))
def test_mislabelled_exhausts_all_wrong_pairs(size: int, classes: int, seed: int) -> None:
    images, labels = pool(size, classes)
    n = size * (classes - 1)
    found, wrong = mislabelled(images, labels, classes, n, stream(seed, "test"))
    pairs = {(int(i), int(y)) for i, y in zip(found.flatten(), wrong, strict=True)}
    assert pairs == {(i, y) for i in range(size) for y in range(classes) if y != i % classes}


def test_mislabelled_pairs_are_equally_likely_in_every_place() -> None:
    images, labels = pool(4, 3)
    rng = stream(0, "test")
    draws = [mislabelled(images, labels, 3, 3, rng) for _ in range(1200)]
    for place in range(3):
        codes = [int(i[place]) * 3 + int(y[place]) for i, y in draws]
        seen = np.bincount(codes, minlength=12)
        assert chisquare(seen[seen > 0]).pvalue > 1e-3
        assert (seen > 0).sum() == 8


def test_mislabelled_keeps_types_and_leaves_the_pool_alone() -> None:
    images, labels = pool(6, 3)
    before = images.clone()
    found, wrong = mislabelled(images, labels.to(torch.int32), 3, 4, stream(0, "test"))
    assert (found.shape, found.dtype, wrong.dtype) == ((4, 1, 1), torch.float32, torch.int64)
    found.fill_(-1)
    assert torch.equal(images, before)


def test_small_labels_do_not_overflow() -> None:
    labels = torch.full((3,), 255, dtype=torch.uint8)
    _, wrong = mislabelled(torch.zeros(3, 2), labels, 300, 897, stream(0, "test"))
    assert sorted(set(wrong.tolist())) == [y for y in range(300) if y != 255]


def test_mislabelled_says_how_many_pairs_the_pool_has() -> None:
    with pytest.raises(ValueError, match=r"6 images with 12 wrong labels.*expected at least 13"):
        mislabelled(*pool(6, 3), 3, 13, stream(0, "test"))


def test_mislabelled_refuses_labels_that_are_not_labels() -> None:
    images, labels = pool(6, 3)
    rng = stream(0, "test")
    with pytest.raises(ValueError, match="found label 2; expected 0 to 1"):
        mislabelled(images, labels, 2, 1, rng)
    with pytest.raises(ValueError, match="found label -1"):
        mislabelled(images, labels - 1, 3, 1, rng)
    with pytest.raises(ValueError, match="float32 labels"):
        mislabelled(images, labels.float(), 3, 1, rng)
    with pytest.raises(ValueError, match=r"shape \[5\] for 6 images"):
        mislabelled(images, labels[1:], 3, 1, rng)


@pytest.mark.parametrize(("n", "classes"), [(-1, 10), (3, 1)])
def test_refuses_impossible_counts(n: int, classes: int) -> None:
    with pytest.raises(ValueError, match=f"n={n}, classes={classes}"):
        noise_images(n, (2,), classes, stream(0, "test"))
    with pytest.raises(ValueError, match=f"n={n}, classes={classes}"):
        mislabelled(*pool(6, 3), classes, n, stream(0, "test"))
