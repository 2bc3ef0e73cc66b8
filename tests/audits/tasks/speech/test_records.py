import numpy as np
import pytest
import torch
from torch import nn

from audits.tasks.speech import alphabet, records
from audits.tasks.speech.loss import record_losses
from audits.tasks.speech.mel import Mel
from tests.audits.tasks.speech import sounds

pytest.importorskip("torchaudio")


class Even(nn.Module):
    """All letters are as likely at all times."""

    def forward(self, features: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        shape = (len(features), int(records.halved(frames).max()), alphabet.SIZE)
        return torch.zeros(shape).log_softmax(2)


def test_batches_are_padded_and_say_how_long_each_record_is() -> None:
    made = [(torch.ones(3, 2), torch.tensor([4])), (torch.ones(5, 2), torch.tensor([7, 8]))]
    batch = records.collate(made)
    assert batch.features.shape == (2, 5, 2)
    assert batch.features.sum((1, 2)).tolist() == [6, 10]
    assert batch.features[0, 3:].abs().sum() == 0
    assert batch.frames.tolist() == [3, 5]
    assert batch.labels.tolist() == [[4, 0], [7, 8]]
    assert batch.lengths.tolist() == [1, 2]


def test_subsampling_rounds_up() -> None:
    frames = torch.arange(1, 9)
    conv = nn.Conv1d(1, 1, 5, stride=2, padding=2)
    assert records.halved(frames).tolist() == [conv(torch.ones(1, 1, t)).shape[2] for t in frames]


@pytest.mark.parametrize("text", ["a", "aa", "abc", "book keeper", "aaaa"])
def test_least_frames_are_those_that_an_alignment_needs(text: str) -> None:
    labels = alphabet.labels(text)
    least = records.least_frames(labels)
    alone = (torch.zeros(least, 2), labels)
    assert torch.isfinite(record_losses(Even(), records.collate([alone]))).all()
    shorter = (torch.zeros(least - 1, 2), labels)
    with pytest.raises(ValueError, match=f"{least} frames"):
        record_losses(Even(), records.collate([shorter, alone]))


def test_short_waveforms_end_in_silence_and_others_stay() -> None:
    mel = Mel(sounds.RATE)
    record = records.recorder(mel)
    short, whole = (sounds.tone(400, 0.1), "a good book"), (sounds.tone(400, 2.0), "a good book")
    assert records.short(mel, short)
    assert not records.short(mel, whole)
    features, labels = record(short)
    assert len(features) == records.least_frames(labels) == 2 * (11 + 2) - 1
    longer = np.pad(short[0], (0, mel.samples(len(features)) - len(short[0])))
    assert torch.equal(features, mel(longer))
    assert torch.equal(record(whole)[0], mel(whole[0]))


def test_records_tell_their_transcripts() -> None:
    made = records.Utterances(map(records.recorder(Mel(sounds.RATE)), sounds.utterances(3, 0)))
    assert [records.transcript(r) for r in made.records] == [t for _, t in sounds.utterances(3, 0)]
    assert len(made) == 3
    assert made[1][0].dtype == torch.float32
    assert made[1][1].dtype == torch.int64
