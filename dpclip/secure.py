"""Cryptographic randomness, for claims: what a stream gave says nothing of what else it gives.

The bits are the keystream of AES-256 in counter mode (NIST SP 800-38A) from OpenSSL, by way of
`cryptography`. No generator is examined by more people; it takes constant time on processors with
AES instructions, has wheels for every Python and for ARM, and comes with MLflow anyway. Of what
was measured it is the fastest: ChaCha with 20 rounds from randomgen, in numpy's ziggurat, takes
2.6 times as long, and OpenDP's exact discrete Gaussian 300 times.

What this protects from: computing the noise from other noise, from the draws, or from a guessed
seed; and, after a leak of memory, computing noise that lies before it, since each call replaces
the key by bits of its own stream (Bernstein, "Fast-key-erasure random-number generators", 2017).
What floating point gives away is made harder to use and is not ruled out: see `Secure.normal`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from torch import Tensor

from dpclip.streams import Streams

KEY_BYTES = 32
_TERMS = 4  # normal numbers that are added up for each coordinate
_PIECE = 16384  # coordinates drawn at a time: few enough for the cache and one thread of torch
_ZEROS = memoryview(bytes(_PIECE * _TERMS * 8))  # encrypted, they are the keystream

Words = npt.NDArray[np.uint64]


class Secure:
    """A stream that only the holder of its key can continue.

    It is drawn from in the process that made it, and can be neither copied nor written down: who
    has the key can subtract the noise.

    Args:
        key: 32 bytes, of this stream alone.
    """

    __slots__ = ("_key", "_process")  # no __dict__: vars() has nothing to show

    secure = True

    def __init__(self, key: bytes) -> None:
        self._key, self._process = key, os.getpid()

    def __repr__(self) -> str:
        return "Secure()"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            "A secure stream can be neither pickled nor copied: its key would give the noise away. "
            "Leave it out, and build another engine with secure=True where one is needed."
        )

    def uniform(self, count: int) -> Tensor:
        """Returns [count] numbers in [0, 1) with 53 random bits each, float64."""
        return torch.from_numpy((self._words(count) >> np.uint64(11)) * 2.0**-53)

    def integers(self, high: int, count: int) -> Tensor:
        """Returns [count] numbers of 0 .. high - 1, each exactly as likely as any other."""
        words, last = self._words(count), np.uint64(2**64 - 1 - 2**64 % high)
        while len(beyond := np.flatnonzero(words > last)):  # these would favour small numbers
            words[beyond] = self._words(len(beyond))
        return torch.from_numpy((words % np.uint64(high)).astype(np.int64))

    def order(self, count: int) -> Tensor:
        """Returns [count] a random permutation: the order of random words that all differ."""
        while True:
            words = self._words(count)
            order = np.argsort(words)
            if (np.diff(words[order]) > 0).all():
                return torch.from_numpy(order)

    def normal(self, like: Tensor, std: float) -> Tensor:
        """Returns normal numbers like `like`, drawn in float64 on the CPU and rounded once.

        Each is the sum of four normal numbers over two. A single one can take few of the values
        that a float can have; so an exact output, less a guessed sum, is noise that can have been
        drawn or not, and tells sums apart (Mironov 2012; Jin et al. 2022, arXiv:2112.05307). With
        four, an attacker has 2^159 cases to try, not 2^53 (Holohan and Braghin 2021,
        arXiv:2107.10138, section 5.1, with n = 2; Opacus does the same). That makes this attack
        hard and proves nothing. Against reading the size of a sum off the last bits of the output
        (Haney et al. 2022, arXiv:2207.13793) it does not help at all; the discrete Gaussian
        (Canonne et al. 2020) would against both.

        It is drawn in as many threads as torch has, and does not depend on how many these are.
        """
        drawn = torch.empty(like.shape, dtype=like.dtype, device="cpu")
        parts, key = drawn.view(-1).split(_PIECE), self._next_key()

        def fill(piece: int) -> None:
            part = parts[piece]
            part.copy_(_normal(key, piece, len(part)).mul_(std))

        _in_threads(fill, len(parts))
        return drawn.to(like.device)

    def state(self) -> None:
        """Returns None: a key that is stored would let its holder subtract the noise."""

    def restore(self, state: Tensor) -> NoReturn:
        """Raises ValueError, always."""
        raise ValueError(
            "A secure stream cannot continue from a state: found one, of a seeded stream. Load it "
            "into an engine without secure=True, or start a run of its own."
        )

    def _words(self, count: int) -> Words:
        words = np.empty(count, np.uint64)
        _fill(words, self._next_key())
        return words

    def _next_key(self) -> bytes:
        """Returns the key of one call; nothing that is kept leads back to it."""
        if os.getpid() != self._process:
            raise RuntimeError(
                f"A secure stream of process {self._process} was drawn from in process "
                f"{os.getpid()}, a fork of it: both would draw the same numbers. Call "
                "make_private in the process that trains."
            )
        both = _keystream(self._key).update(bytes(2 * KEY_BYTES))
        self._key = both[:KEY_BYTES]
        return both[KEY_BYTES:]


def secure(key: bytes) -> Streams:
    """Returns streams that nobody can tell from chance without the key.

    Each has a key of its own, made of the given one by HKDF with SHA-256 (RFC 5869).

    Args:
        key: 32 bytes from `secrets.token_bytes`, never stored; the same on all ranks.

    Raises:
        ValueError: a key of another length.
    """
    if len(key) != KEY_BYTES:
        raise ValueError(
            f"The key has {len(key)} bytes, expected {KEY_BYTES}. Take secrets.token_bytes"
            f"({KEY_BYTES})."
        )

    def derived(purpose: str) -> bytes:
        return HKDFExpand(SHA256(), KEY_BYTES, f"dpclip {purpose}".encode()).derive(key)

    draws, loose, noise = (Secure(derived(purpose)) for purpose in ("draws", "loose", "noise"))
    return Streams(draws, loose, noise, int.from_bytes(derived("workers")[:4]))


def _keystream(key: bytes, number: int = 0) -> CipherContext:
    """Returns one of the 2^64 keystreams of a key, each 2^68 bytes long."""
    start = number.to_bytes(8, "big") + bytes(8)
    return Cipher(algorithms.AES(key), modes.CTR(start)).encryptor()


def _fill(words: Words, key: bytes, number: int = 0) -> None:
    """Writes a keystream into words, in place."""
    stream, room = _keystream(key, number), words.view(np.uint8).data
    for start in range(0, len(room), len(_ZEROS)):
        part = room[start : start + len(_ZEROS)]
        stream.update_into(_ZEROS[: len(part)], part)


def _normal(key: bytes, piece: int, count: int) -> Tensor:
    """Returns [count] standard normal numbers, float64, by Box and Muller (1958).

    The four pairs of uniform numbers of a coordinate are shared with one other coordinate of the
    piece, and with nothing outside of it: so there is no half of a pair to be thrown away.
    """
    half = math.ceil(count / 2)
    words = np.empty(2 * _TERMS * half, np.uint64)
    _fill(words, key, piece)
    lengths, angles = words.view(np.int64).reshape(2, _TERMS, half)
    # 53 bits in (0, 1], since log(0) is infinite; then angles in [-pi, pi).
    length = np.sqrt(-2.0 * np.log(0.5 - (lengths >> 11) * 2.0**-53))
    angle = torch.from_numpy(angles * (math.pi * 2.0**-63))  # torch's cosine is the quicker one
    waves = angle.cos().numpy(), angle.sin().numpy()
    terms = np.concatenate([length * wave for wave in waves], 1)
    return torch.from_numpy(terms.sum(0)[:count] / math.sqrt(_TERMS))


def _in_threads(work: Callable[[int], None], pieces: int) -> None:
    """Does all pieces; numpy, torch and OpenSSL let other threads run meanwhile."""
    threads = min(torch.get_num_threads(), pieces)
    if threads <= 1:
        for piece in range(pieces):
            work(piece)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(pieces)))
