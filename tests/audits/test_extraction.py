"""Best-first search finds what enumeration finds, and says what it has not found."""

import heapq
import itertools
import math
import time
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from audits.enumeration import enumerate_losses, index_of, space_size
from audits.exposure import exact
from audits.extraction import Search, search
from audits.tasks import text
from canaries import SecretFormat, text_records

VOCABULARY = 12
MIXED = [5, [1, 2, 3], 7, 8, [9, 4], [0, 11, 10, 2], 6, range(12)]


class Recurrent(nn.Module):
    """A tiny language model in double precision, where no two fillings tie by rounding."""

    def __init__(self, sharpness: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCABULARY, 8)
        self.recur = nn.GRU(8, 16, batch_first=True)
        self.head = nn.Linear(16, VOCABULARY)
        self.double()
        self.sharpness = sharpness
        self.seen: list[tuple[int, ...]] = []
        self.batches: list[int] = []

    def forward(self, tokens: Tensor) -> Tensor:
        self.seen += map(tuple, tokens.tolist())
        self.batches.append(len(tokens))
        hidden, _ = self.recur(self.embed(tokens))
        return (self.sharpness * self.head(hidden[:, -1])).log_softmax(-1)


def trained(secret: Sequence[int], prefix: Sequence[int], steps: int) -> Recurrent:
    """A model that has learned one filling of a format of holes only."""
    model = Recurrent(1.0)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(steps):
        loss = torch.zeros((), dtype=torch.float64)
        for i, token in enumerate(secret):
            loss = loss - model(torch.tensor([[*prefix, *secret[:i]]]))[0, token]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def fillings_of(slots: Sequence) -> list[tuple[int, ...]]:
    return list(itertools.product(*[slot for slot in slots if not isinstance(slot, int)]))


def heap_search(model: nn.Module, prefix: list[int], slots: Sequence, many: int) -> list:
    """The textbook: pop the likeliest prefix, push what it may become, one model call each."""
    heap: list[tuple[float, tuple[int, ...], tuple[int, ...]]] = [(0.0, (), ())]
    found: list = []
    while heap and len(found) < many:
        loss, filling, tokens = heapq.heappop(heap)
        if len(tokens) == len(slots):
            found.append(filling)
            continue
        slot = slots[len(tokens)]
        if isinstance(slot, int):
            heapq.heappush(heap, (loss, filling, (*tokens, slot)))
            continue
        with torch.no_grad():
            steps = model(torch.tensor([[*prefix, *tokens]]))[0]
        for token in slot:
            heapq.heappush(heap, (loss - float(steps[token]), (*filling, token), (*tokens, token)))
    return found


def drawn(slots: Sequence, many: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(1)
    alphabets = [list(slot) for slot in slots if not isinstance(slot, int)]
    return [tuple(int(rng.choice(a)) for a in alphabets) for _ in range(many)]


@pytest.mark.parametrize("batch", [1, 7, 1024])
@pytest.mark.parametrize("slots", [MIXED, [[4]], [[1, 2, 3]], [range(10), 11, *[range(10)] * 2]])
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 20.0])
def test_against_the_textbook_and_enumeration(slots: list, batch: int, sharpness: float) -> None:
    model, secrets = Recurrent(sharpness), drawn(slots, 20)
    every = enumerate_losses(model, [2, 9], slots).numpy()
    mine = every[[index_of(slots, secret) for secret in secrets]]
    model.seen.clear()
    found = search(model, [2, 9], slots, secrets, most_likely=30, batch=batch)
    assert found.reasons == () and found.exact.all()
    assert found.lowest.tolist() == [(every <= loss).sum() for loss in mine]
    assert found.exposure().bits.tolist() == exact(mine, every).bits.tolist()
    assert [*map(tuple, found.fillings.tolist())] == heap_search(model, [2, 9], slots, 30)
    assert found.losses == pytest.approx(np.sort(every)[:30], abs=1e-12)
    alone = search(model, [2, 9], slots, most_likely=30, batch=batch)
    assert alone.fillings.tolist() == found.fillings.tolist() and alone.lowest.shape == (0,)


