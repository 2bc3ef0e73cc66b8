"""The speech tasks on the command line: where recordings and canaries come from."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("torchaudio")
soundfile = pytest.importorskip("soundfile")

from dpclip.cli.speech import speech_task, spoken  # noqa: E402
from dpclip.cli.tasks import plant  # noqa: E402

Call = Callable[..., Any]
RATE = 8_000
TONES = {"high": 900, "low": 300, "mid": 600}


def sung(path: Path, texts: list[str], rate: int = RATE) -> Path:
    """A folder with manifest.tsv of utterances in which each word is a tone of its own.

    No two are alike: each has a noise of its own, which the folder's name decides.
    """
    path.mkdir(parents=True)
    rng = np.random.default_rng(list(path.name.encode()))
    times = np.arange(rate // 5) / rate
    lines = ["path\ttext"]
    for number, text in enumerate(texts):
        tones = [0.3 * np.sin(2 * np.pi * TONES[word] * times) for word in text.split()]
        wave = np.concatenate(tones)
        soundfile.write(path / f"{number}.wav", wave + rng.normal(0, 0.01, len(wave)), rate)
        lines.append(f"{number}.wav\t{text}")
    (path / "manifest.tsv").write_text("\n".join(lines) + "\n")
    return path


def phrases(n: int, seed: int = 0, words: int = 3) -> list[str]:
    picks = np.random.default_rng(seed).integers(3, size=(n, words))
    return [" ".join(sorted(TONES)[i] for i in row) for row in picks]


def config(**changes: Any) -> dict[str, Any]:
    return {
        "task": "speech",
        "data": None,
        "limit": None,
        "references": 6,
        "speeds": "1,2",
        "words": 4,
        "recordings": None,
        "bad": "refuse",
    } | changes


def test_canaries_are_the_users_recordings_sped_up(tmp_path: Path) -> None:
    data = sung(tmp_path / "data", phrases(40))
    own = sung(tmp_path / "own", phrases(40, seed=1))
    task = speech_task(config(data=str(data), recordings=str(own), speeds="1,2.5"))
    assert list(task.families) == ["speed1", "speed2.5"]
    planted = plant(task, 2, 0)
    frames = {
        name: np.mean([len(planted.records[i][0]) for i in planted.members(name)])
        for name in task.families
    }
    assert frames["speed1"] / frames["speed2.5"] == pytest.approx(2.5, rel=0.05)


def test_canaries_at_another_rate_than_the_data_are_refused(tmp_path: Path) -> None:
    data = sung(tmp_path / "data", phrases(40))
    own = sung(tmp_path / "own", phrases(40), rate=16_000)
    with pytest.raises(ValueError, match="are at 16000 Hz, the data at 8000 Hz"):
        speech_task(config(data=str(data), recordings=str(own)))


def test_canaries_that_are_in_the_data_as_well_are_refused(tmp_path: Path) -> None:
    data = sung(tmp_path / "data", phrases(40))
    with pytest.raises(ValueError, match="of 40 are in the data as well"):
        speech_task(config(data=str(data), recordings=str(data)))


def test_recordings_for_canaries_that_are_skipped_are_counted(tmp_path: Path) -> None:
    data, own = sung(tmp_path / "data", phrases(40)), sung(tmp_path / "own", phrases(40, seed=1))
    (own / "3.wav").write_bytes(b"noise")
    task = speech_task(config(data=str(data), recordings=str(own), bad="skip"))
    assert task.facts["canary recordings"] == "39 of your own"
    assert task.facts["canary recordings skipped"].startswith("1 of 40 recordings: 3.wav")


def test_words_are_asked_for_when_canaries_are_drawn(tmp_path: Path) -> None:
    data = sung(tmp_path / "data", ["high"] * 40)
    task = speech_task(config(data=str(data)))  # such as `dpclip train` makes
    with pytest.raises(ValueError, match=r"have 1 different words: .* --recordings PATH"):
        plant(task, 2, 0)


@pytest.mark.parametrize("speeds", ["fast", "1,,2", "2,2", "0", "-1", "nan"])
def test_words_that_are_no_speeds_are_refused(tmp_path: Path, speeds: str) -> None:
    data = sung(tmp_path / "data", phrases(40))
    with pytest.raises(ValueError, match="speed"):
        speech_task(config(data=str(data), speeds=speeds))


def test_bad_recordings_are_skipped_by_choice(tmp_path: Path) -> None:
    data = sung(tmp_path / "data", phrases(40))
    (data / "3.wav").write_bytes(b"noise")
    with pytest.raises(ValueError, match=r"3\.wav"):
        speech_task(config(data=str(data)))
    task = speech_task(config(data=str(data), bad="skip"))
    assert any("1" in fact and "skip" in fact for fact in task.facts.values())
    with pytest.raises(ValueError, match="--bad lose: expected refuse or skip"):
        speech_task(config(data=str(data), bad="lose"))


def test_the_voice_says_the_same_corpus_every_time() -> None:
    pytest.importorskip("espeakng_loader")
    first, second = spoken(5), spoken()
    assert (len(first.train), len(second.train)) == (5, 600)
    for (mine, said), (other, told) in zip(first.train, second.train, strict=False):
        assert said == told
        np.testing.assert_array_equal(mine, other)
    assert {len(text.split()) for _, text in second.train} == {3, 4, 5}
    assert sorted(second.words) == sorted(set(" ".join(t for _, t in second.train).split()))


@pytest.mark.slow
def test_speech_is_audited_with_all_it_measures(call: Call, store: Path, tmp_path: Path) -> None:
    data = sung(tmp_path / "data", phrases(80))
    own = sung(tmp_path / "own", phrases(80, seed=1))
    words = ["audit", "--task", "speech", "--data", str(data), "--recordings", str(own)]
    words += ["--grouping", "none,core:8", "--weighting", "min", "--canaries", "2"]
    words += ["--references", "20", "--epochs", "2", "--speeds", "1,2", "--workers", "0"]
    ended = call(*words, "--store", str(store))
    assert ended.code == 0, ended.err
    table = pd.read_csv(store / "summary.csv")
    assert list(table["clip"]) == ["none", "core"]
    for column in ("wer", "cer", "exp_error", "error_in", "error_out"):
        assert table[column].ge(0).all(), column
    report = (store / "report.md").read_text()
    assert "speed.png" in report
    assert "errors.png" in report
    assert "word error rate" in report


def test_speech_is_trained_without_canaries(call: Call, store: Path, tmp_path: Path) -> None:
    data = sung(tmp_path / "data", phrases(40))
    words = ("--task", "speech_conformer", "--data", str(data), "--epochs", "1")
    ended = call("train", *words, "--store", str(store))
    assert (ended.code, ended.err) == (0, "")
    assert "sample clip:1: wer " in ended.out


@pytest.mark.parametrize("missing", ["torchaudio", "soundfile", "jiwer", "espeakng_loader"])
def test_a_missing_extra_is_told_and_nothing_is_made(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ["--task", "speech"]
    if missing != "espeakng_loader":
        words += ["--data", str(sung(tmp_path / "data", phrases(40)))]
    for name in [n for n in sys.modules if n.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    ended = call("audit", *words, "--store", "new")
    assert ended.code == 4
    assert "pip install" in ended.err
    assert "dpclip[speech]" in ended.err
    assert not (tmp_path / "new").exists()


def test_everything_else_works_without_the_extra() -> None:
    code = (
        "import sys\n"
        "for name in ('torchaudio', 'soundfile', 'jiwer', 'espeakng_loader', 'flashlight'):\n"
        "    sys.modules[name] = None\n"
        "import canaries, reports\n"
        "from dpclip.cli.tasks import plant, task_of\n"
        "task = task_of({'task': 'digits', 'families': None, 'batch_size': None, 'epochs': 1,"
        " 'references': 10})\n"
        "print(len(plant(task, 2, 0).train))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1000
