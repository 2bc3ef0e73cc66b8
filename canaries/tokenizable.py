"""Whether a tokenizer can carry the canaries: each comes back, and all are equally long."""

from collections.abc import Callable, Mapping, Sequence


def check_tokenizable(
    texts: Mapping[str, str],
    encode: Callable[[str], Sequence[int]],
    decode: Callable[[Sequence[int]], str],
    vocabulary: int,
) -> int:
    """The number of tokens that every one of the texts has.

    A loss summed over more tokens is larger, whatever the model remembers: with secrets of 8
    tokens and references of 8 to 10, an untrained model shows a mean exposure of 1.86 bits where
    1.44 is chance. Hence one count for all texts of a family, references included.

    Args:
        texts: Canary id -> text, canaries and references of one family.
        encode: Text -> token ids, without special tokens.
        decode: Token ids -> text.
        vocabulary: The number of token ids that the model embeds, 0 to vocabulary - 1.

    Raises:
        ValueError: If there is no text; or, naming the canary, if a token is outside the
            vocabulary, the text does not survive encoding and decoding, or its number of tokens
            differs from the first canary's.
    """
    if not texts:
        raise ValueError("found no text to tokenize; pass the canaries and their references")
    counts: dict[str, int] = {}
    for name, text in texts.items():
        tokens = encode(text)
        if outside := [token for token in tokens if not 0 <= token < vocabulary]:
            raise ValueError(
                f"canary {name!r}: found token {outside[0]}, expected 0 to {vocabulary - 1}; "
                "use the tokenizer that the model was made for"
            )
        if (back := decode(tokens)) != text:
            raise ValueError(
                f"canary {name!r}: found {back!r} after encoding and decoding, expected {text!r}; "
                "turn off special tokens and normalization, or choose letters the tokenizer keeps"
            )
        counts[name] = len(tokens)
    first = next(iter(counts))
    for name, found in counts.items():
        if found != counts[first]:
            raise ValueError(
                f"canary {name!r}: found {found} tokens, canary {first!r} has {counts[first]}; "
                "choose an alphabet whose letters are single tokens in this template"
            )
    return counts[first]
