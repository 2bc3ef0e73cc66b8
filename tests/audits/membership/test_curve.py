import numpy as np
import pytest
from sklearn.metrics import auc as trapezoids
from sklearn.metrics import roc_curve

from audits.intervals import lower, upper
from audits.membership import auc, roc


def drawn(ties: bool):
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(1, 1, 60), rng.normal(size=90)])
    return np.round(scores, 0 if ties else 9), np.arange(150) < 60


@pytest.mark.parametrize("ties", [False, True])
def test_the_curve_is_scikit_learns(ties: bool) -> None:
    scores, inside = drawn(ties)
    found = roc(scores, inside)
    fpr, tpr, _ = roc_curve(inside, scores, drop_intermediate=False)
    assert found.fpr == pytest.approx(fpr)
    assert found.tpr == pytest.approx(tpr)
    assert (found.fpr[0], found.tpr[0], found.fpr[-1], found.tpr[-1]) == (0, 0, 1, 1)
    assert trapezoids(found.fpr, found.tpr) == pytest.approx(auc(scores, inside).estimate)


def test_the_band_is_clopper_and_pearsons_at_each_point() -> None:
    found = roc(*drawn(False), alpha=0.1)
    assert found.alpha == 0.1
    for tpr, low, high in zip(found.tpr, found.low, found.high, strict=True):
        k = round(tpr * 60)
        assert (low, high) == (lower(k, 60, 0.05), upper(k, 60, 0.05))


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="alpha is 2"):
        roc(*drawn(False), alpha=2)
    with pytest.raises(ValueError, match="0 non-members"):
        roc([1.0], [True])
