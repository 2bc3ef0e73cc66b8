"""Secure streams: the bits are those of AES, and the key stays where it is."""

from __future__ import annotations

import copy
import hashlib
import hmac
import io
import math
import os
import pickle

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy import stats
from torch.utils.data import DataLoader, Dataset

from dpclip import PrivacyEngine
from dpclip.secure import Secure, secure

KEY = bytes(range(32))
ALPHA = 1e-3
PIECE = 16384


class Twin:
    """The slow, obvious twin: blocks of AES one by one, normal numbers one by one."""

    def __init__(self, purpose: str) -> None:
        self.key = hmac.digest(KEY, f"dpclip {purpose}".encode() + b"\x01", hashlib.sha256)

    @staticmethod
    def blocks(key: bytes, first: int, count: int) -> bytes:
        numbers = b"".join((first + i).to_bytes(16, "big") for i in range(count))
        return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(numbers)

    def call(self) -> bytes:
        """Returns the key of the next call."""
        both = self.blocks(self.key, 0, 4)
        self.key = both[:32]
        return both[32:]

    def words(self, key: bytes, count: int, piece: int = 0) -> list[int]:
        found = self.blocks(key, piece << 64, math.ceil(count / 2))
        return np.frombuffer(found, np.uint64)[:count].tolist()

    def normal(self, key: bytes, piece: int, count: int) -> list[float]:
        half = math.ceil(count / 2)
        words = self.words(key, 8 * half, piece)
        found = []
        for wave in (math.cos, math.sin):
            for i in range(half):
                terms = 0.0
                for term in range(4):
                    signed = [words[term * half + i], words[(4 + term) * half + i]]
                    signed = [w - 2**64 if w >= 2**63 else w for w in signed]
                    length = math.sqrt(-2 * math.log(0.5 - (signed[0] >> 11) / 2**53))
                    terms += length * wave(signed[1] / 2**63 * math.pi)
                found.append(terms / 2)
        return found[:count]


def test_aes_is_aes():
    """FIPS 197: the block of zeros under the key of zeros."""
    assert Twin.blocks(bytes(32), 0, 1).hex() == "dc95c078a2408989ad48a21492842087"


@pytest.mark.parametrize("purpose", ["draws", "loose", "noise"])
def test_streams_are_as_their_twin(purpose):
    stream, twin = getattr(secure(KEY), purpose), Twin(purpose)
    for count in (1, 5, 70_000):
        wanted = [(word >> 11) / 2**53 for word in twin.words(twin.call(), count)]
        assert stream.uniform(count).tolist() == wanted
    wanted = [word % 10 for word in twin.words(twin.call(), 50)]
    assert stream.integers(10, 50).tolist() == wanted
    words = twin.words(twin.call(), 50)
    assert stream.order(50).tolist() == sorted(range(50), key=words.__getitem__)


@pytest.mark.parametrize("count", [1, 2, 7, PIECE + 5])
def test_normal_numbers_are_as_their_twin(count):
    stream, twin = secure(KEY).noise, Twin("noise")
    for _ in range(2):
        key = twin.call()
        wanted = twin.normal(key, 0, min(count, PIECE)) + twin.normal(key, 1, count - PIECE)
        found = stream.normal(torch.empty(count), 3.0)
        assert torch.allclose(found, 3.0 * torch.tensor(wanted), rtol=1e-12, atol=1e-14)


def test_workers_have_a_seed_of_their_own():
    assert secure(KEY).workers == int.from_bytes(Twin("workers").key[:4])
    assert secure(KEY).workers != secure(bytes(32)).workers


def test_integers_favour_nothing():
    """2^64 is two and two thirds of this many numbers: the first two thirds would come oftener."""
    high = 3 * 2**61
    thirds = secure(KEY).draws.integers(high, 30_000) // 2**61
    assert stats.chisquare(torch.bincount(thirds)).pvalue > ALPHA
    assert secure(KEY).draws.integers(2**63, 3).min() >= 0


def test_equal_words_are_drawn_again(monkeypatch):
    given = iter(np.array([[3, 9, 3], [2, 1, 0]], np.uint64))
    monkeypatch.setattr(Secure, "_words", lambda *_: next(given))
    assert secure(KEY).draws.order(3).tolist() == [2, 1, 0]


def test_the_number_of_threads_changes_nothing():
    like, found = torch.empty(5 * PIECE + 3, dtype=torch.float32), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(secure(KEY).noise.normal(like, 2.0))
    torch.set_num_threads(1)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_it_is_rounded_once():
    wide = secure(KEY).noise.normal(torch.empty(1000, dtype=torch.float64), 1 / 3)
    for dtype in (torch.float32, torch.bfloat16):
        like = torch.empty(1000, dtype=dtype)
        assert torch.equal(secure(KEY).noise.normal(like, 1 / 3), wide.to(dtype))


def test_keys_are_told_apart():
    assert secure(KEY).draws.uniform(9).tolist() == secure(KEY).draws.uniform(9).tolist()
    other = secure(KEY[:-1] + b"\x00")
    assert not (secure(KEY).draws.uniform(9) == other.draws.uniform(9)).any()
    for length in (0, 16, 33):
        with pytest.raises(ValueError, match=rf"has {length} bytes, expected 32. Take secrets"):
            secure(bytes(length))


