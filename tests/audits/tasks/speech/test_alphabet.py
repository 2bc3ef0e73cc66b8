import pytest

from audits.tasks.speech import alphabet


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("THERE'S IRON", "there's iron"),
        ("  Well-known,  words. ", "well known words"),
        ("caf\u00e9 \u201cna\u00efve\u201d don\u2019t", "cafe naive don't"),
        ("a\tb\nc", "a b c"),
        ("one\u2010two\u2011three\u2012four\u2015five", "one two three four five"),
    ],
)
def test_transcripts_come_in_small_letters(written: str, read: str) -> None:
    assert alphabet.normalised(written) == read
    assert alphabet.normalised(read) == read


@pytest.mark.parametrize("written", ["route 66", "\u043f\u0440\u0438\u0432\u0435\u0442", "a & b"])
def test_what_sounds_unlike_letters_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="expected the letters a to z"):
        alphabet.normalised(written)


@pytest.mark.parametrize("written", ["", "  ", "...", "'"])
def test_a_transcript_without_letters_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="has no letters"):
        alphabet.normalised(written)


def test_labels_are_letters_and_none_is_the_blank() -> None:
    row = alphabet.labels(alphabet.LETTERS)
    assert row.tolist() == list(range(1, alphabet.SIZE))
    assert alphabet.BLANK not in row
    assert alphabet.text(alphabet.labels("don't stop").tolist()) == "don't stop"
    assert alphabet.text(alphabet.labels(" a  b ").tolist()) == "a b"
    with pytest.raises(ValueError, match="'A' has 'A'"):
        alphabet.labels("A")
