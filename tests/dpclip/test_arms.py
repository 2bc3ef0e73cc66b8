import pytest

from dpclip.arms import DEFAULTS, Arm, arms_of, lists_of, together


def labels(groupings: str, weightings: str = "clip:1", noises: str = "0") -> list[str]:
    return [arm.label for arm in arms_of(groupings, weightings, noises)[0]]


def test_every_combination_is_an_arm() -> None:
    assert labels("none,sample,microbatch:4", "clip:0.1,min") == [
        "none",
        "sample clip:0.1",
        "sample min",
        "microbatch:4 clip:0.1",
        "microbatch:4 min",
    ]


@pytest.mark.parametrize(
    "words",
    [
        ("none", "clip:1", "0"),
        ("sample", "per_layer:0.5", "0.5"),
        ("microbatch:8:random", "normalize:0.01", "1"),
        ("core:2:fixed", "quantile:0.5", "0"),
        ("core:4", "min", "0"),
        ("cluster:4", "scarcity:3", "0"),
        ("cluster:64:per", "clip:1", "0"),
    ],
)
def test_a_label_says_what_it_was_made_of(words: tuple[str, str, str]) -> None:
    arms, skipped = arms_of(*words)
    assert not skipped
    label = arms[0].label
    group, *rest = label.split()
    rule = rest[0] if rest else "clip:1"
    noise = rest[2] if "noise" in rest else "0"
    assert (group, rule, noise) == words


def test_every_arm_is_run_with_every_pacing() -> None:
    arms, _ = together([("none,sample", "clip:1", "0")], "none,angle:1.1,angle:1.2:512")
    assert [arm.label for arm in arms] == [
        "none",
        "none angle:1.1",
        "none angle:1.2:512",
        "sample clip:1",
        "sample clip:1 angle:1.1",
        "sample clip:1 angle:1.2:512",
    ]
    assert arms[0].pace() is None
    assert [getattr(arm.pace(), "cap", 0) for arm in arms[1:3]] == [None, 512]
    assert arms[2].columns["pacing"] == "angle:1.2:512"


def test_clusters_need_a_layer_to_look_at() -> None:
    (arm,), _ = arms_of("cluster:64:per", "scarcity:3", "0")
    assert arm.grouping("dense").label == "clusters(per=64, features='dense')"
    with pytest.raises(ValueError, match="the task names no layer"):
        arm.grouping()


@pytest.mark.parametrize("word", ["bogus", "angle", "angle:1.1:5:6", "angle:0.5", "none:1", ""])
def test_pacings_that_are_none(word: str) -> None:
    with pytest.raises(ValueError, match=r"pacing|by_angle"):
        arms_of("sample", "clip:1", "0", word)


def test_noise_without_a_bound_is_skipped_with_its_reason() -> None:
    arms, skipped = arms_of("none,sample", "clip:1,min", "0,1")
    assert [arm.label for arm in arms] == [
        "none",
        "sample clip:1",
        "sample clip:1 noise 1",
        "sample min",
    ]
    assert len(skipped) == 2
    assert skipped[0].startswith("none noise 1: ")
    assert skipped[1].startswith("sample min noise 1: ")
    assert all("no scale" in line for line in skipped)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("bogus", "min", "0"), "Unknown grouping 'bogus'"),
        (("sample:2", "min", "0"), "Unknown grouping 'sample:2'"),
        (("microbatch", "min", "0"), "Unknown grouping 'microbatch'"),
        (("microbatch:4:fixed", "min", "0"), "Unknown grouping"),
        (("core:4:random", "min", "0"), "Unknown grouping"),
        (("microbatch:-1", "min", "0"), "Unknown grouping"),
        (("microbatch:0", "min", "0"), "at least 1"),
        (("core:0", "min", "0"), "core"),
        (("sample", "clip", "0"), "Unknown weighting 'clip'"),
        (("sample", "clip:1:2", "0"), "Unknown weighting"),
        (("sample", "min:1", "0"), "Unknown weighting"),
        (("sample", "clip:x", "0"), "'x' is not a number"),
        (("sample", "clip:nan", "0"), "'nan' is not finite"),
        (("sample", "clip:0", "0"), "positive"),
        (("sample", "quantile:1.5", "0"), "quantile"),
        (("sample", "clip:1", "-1"), "noise -1"),
        (("sample", "clip:1", "inf"), "'inf' is not finite"),
        (("sample", "clip:1", "much"), "'much' is not a number"),
        (("", "clip:1", "0"), "--grouping is empty"),
        (("sample", " , ", "0"), "--weighting is empty"),
        (("none", "clip:1", "1"), "No combination"),
    ],
)
def test_what_is_no_arm_is_refused(words: tuple[str, str, str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        arms_of(*words)


def test_no_arm_is_there_twice() -> None:
    assert labels("none,sample,none", "clip:1,clip:1.0") == ["none", "sample clip:1"]
    lists = (("none", "min", "0"), ("none,sample", "clip:1", "0,1"))
    arms, skipped = together(lists)
    assert [arm.label for arm in arms] == ["none", "sample clip:1", "sample clip:1 noise 1"]
    assert len(skipped) == 1


def test_columns_tell_arms_apart() -> None:
    words = "clip:0.1,clip:1,per_layer:1,normalize:0.1,normalize:1,quantile:0.5,quantile:0.9,min"
    arms, _ = arms_of("sample,microbatch:4,microbatch:4:random,core:4,core:4:fixed", words, "0")
    rows = [tuple(arm.columns.items()) for arm in arms]
    assert len(arms) == 40
    assert len(set(rows)) == 40


def test_the_tasks_own_list_is_for_who_asks_for_nothing() -> None:
    assert lists_of("digits", None, None, None) == DEFAULTS["digits"]
    assert lists_of("own:task", None, None, None) == (("none,sample", "clip:1.0", "0"),)
    assert lists_of("digits", None, None, "1") == (("none,sample", "clip:1.0", "1"),)
    assert lists_of("digits", "", None, None) == (("", "clip:1.0", "0"),)


@pytest.mark.parametrize("task", DEFAULTS)
def test_default_arms_make_sense(task: str) -> None:
    arms, skipped = together(DEFAULTS[task])
    assert not skipped
    assert arms[0].label == "none"


def test_an_arm_stands_for_its_grouping_and_weighting() -> None:
    found = {
        label: arm
        for arm in arms_of("none,sample,microbatch:4:random,core:8:fixed", "clip:2,min", "0")[0]
        for label in [arm.label]
    }
    assert found["none"].rule().label == "uniform()"
    assert found["none"].grouping().minimum == 1
    assert found["sample clip:2"].rule().label == "clip(2)"
    assert found["microbatch:4:random min"].grouping().kind == "microbatch"
    assert found["core:8:fixed min"].grouping().minimum == 8
    assert found["core:8:fixed min"].grouping().facts.radii is not None


def test_no_clipping_is_plain_sgd() -> None:
    arm = Arm("none", None, "position", "none", None, 0.0)
    assert arm.columns == {
        "clip": "none",
        "weighting": "none",
        "C": None,
        "sigma": 0.0,
        "mb": None,
        "slots": "position",
        "pacing": "none",
    }