@pytest.mark.parametrize("leak", [pickle.dumps, copy.copy, copy.deepcopy])
def test_streams_are_not_copied(leak):
    for stream in secure(KEY)[:3]:
        with pytest.raises(TypeError, match="can be neither pickled nor copied"):
            leak(stream)


def test_nobody_is_shown_the_key():
    streams = secure(KEY)
    assert repr(streams.noise) == "Secure()" and not hasattr(streams.noise, "__dict__")
    for key in (KEY, *(Twin(p).key for p in ("draws", "loose", "noise"))):
        assert repr(key)[2:-1] not in repr(streams) and key.hex() not in repr(streams)


def test_nothing_is_written_down():
    for stream in secure(KEY)[:3]:
        assert stream.state() is None
        with pytest.raises(ValueError, match="cannot continue from a state"):
            stream.restore(torch.zeros(3, dtype=torch.uint8))


def test_another_process_draws_nothing(monkeypatch):
    stream = secure(KEY).noise
    here = os.getpid()
    monkeypatch.setattr("os.getpid", lambda: here + 1)
    like = torch.empty(3)
    for draw in (
        lambda: stream.uniform(3),
        lambda: stream.integers(3, 3),
        lambda: stream.order(3),
        lambda: stream.normal(like, 1.0),
    ):
        with pytest.raises(RuntimeError, match=rf"process {here} was drawn from in .*{here + 1}"):
            draw()


class Numbers(Dataset):
    """Record i is the number i."""

    def __len__(self):
        return 40

    def __getitem__(self, i):
        return torch.full((6,), float(i)), i % 5


class Drawing(Numbers):
    """Records are -1 where a stream may not be drawn from."""

    def __init__(self, stream):
        self.stream = stream

    def __getitem__(self, i):
        try:
            self.stream.uniform(1)
        except RuntimeError:
            i = -1
        return super().__getitem__(i)


def batches(kit, monkeypatch, workers, streams, data):
    """Returns what two epochs of a private loader yield, and the loader."""
    monkeypatch.setattr(PrivacyEngine, "_streams", lambda *_: streams)
    context = "fork" if workers else None
    loader = DataLoader(data, batch_size=8, num_workers=workers, multiprocessing_context=context)
    model = kit.Mlp()
    _, _, private = PrivacyEngine().make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=loader,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
    )
    return [x[:, 0].tolist() for _ in range(2) for x, _ in private], private


def test_workers_draw_nothing(kit, monkeypatch):
    """A draw in a worker would raise; and what they fetch is what is drawn without them."""
    here, _ = batches(kit, monkeypatch, 0, secure(KEY), Numbers())
    assert batches(kit, monkeypatch, 2, secure(KEY), Numbers())[0] == here
    assert len({tuple(batch) for batch in here}) == len(here)


def test_a_worker_could_not_draw(kit, monkeypatch):
    streams = secure(KEY)
    for workers, drawn in ((0, True), (1, False)):
        found, _ = batches(kit, monkeypatch, workers, streams, Drawing(streams.loose))
        assert {x >= 0 for batch in found for x in batch} == {drawn}


def test_workers_are_sent_nothing(kit, monkeypatch):
    """What a spawned worker gets can be pickled, so no stream is in it."""
    _, loader = batches(kit, monkeypatch, 0, secure(KEY), Numbers())
    pickle.dumps((loader.dataset, loader.collate_fn, loader.worker_init_fn))


def engine_of(kit, step=True, **how):
    """Returns an engine after one step, and the noise of that step in units of its std."""
    engine, model = PrivacyEngine(**how), kit.Mlp()
    _, optimizer, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.0),
        data_loader=DataLoader(Numbers(), batch_size=8),
        noise_multiplier=2.0,
        max_grad_norm=3.0,
    )
    if not step:
        return engine
    x, _ = next(iter(loader))
    (0.0 * model(x)).sum(1).mean().backward()
    optimizer.step()
    return engine, torch.cat([p.grad.flatten() for p in model.parameters()]) / (2.0 * 3.0 / 8)


def test_an_engine_that_is_asked_for_secure_randomness_has_it(kit):
    """The key is a new one in each run: so the threshold is 1e-6."""
    engine, noise = engine_of(kit, secure=True)
    assert all(type(stream) is Secure for stream in engine._streams_made[:3])
    assert stats.kstest(noise.numpy(), "norm").pvalue > 1e-6
    assert not (engine_of(kit, secure=True)[1] == noise).any()
    assert "secure" in engine.guarantee


def test_seeded_engines_are_not_called_secure(kit):
    engine, _ = engine_of(kit, seed=0)
    assert not any(stream.secure for stream in engine._streams_made[:3])
    assert "secure" not in engine.guarantee
    with pytest.raises(ValueError, match="secure=True with seed=0"):
        PrivacyEngine(seed=0, secure=True)


def test_a_checkpoint_holds_no_key(kit):
    engine, _ = engine_of(kit, secure=True)
    state, written = engine.state_dict(), io.BytesIO()
    torch.save(state, written)
    for stream in engine._streams_made[:3]:
        assert len(stream._key) == 32 and stream._key not in written.getvalue()
    again = engine_of(kit, step=False, secure=True)
    again.load_state_dict(state)
    assert again.get_epsilon(1e-5) == engine.get_epsilon(1e-5) > 0
    with pytest.raises(ValueError, match="Build PrivacyEngine"):
        again.load_state_dict(engine_of(kit, seed=0)[0].state_dict())