@pytest.mark.parametrize("steps", [0, 4, 40])
def test_exact_ranks_in_a_space_of_100_000(steps: int) -> None:
    slots, secret = [range(10)] * 5, (3, 1, 4, 1, 5)
    model, secrets = trained(secret, [2], steps), [secret, *drawn(slots, 40)]
    every = enumerate_losses(model, [2], slots).numpy()
    mine = every[[index_of(slots, one) for one in secrets]]
    found = search(model, [2], slots, secrets, most_likely=500)
    assert found.exact.all() and found.space == 10**5
    assert found.exposure().bits.tolist() == exact(mine, every).bits.tolist()
    order = np.argsort(every)[:500]
    assert [index_of(slots, filling) for filling in found.fillings.tolist()] == order.tolist()
    if steps == 40:
        assert found.lowest[0] == 1 and found.exposure().bits[0] == math.log2(10**5)


def test_no_prefix_is_seen_twice_nor_more_than_a_batch_at_once() -> None:
    model, slots = Recurrent(2.0), [range(10)] * 4
    found = search(model, [2], slots, drawn(slots, 1), most_likely=20, batch=64)
    assert len(model.seen) == len(set(model.seen)) == found.evaluations < 1111
    assert max(model.batches) <= 64


def test_only_what_can_come_before_is_seen() -> None:
    slots, secret = [range(10)] * 5, (3, 1, 4, 1, 5)
    model = trained(secret, [2], 40)
    model.seen.clear()
    found = search(model, [2], slots, [secret])
    assert found.evaluations == 5  # its own prefixes, and none beside
    assert found.fillings.tolist() == [list(secret)]
    assert len(search(model, [2], slots, [secret], most_likely=0).fillings) == 0


MODELS = {sharpness: Recurrent(sharpness) for sharpness in (0.1, 2.0)}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(MODELS)),
    st.integers(1, 1200),
    st.integers(1, 12_000),
    st.integers(1, 300),
    st.integers(0, 40),
)
def test_what_a_budget_leaves_is_bounded(
    sharpness: float, evaluations: int, frontier: int, batch: int, many: int
) -> None:
    model, slots = MODELS[sharpness], [range(10)] * 4
    every = enumerate_losses(model, [2], slots).numpy()
    secrets = drawn(slots, 15)
    found = search(model, [2], slots, secrets, many, evaluations, batch, frontier)
    mine = every[[index_of(slots, secret) for secret in secrets]]
    ranks = (every[None] <= mine[:, None]).sum(1)
    assert (found.lowest >= 1).all() and (found.highest <= 10**4).all()
    assert (found.lowest <= ranks).all() and (ranks <= found.highest).all()
    assert found.evaluations <= evaluations + 1 + 15 * 3
    listed = [index_of(slots, filling) for filling in found.fillings.tolist()]
    assert listed == np.argsort(every)[: len(listed)].tolist()
    complete = found.exact.all() and len(listed) == many
    assert complete == (found.reasons == ())
    value, truth = found.exposure(), np.log2(10**4 / ranks)
    assert (value.low <= truth + 1e-9).all() and (truth <= value.high + 1e-9).all()
    assert (value.bits == value.low).all() and (ranks / 10**4 <= value.p_value).all()
    assert value.valid == found.exact.all() == (value.reasons == ())


def test_a_small_memory_ends_the_search() -> None:
    model, slots = Recurrent(0.1), [range(10)] * 4
    found = search(model, [2], slots, drawn(slots, 5), frontier=200)
    assert "no room in frontier=200" in found.reasons[0]
    assert not found.exact.all() and found.evaluations < 100
    found = search(model, [2], slots, drawn(slots, 5), evaluations=30)
    assert "30 evaluations were spent" in found.reasons[0]


def test_the_end_of_a_budget_goes_into_whole_fillings() -> None:
    # Breadth alone would see prefixes of three holes and none of five.
    secrets = [(7, 7, 7, 7, 7), (0, 9, 1, 8, 2)]
    found = search(Recurrent(0.1), [2], [range(10)] * 5, secrets, evaluations=400)
    assert (found.lowest > 100).all() and not found.exact.any()


def uniform(tokens: Tensor) -> Tensor:
    return torch.zeros(len(tokens), VOCABULARY).log_softmax(-1)


