import math
from collections.abc import Callable
from typing import Any

import pytest

from reports.pictures import Gallery, gallery, run_gallery
from reports.roc_figure import curve_of
from reports.rows import Row

Make = Callable[..., Any]
SAMPLE = {"clip": "sample", "weighting": "clip", "C": 0.1, "mb": 1}
ALL = ["repetition.png", "groups.png", "exposure.png", "roc.png", "bound.png"]
OF_RUN = ["repetition.png", "exposure.png", "roc.png"]
SERIES = {"train/loss": [(5, 2.0), (10, 1.0)], "clip/fraction": [(5, 0.5), (10, 0.4)]}


def names(found: Gallery) -> list[str]:
    return [plate.name for plate in found.plates]


def sentence(found: Gallery, name: str) -> str:
    (told,) = [plate.sentence for plate in found.plates if plate.name == name]
    return told


def test_a_sweep_has_five_pictures(sweep: list[Row], canaries: Make) -> None:
    found = gallery(sweep, [canaries() for _ in sweep])
    assert names(found) == ALL
    assert found.missing == ()
    assert all(plate.png.startswith(b"\x89PNG") for plate in found.plates)


def test_a_run_has_three_pictures(row: Make, canaries: Make) -> None:
    found = run_gallery(row(), canaries())
    assert names(found) == OF_RUN
    assert found.missing == ()


def test_the_curve_of_another_attack_can_be_shown(row: Make, canaries: Make) -> None:
    other = curve_of([1.0, 0.0, 0.5], [True, False, False])
    told = sentence(run_gallery(row(), canaries(), other), "roc.png")
    assert told.startswith("Inserted canaries told from held-out ones. ")
    assert "with 2 non-members that allows for a rate of up to 0.78" in told


def test_rows_alone_have_no_pictures_of_single_canaries(sweep: list[Row]) -> None:
    found = gallery(sweep)
    assert names(found) == ["repetition.png", "groups.png", "bound.png"]
    assert "No band is drawn around the null" in sentence(found, "groups.png")
    assert found.missing == (
        "exposure.png is left out: no table of canaries came with the rows.",
        "roc.png is left out: no table of canaries came with the rows.",
    )


def test_bare_rows_have_no_pictures_and_five_reasons() -> None:
    found = gallery([{"task": "digits", "clip": "none", "seed": 0}])
    assert names(found) == []
    assert [reason.split(" ")[0] for reason in found.missing] == ALL


def test_an_exposure_that_is_no_number_costs_the_pictures_and_no_more(
    row: Make, canaries: Make
) -> None:
    found = gallery([row()], [canaries([5.0, math.nan])])
    assert names(found) == ["repetition.png", "bound.png"]
    assert found.missing == (
        "groups.png is left out: no rule was run at two group sizes.",
        "exposure.png is left out: 1 of 5 canaries have no finite exposure.",
        "roc.png is left out: 1 of 5 canaries have no finite exposure.",
    )


def test_without_held_out_canaries_there_is_no_curve(row: Make, canaries: Make) -> None:
    found = run_gallery(row(), canaries(held_out=[]))
    assert names(found) == ["repetition.png", "exposure.png"]
    assert found.missing[0].startswith("roc.png is left out: no arm has both canaries")


def test_without_canaries_inserted_once_there_is_neither(row: Make, canaries: Make) -> None:
    found = run_gallery(row(), canaries(once=[], twice=[3.0]))
    assert names(found) == ["repetition.png"]
    assert found.missing[0] == "exposure.png is left out: no canary was inserted once."


def test_one_canary_and_equal_exposures_are_enough(row: Make, canaries: Make) -> None:
    assert names(run_gallery(row(), canaries([9.9], [9.9, 9.9]))) == OF_RUN


def test_one_tier_is_no_picture_of_repetition(row: Make, canaries: Make) -> None:
    tiers = dict.fromkeys(("exp_2", "exp_4", "exp_8", "exp_16"))
    assert "repetition.png is left out: exposure was measured at 1 repetition(s)." in (
        run_gallery(row(**tiers), canaries()).missing
    )


def test_sentences_say_what_the_intervals_are(row: Make, canaries: Make) -> None:
    one, two = row(), [row(seed=0), row(seed=1)]
    assert "over seeds, for arms with one seed at 1x only." in sentence(gallery([one]), ALL[0])
    told = sentence(gallery([one], [canaries()]), ALL[0])
    assert "for arms with one seed over the canaries of a run." in told
    assert "one seed" not in sentence(gallery(two), ALL[0])
    pooled = gallery(two, [canaries(), canaries()])
    assert "Seeds are pooled" in sentence(pooled, "exposure.png")
    assert "Seeds are pooled" not in sentence(gallery([one], [canaries()]), "exposure.png")


def test_the_law_is_told_where_the_number_of_references_is_no_single_one(
    row: Make, canaries: Make
) -> None:
    exact = row(references=1000, exp_ceiling=math.log2(1001))
    assert "many references" not in sentence(gallery([exact], [canaries()]), "exposure.png")
    found = gallery([row(references=None)], [canaries()])
    assert "The law is the one for many references" in sentence(found, "exposure.png")


def test_what_few_non_members_allow_is_told(row: Make, canaries: Make) -> None:
    rows = [row(), row(**SAMPLE)]
    found = gallery(rows, [canaries(held_out=[1.0] * 299), canaries(held_out=[1.0] * 10)])
    assert "with as few as 10 non-members that allows for a rate of up to 0.26" in (
        sentence(found, "roc.png")
    )
    found = gallery(rows[:1], [canaries(held_out=[1.0] * 299)])
    assert "with 299 non-members that allows for a rate of up to 0.01 (95 %)" in (
        sentence(found, "roc.png")
    )


def test_bounds_say_which_ceilings_and_runs_are_missing(row: Make) -> None:
    claim = {**SAMPLE, "sigma": 1.0, "eps": 2.0, "eps_lb": 0.5}
    rows = [row(**claim, eps_lb_ceiling=5.8), row(**claim, seed=1), row(eps_lb=None)]
    told = sentence(gallery(rows), "bound.png")
    assert "In the grey region a bound contradicts its claim." in told
    assert "nothing could have contradicted it." in told
    assert told.endswith("For 1 of 2 runs that ceiling is not recorded. 1 runs have no bound.")
    told = sentence(gallery([row()]), "bound.png")
    assert "grey" not in told
    assert "dash" not in told


def test_a_table_that_does_not_fit_is_an_error_and_not_a_missing_picture(
    row: Make, canaries: Make
) -> None:
    with pytest.raises(ValueError, match="2 rows and 1 tables"):
        gallery([row(), row(seed=1)], [canaries()])


def test_what_was_recorded_over_training_is_a_picture_more(row: Make, canaries: Make) -> None:
    assert names(gallery([row()], series=[SERIES])) == [OF_RUN[0], "bound.png", "training.png"]
    found = run_gallery(row(), canaries(), series=SERIES)
    assert names(found) == [*OF_RUN, "training.png"]
    assert names(run_gallery(row(), canaries(), series={})) == OF_RUN
    with pytest.raises(ValueError, match="1 rows and 2 series"):
        gallery([row()], series=[SERIES, SERIES])
