"""What makes one plaintext look like any other: an encryption of zero, used once.

It does not depend on the data, so a pool is filled while a silo trains, and encrypting is then one
multiplication. Used twice, it gives away the difference of two plaintexts; so a pool hands each one out once,
never leaves the process's memory, and a forked process starts with an empty one.

Source: Damgard, Jurik, Nielsen 2010, section 4.2 (short exponents); Brickell, Gordon, McCurley, Wilson,
EUROCRYPT 1992 (fixed-base windows).
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import NoReturn

from secagg.errors import UsageError
from secagg.hazmat.cores import usable_cores
from secagg.names import RandomSource
from secagg.paillier.gmp import gmpy2, mpz
from secagg.paillier.public import PublicKey


class FixedBase:
    """Powers of one base, of which every window of eight bits is computed before.

    Args:
        base: below ``modulus``.
        modulus: above 1.
        size: bytes of the exponents. The table has ``256 * size`` entries of the modulus's size.

    Guarantees:
        Every exponent costs the same number of multiplications.
    """

    def __init__(self, base: mpz, modulus: mpz, *, size: int) -> None:
        self._modulus = modulus
        self._table: list[list[mpz]] = []
        for _ in range(size):
            window = [mpz(1)]
            for _ in range(255):
                window.append(window[-1] * base % modulus)
            self._table.append(window)
            base = window[-1] * base % modulus

    def power(self, exponent: bytes) -> mpz:
        """Return ``base ** exponent`` for an exponent of ``size`` bytes, little-endian."""
        result, modulus = mpz(1), self._modulus
        for window, digit in zip(self._table, exponent, strict=True):
            result = result * window[digit] % modulus
        return result


def random_unit(modulus: mpz, random: RandomSource) -> mpz:
    """Return a uniform number below ``modulus``, a multiple of 8 bits long, that is invertible modulo it."""
    while True:
        number = mpz.from_bytes(random(modulus.bit_length() // 8), "big")
        if number < modulus and gmpy2.gcd(number, modulus) == 1:
            return number


@lru_cache(maxsize=1)
def _powers(key: PublicKey, size: int) -> FixedBase:
    """Return the table of a key, which is large and takes a second to make: for one key at a time."""
    return FixedBase(key.base, key.n_squared, size=size)


class Pool:
    """Obfuscators for one key, each handed out once.

    Args:
        key: that they are for.
        random: fresh uniform bytes.

    Guarantees:
        No obfuscator is handed out twice, by any number of threads.
        A forked process hands out none of its parent's.
        A pool is neither copied nor pickled.
    """

    def __init__(self, key: PublicKey, *, random: RandomSource = os.urandom) -> None:
        self.key = key
        self._random = random
        self._size = key.bits // 16  # Of the exponents: half as many bits as n has.
        self._base = _powers(key, self._size) if key.obfuscation == "short" else None
        self._ready: deque[tuple[bytes, mpz]] = deque()  # With the exponent that made it, if one did.
        self._process = os.getpid()

    def __len__(self) -> int:
        return len(self._of_this_process())

    def take(self) -> mpz:
        """Return an obfuscator; it is made now if none is there."""
        return self._take()[1]

    def take_known(self) -> tuple[mpz, mpz]:
        """Return a short obfuscator, and before it the exponent of ``key.base`` that it is; as secret as it.

        Raises:
            UsageError: those of this key are not short.
        """
        exponent, obfuscator = self._take()
        if not exponent:
            raise UsageError("an obfuscator that is not short is no power of a base that everybody knows")
        return mpz.from_bytes(exponent, "little"), obfuscator

    def _take(self) -> tuple[bytes, mpz]:
        try:
            return self._of_this_process().popleft()
        except IndexError:
            return self._make()

    def fill(self, count: int, *, threads: int | None = None, stop: threading.Event | None = None) -> None:
        """Make obfuscators until there are ``count`` or a few more, or until ``stop`` is set.

        Args:
            count: how many are wanted.
            threads: at most; None for one for each usable core.
            stop: ends it early.
        """
        ready = self._of_this_process()
        workers = usable_cores() if threads is None else threads

        def work() -> None:
            gmpy2.get_context().allow_release_gil = True
            while len(ready) < count and not (stop is not None and stop.is_set()):
                ready.append(self._make())

        with ThreadPoolExecutor(workers) as pool:
            for done in [pool.submit(work) for _ in range(workers)]:
                done.result()

    @contextmanager
    def filling(self, count: int, *, threads: int = 1) -> Iterator[None]:
        """Fill up to ``count`` beside what the block does; what is not done by its end is left out."""
        stop = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            filled = pool.submit(self.fill, count, threads=threads, stop=stop)
            try:
                yield
            finally:
                stop.set()
            filled.result()

    def _of_this_process(self) -> deque[tuple[bytes, mpz]]:
        if self._process != os.getpid():
            self._ready, self._process = deque(), os.getpid()
        return self._ready

    def _make(self) -> tuple[bytes, mpz]:
        key = self.key
        if self._base is not None:
            exponent = self._random(self._size)
            return exponent, self._base.power(exponent)
        return b"", gmpy2.powmod(random_unit(key.n, self._random), key.n, key.n_squared)

    def __repr__(self) -> str:
        return f"Pool({self.key!r})"

    def __reduce__(self) -> NoReturn:
        raise UsageError("a pool of obfuscators is not copied or pickled: each is used once")
