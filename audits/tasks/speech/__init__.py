"""Task speech: a CTC network on utterances with transcripts.

`corpus_of(read(path))` makes the data of a folder, `task(corpus, families)` the task.
"""

from audits.tasks.speech.augmentation import SpecAugment
from audits.tasks.speech.conformer import ConformerCTC
from audits.tasks.speech.convolutional import ConvCTC
from audits.tasks.speech.corpus import Corpus
from audits.tasks.speech.decoding import beam, greedy, transcribe
from audits.tasks.speech.division import corpus_of
from audits.tasks.speech.loss import record_losses
from audits.tasks.speech.mistakes import cer, record_errors, wer
from audits.tasks.speech.recordings import Recording, Recordings, read
from audits.tasks.speech.records import Record, Utterance, collate
from audits.tasks.speech.task import task

__all__ = [
    "ConformerCTC",
    "ConvCTC",
    "Corpus",
    "Record",
    "Recording",
    "Recordings",
    "SpecAugment",
    "Utterance",
    "beam",
    "cer",
    "collate",
    "corpus_of",
    "greedy",
    "read",
    "record_errors",
    "record_losses",
    "task",
    "transcribe",
    "wer",
]
