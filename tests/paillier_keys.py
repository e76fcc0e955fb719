"""Paillier keys for tests: the same in every run, and made once in each process."""

from __future__ import annotations

import hashlib
import warnings
from functools import cache
from itertools import count

from secagg.names import RandomSource
from secagg.paillier.params import LEAST_BITS
from secagg.paillier.secret import SecretKey
from secagg.paillier.shares import KeyShare, deal_from
from secagg.paillier.threshold import ThresholdKey

# Safe primes: to find them takes a second, and they are nobody's secret.
SAFE_P = int(
    "ec83b15dd2d3d625b311c80c3536e47a6a7e8a178afdaafa83392edfe7115982"
    "d73bb0866e5cb45be9e17d6f43c7bda3807082aba6fc34e11d5a24d70632f14b"
    "39b49f3081758464bff7d06caf03f2e645270f6f733d0a733363e0d758535558"
    "5310c3e352cd8f5a293f81bb047a50757de1dcff11e760e53a6bd6d0baad10fb",
    16,
)
SAFE_Q = int(
    "e2cf834d3a59fde65d3b581095e64f6e0f069265e6cfb554b65274692a52ff57"
    "a512337b1e02e27e8db3c19cd34451b5ccb40d63527fdb45f18bdd1c1a0ed282"
    "32c413017bd035fdad4b90c7f7fd15c597644cea6d66883fa95e0498e3001e8a"
    "53fe9b4dd6d0f035610fe9e560603787bc8b97075a58631bc37532c2a59c952b",
    16,
)

# A prime less 1 that another prime divides: n-th powers of their product leave a trace of one in 65537.
SMALL = 65537
PLANTED = 2 * ((3 << 2013) + 1141) * SMALL + 1


def stream(seed: str) -> RandomSource:
    """Return a source that gives the same bytes in every run."""
    calls = count()
    return lambda size: hashlib.shake_256(f"{seed}/{next(calls)}".encode()).digest(size)


@cache
def secret_key(seed: str = "key", bits: int = LEAST_BITS) -> SecretKey:
    """Return the key of ``seed``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Small, because tests open thousands of ciphertexts.
        return SecretKey.generate(bits, random=stream(seed))


@cache
def shared_key() -> SecretKey:
    """Return the key whose primes threshold keys are dealt from: one table of obfuscators serves both."""
    return SecretKey(SAFE_P, SAFE_Q)


@cache
def threshold_key(parties: int = 5, threshold: int = 4) -> tuple[ThresholdKey, tuple[KeyShare, ...]]:
    """Return a key of which ``threshold`` of ``parties`` open."""
    return deal_from(SAFE_P, SAFE_Q, parties=parties, threshold=threshold, random=stream("deal"))