def certain(tokens: Tensor) -> Tensor:
    """After token 0 comes 0 or 1 alike, never anything else; after others everything alike."""
    allowed = torch.zeros(len(tokens), VOCABULARY)
    allowed[tokens[:, -1] == 0, 2:] = -math.inf
    return allowed.log_softmax(-1)


def repeating(tokens: Tensor) -> Tensor:
    """After 10 comes anything; after anything else that again, for certain."""
    allowed = torch.full((len(tokens), VOCABULARY), -math.inf)
    allowed.scatter_(1, tokens[:, -1:], 0.0)
    allowed[tokens[:, -1] == 10] = 0.0
    return allowed.log_softmax(-1)


def test_prefixes_that_wait_may_become_ties() -> None:
    found = search(repeating, [10], [range(10)] * 3, [(3, 3, 3)], most_likely=0, evaluations=1)
    assert found.lowest[0] <= 2 and found.highest[0] >= 10
    found = search(repeating, [10], [range(10)] * 3, [(3, 3, 3), (3, 3, 4)], most_likely=10)
    assert found.lowest.tolist() == found.highest.tolist() == [10, 1000]
    assert found.fillings.tolist() == [[a, a, a] for a in range(10)]


def test_ties_rank_worst_and_the_impossible_last() -> None:
    slots = [range(10)] * 3
    tied = search(uniform, [2], slots, [(1, 2, 3)], most_likely=4)
    assert tied.lowest == tied.highest == 1000
    assert tied.exposure().bits == 0 and tied.exposure().p_value == 1
    assert tied.fillings.tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 0, 3]]
    secrets = [(0, 0, 0), (0, 1, 5), (0, 2, 0), (4, 5, 6)]
    found = search(certain, [0], [range(10)] * 3, secrets, most_likely=1000)
    every = enumerate_losses(certain, [0], slots).numpy()
    mine = every[[index_of(slots, secret) for secret in secrets]]
    assert found.exact.all() and found.reasons == ()
    assert found.lowest.tolist() == [(every <= loss).sum() for loss in mine]
    assert found.lowest[2] == found.lowest[3] == 1000
    assert found.losses == pytest.approx(np.sort(every))
    assert sorted(map(tuple, found.fillings.tolist())) == fillings_of(slots)


def test_a_space_beyond_64_bits() -> None:
    secret = [7, *[3, 1, 4, 1, 5, 9, 2, 6, 5, 3] * 3]

    def planted(tokens: Tensor) -> Tensor:
        place = tokens.shape[1] - 1
        scores = torch.full((len(tokens), VOCABULARY), -place / 10)  # later mistakes cost more
        scores[:, secret[place]] = 12.0
        return scores.log_softmax(-1)

    slots = [range(10)] * 31
    near = [*secret[:-1], 4]
    secrets = [secret, near, [8] * 31]
    found = search(planted, [0], slots, secrets, evaluations=8000, batch=64)
    assert found.space == 10**31 > 2**63
    assert found.lowest[0] == found.highest[0] == 1
    # Behind all that differ from the secret in one place only; its own place costs most.
    assert found.lowest[1] == found.highest[1] == 1 + 31 * 9
    value = found.exposure()
    assert value.bits[0] == value.ceiling == pytest.approx(31 * math.log2(10))
    assert value.high[2] < value.ceiling and value.low[2] < 1


DIGITS = SecretFormat("The random number is {}{}{}{}{}{}{}{}{}", "0123456789")


@pytest.fixture(scope="module")
def memorizing() -> nn.Module:
    """The text task's model after 60 steps on prose with a nine-digit number in every batch."""
    torch.set_num_threads(1)
    prose = text.load(12_000)
    task = text.task({}, prose)
    model = task.model(0)
    optimizer = task.optimizer(model.parameters(), 3e-3)
    row, _ = text_records(DIGITS, np.array([[2, 8, 1, 2, 6, 5, 0, 1, 7]]), text.LENGTH)
    copies = row.repeat(6, 1)
    for step in range(60):
        tokens = prose.train.tensors[0][(step * 26) % 140 :][:26]
        batch = torch.cat([tokens, copies])
        optimizer.zero_grad()
        task.losses(model, (batch, batch != 0)).mean().backward()
        optimizer.step()
    return model.eval()


