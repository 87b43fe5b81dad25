"""Random numbers that belong to a sample, not to a process.

A resumed run, another number of workers or another number of processes must draw what the first run drew.
So no generator carries state: a number is a hash of (seed, epoch, view), the sample's index and a counter.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 2^64 / golden ratio as int64: the increment of splitmix64
_MIX_1 = -4658895280553007687
_MIX_2 = -7723592293110705685


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift right logically: int64's own shift copies the sign bit."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def hash64(x: Tensor) -> Tensor:
    """Mix int64 values so that every output bit depends on every input bit (splitmix64)."""
    x = x + _GOLDEN
    x.bitwise_xor_(_shift(x, 30)).mul_(_MIX_1)
    x.bitwise_xor_(_shift(x, 27)).mul_(_MIX_2)
    return x.bitwise_xor_(_shift(x, 31))


def seed_of(seed: int, *parts: int) -> int:
    """A seed for torch's generators that follows from a run's seed and numbers such as epoch and batch."""
    key = torch.tensor(seed)
    for part in parts:
        key = hash64(key) ^ part
    return int(hash64(key))


@lru_cache(maxsize=64)
def _offset_hashes(call: int, count: int, device: torch.device) -> Tensor:
    """Hash the counters of one call: the same for every batch, and half the work of a small draw."""
    return hash64((call << 32) + torch.arange(count, device=device))


@lru_cache(maxsize=64)
def _view_key(seed: int, epoch: int, view: int) -> Tensor:
    """Hash what the samples of a batch share: a worker asks for it again with every image that it crops."""
    key = torch.zeros((), dtype=torch.int64, device="cpu")  # whatever the default device is: it is kept
    for part in (seed, epoch, view):
        key = hash64(key ^ part)
    return key


class SampleRandom:
    """Draws for the samples of one batch that depend on (seed, epoch, view) and each sample's index alone.

    Args:
        index: ``(N,)`` int64, the samples' places in the data set; the draws are made on its device.
        seed: the run's seed.
        epoch: the epoch, or the step where there are no epochs.
        view: which view of the sample is drawn.

    Successive calls give independent numbers; an equal sequence of calls on an equal key gives equal numbers,
    whatever the other samples in the batch are.
    """

    def __init__(self, index: Tensor, *, seed: int = 0, epoch: int = 0, view: int = 0) -> None:
        self._key = hash64(index.to(torch.int64) ^ _view_key(seed, epoch, view).to(index.device))
        self._calls = 0

    @classmethod
    def fresh(cls, num_samples: int, device: torch.device | str = "cpu") -> SampleRandom:
        """Draws keyed by torch's global generator: another key a call, fixed by ``torch.manual_seed``."""
        seed = int(torch.randint(2**62, ()))
        return cls(torch.arange(num_samples, device=device), seed=seed)

    @staticmethod
    def concatenate(parts: Sequence[SampleRandom]) -> SampleRandom:
        """The draws of several lists of samples, from which nothing has been drawn, as those of one list."""
        return parts[0]._expanded(torch.cat([part._key for part in parts]))

    def expand(self, sample: Tensor, position: Tensor) -> SampleRandom:
        """Draws for elements of the samples, as the edges of graphs: one row an element.

        Args:
            sample: ``(M,)`` int64, the row of the sample that each element belongs to.
            position: ``(M,)`` int64, the element's place inside its sample; equal places draw equal numbers.
        """
        return self._expanded(self._next_key().index_select(0, sample).add_(position))

    def expand_ranges(self, sample: Tensor, ptr: Tensor) -> SampleRandom:
        """`expand` for elements laid end to end: those of sample s are numbered ``ptr[s] … ptr[s+1]-1``.

        Args:
            sample: ``(M,)`` int64, ascending.
            ptr: ``(N + 1,)`` int64.
        """
        first = (self._next_key() - ptr[:-1]).index_select(0, sample)
        return self._expanded(first.add_(torch.arange(len(sample), device=sample.device)))

    def _next_key(self) -> Tensor:
        self._calls += 1
        return hash64(self._key ^ _offset_hashes(self._calls, 1, self._key.device))

    def _expanded(self, key: Tensor) -> SampleRandom:
        """Draws keyed by ``key``, which is not mixed here: whatever is drawn mixes it."""
        expanded = copy.copy(self)
        expanded._key, expanded._calls = key, 0
        return expanded

    def bits(self, *shape: int) -> Tensor:
        """Independent int64 hashes, ``(N, *shape)``."""
        self._calls += 1
        hashes = _offset_hashes(self._calls, math.prod(shape), self._key.device)
        return hash64(self._key[:, None] ^ hashes).view(-1, *shape)

    def split(self, size: int) -> list[SampleRandom]:
        """Hand the samples on in pieces of ``size``: what a sample then draws does not depend on the size."""
        return [self._expanded(key) for key in self.bits(1).squeeze(1).split(size)]

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Float32 numbers uniform in [low, high), ``(N, *shape)``."""
        return _shift(self.bits(*shape), 40).to(torch.float32).mul_((high - low) / 2**24).add_(low)

    def bernoulli(self, p: float, *shape: int) -> Tensor:
        """Booleans that are true with probability ``p``, ``(N, *shape)``."""
        return _shift(self.bits(*shape), 40) < math.ceil(p * 2**24)  # as uniform() < p, without the floats

    def normal(self, *shape: int) -> Tensor:
        """Standard normal float32 numbers, ``(N, *shape)`` (Box and Muller 1958)."""
        radius = torch.sqrt(-2 * torch.log1p(-self.uniform(*shape)))
        return radius * torch.cos(2 * torch.pi * self.uniform(*shape))

    def permutation(self, n: int) -> Tensor:
        """A random order of ``0 … n-1`` for every sample, ``(N, n)`` int64."""
        return self.uniform(n).argsort(dim=1)