def nine_digits(model: nn.Module, secrets: list[str], evaluations: int, many: int = 1) -> Search:
    return search(
        lambda prefixes: text.next_log_probabilities(model, prefixes),
        list(DIGITS.encode([0] * 9)[: DIGITS.offsets[0]]),
        [b"0123456789"] * 9,
        [list(secret.encode()) for secret in secrets],
        many,
        evaluations,
    )


def test_a_memorized_secret_is_first_of_a_thousand_million(memorizing: nn.Module) -> None:
    started = time.perf_counter()
    found = nine_digits(memorizing, ["281265017"], 20_000)
    assert time.perf_counter() - started < 5  # seconds; enumeration takes half a day
    assert bytes(found.fillings[0].tolist()) == b"281265017"
    assert found.evaluations <= 1000
    value = found.exposure()
    assert value.valid and value.bits == value.ceiling == pytest.approx(29.897, abs=1e-3)
    # An attacker who knows no secret extracts it all the same.
    alone = nine_digits(memorizing, [], 20_000)
    assert bytes(alone.fillings[0].tolist()) == b"281265017"


@pytest.mark.parametrize("seed", [0, 1])
def test_others_of_a_thousand_million_are_bounded(memorizing: nn.Module, seed: int) -> None:
    fresh = text.task({}, text.load(12_000)).model(seed).eval()
    found = nine_digits(fresh, ["281265017", "600000001"], 1500)
    assert (found.lowest > 100).all() and not found.exact.any()
    value = found.exposure()
    assert (value.high < value.ceiling - math.log2(100)).all() and (value.bits >= 0).all()
    assert not value.valid and "2 of 2 ranks are not exact" in value.reasons[0]
    # Beside a memorized one, whose rank stays exact.
    both = nine_digits(memorizing, ["281265017", "600000001"], 1500)
    assert both.exact.tolist() == [True, False]
    assert both.lowest[0] == 1 and both.lowest[1] > 100


@pytest.mark.parametrize("number", range(4))
def test_search_and_enumeration_of_the_text_task(memorizing: nn.Module, number: int) -> None:
    # In single precision the same prefix differs in its last bits from batch to batch.
    slots = [*b"2812", *[b"0123456789"] * 4]
    prefix = list(DIGITS.encode([0] * 9)[: DIGITS.offsets[0]])

    def log_probs(prefixes: Tensor) -> Tensor:
        return text.next_log_probabilities(memorizing, prefixes)

    secret = [b"6501", b"6502", b"1234", b"9999"][number]
    every = enumerate_losses(log_probs, prefix, slots).numpy()
    loss = every[index_of(slots, secret)]
    found = search(log_probs, prefix, slots, [secret])
    assert found.exact.all() and space_size(slots) == found.space == 10**4
    assert (every < loss - 1e-4).sum() <= found.lowest[0] <= (every < loss + 1e-4).sum()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: search(m, [], [[3, 4]]), "prefix is empty"),
        (lambda m: search(m, [1], [3]), "1 slots has no hole"),
        (lambda m: search(m, [1], [[3, 3]]), r"Hole 0 takes \[3, 3\]"),
        (lambda m: search(m, [1], [[3, 4]], [[5]]), "Hole 0 cannot take token 5"),
        (lambda m: search(m, [1], [[3, 4]], [[3, 4]]), "filling has 2 tokens"),
        (lambda m: search(m, [1], [[3, 4]], most_likely=-1), "most_likely is -1"),
        (lambda m: search(m, [1], [[3, 4]], evaluations=0), "evaluations is 0"),
        (lambda m: search(m, [1], [[3, 4]], batch=0), "batch is 0"),
        (lambda m: search(m, [1], [[3, 4]], frontier=0), "frontier is 0"),
        (lambda m: search(m, [1], [range(12)] * 290), r"more than 1e\+300 fillings"),
        (lambda m: search(m, [1], [[3, 40]]), r"shape \(1, 12\).*V >= 41"),
        (lambda m: search(lambda t: m(t) * math.nan, [1], [[3, 4]]), "NaN"),
        (lambda m: search(lambda t: m(t) + 9, [1], [[3, 4]]), "apply log_softmax"),
        (lambda m: search(m, [1], [[3, 4]]).exposure(), "was for no secrets"),
    ],
)
def test_impossible_arguments(call, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call(Recurrent(1.0))
