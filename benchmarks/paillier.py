"""Paillier: encrypting, adding and opening packed vectors, in values a second and core, beside the limits.

python -m benchmarks.paillier                  3072 bits, vectors of 32-bit words
python -m benchmarks.paillier --bits 2048
python -m benchmarks.paillier --peer SCRIPT --peer-python PYTHON     public libraries in the same run

The options, and what a script of ``--peer`` must do, stand in ``benchmarks/README.md``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import gmpy2
import numpy as np
import typer

from benchmarks import peer
from benchmarks.machine import facts, median_cpu, show
from secagg.packing import Packing
from secagg.paillier.ciphertexts import Total, encrypt, read
from secagg.paillier.knowledge import check_known, encrypt_known
from secagg.paillier.obfuscators import Pool
from secagg.paillier.secret import SecretKey
from secagg.paillier.shares import deal

T = TypeVar("T")

SILOS = 10
FEW = 20
"""Ciphertexts that are opened together, which takes fifteen times as long as by a shared key."""
PARTIES, THRESHOLD = 10, 7
LIMITS = {
    "encrypt, obfuscators ready": 2e6,
    "encrypt, obfuscators made": 3e4,
    "open, shared key": 9e3,
    "partial decryption, threshold key": 1e3,
}


def rate(work: Callable[[], object], values: int, *, runs: int) -> float:
    """Return values for each second of CPU."""
    return values / median_cpu(work, runs=runs)


def once(work: Callable[[], T]) -> tuple[T, float]:
    """Return what ``work`` returns, and the seconds of CPU that it took."""
    began = time.process_time()
    result = work()
    return result, time.process_time() - began


def show_peers(ours: peer.PaillierFigures, theirs: list[peer.PaillierFigures]) -> None:
    """Print our rates beside those of each library, and how many times theirs ours are."""
    rows: list[tuple[str | float, ...]] = [
        (
            *(one.library, one.lanes, one.encrypt, ours.encrypt / one.encrypt),
            *(one.add, ours.add / one.add, one.open, ours.open / one.open, f"{one.bytes_each:.1f}"),
        )
        for one in (ours, *theirs)
    ]
    show(
        "Beside public libraries, values a second of CPU, and how many times as many ours are",
        (
            *("library", "values a ciphertext", "encrypt", "**ratio**", "add", "**ratio**"),
            *("decrypt", "**ratio**", "bytes a value"),
        ),
        rows,
    )


def main(
    *,
    bits: Annotated[int, typer.Option(help="Of the key.")] = 3072,
    count: Annotated[int, typer.Option(min=1, help="Ciphertexts of a vector.")] = 200,
    runs: Annotated[int, typer.Option(min=1, help="Of which the median is taken.")] = 5,
    peer_script: Annotated[
        Path | None, typer.Option("--peer", metavar="SCRIPT", help="Measures public libraries, too.")
    ] = None,
    peer_python: Annotated[
        Path, typer.Option(metavar="PYTHON", help="Interpreter of the environment that the script needs.")
    ] = Path(sys.executable),
    peer_libraries: Annotated[str, typer.Option(help="As the script names them.")] = "phe",
) -> None:
    """Measure the arithmetic of Paillier."""
    print(facts() + f"; gmpy2 {gmpy2.version()}, GMP {gmpy2.mp_version()[4:]}")
    secret, generated = once(lambda: SecretKey.generate(bits))
    key = secret.public
    packing = Packing(32, SILOS, key.plaintext_bits)
    values = count * packing.entries
    checks = np.zeros(count, np.int64)
    # Data to measure with, the same in every run.
    words = np.random.default_rng(0).integers(-packing.bias, packing.bias, values).astype(np.int32)
    vector = words.view(np.uint32)
    pool, built = once(lambda: Pool(key))

    def encrypted() -> bytes:
        return b"".join(encrypt(packing.pack(vector, checks), pool))

    inline = rate(encrypted, values, runs=runs)
    pool.fill(count * (runs + 1))
    online = rate(encrypted, values, runs=runs)
    data = encrypted()
    total = Total(key, count)
    adding = rate(lambda: total.add([data]), values, runs=runs)
    found = read(data, key)
    size = packing.row_bytes
    opening = rate(lambda: secret.open(found, size=size, threads=1), values, runs=runs)
    began = time.perf_counter()
    plain = secret.open(found, size=size)
    cores = values / (time.perf_counter() - began)
    if not (packing.unpack(plain, checks, length=values, silos=1) == vector).all():
        raise SystemExit("what was opened is not what was encrypted")
    (shared, shares), dealt = once(lambda: deal(parties=PARTIES, threshold=THRESHOLD, bits=bits))
    few = read(b"".join(encrypt(packing.pack(vector, checks)[:FEW], Pool(shared.public))), shared.public)
    partials = {share.party: share.decrypt(few, threads=1) for share in shares[:THRESHOLD]}
    several = FEW * packing.entries
    decrypting = rate(lambda: shares[0].decrypt(few, threads=1), several, runs=runs)
    proof, proved = once(lambda: shares[0].prove(few, partials[1], context=b"benchmark"))
    holds, checked = once(lambda: shared.check(1, few, partials[1], proof, context=b"benchmark"))
    shared_pool = Pool(shared.public)
    shared_pool.fill(count)
    known, knowing = once(
        lambda: encrypt_known(
            packing.pack(vector, checks), shared_pool, context=b"benchmark", random=os.urandom
        )
    )
    end = count * shared.public.ciphertext_size
    _, believing = once(
        lambda: check_known(
            lambda: [memoryview(known)[:end]], count, known[end:], shared.public, context=b"benchmark"
        )
    )
    combining = rate(lambda: shared.open(partials, size=size), several, runs=runs)
    together = shared.open(partials, size=size)
    if not holds or not (together == plain[:FEW]).all():
        raise SystemExit("what was opened together is not what was encrypted")
    measured = {
        "encrypt, obfuscators ready": online,
        "encrypt, obfuscators made": inline,
        "check and add": adding,
        "open, shared key": opening,
        "partial decryption, threshold key": decrypting,
        f"combine {THRESHOLD} partial decryptions": combining,
    }
    bytes_each = key.ciphertext_size / packing.entries
    show(
        f"{bits} bits, {packing.entries} values a ciphertext, {bytes_each:.1f} bytes a value",
        ["step", "values a second and core", "at least"],
        [[name, value, LIMITS.get(name, "")] for name, value in measured.items()],
    )
    show(
        "Beside it",
        ["", ""],
        [
            ["make a key, s of CPU", generated],
            ["table of the obfuscators' base, s of CPU", built],
            ["its size, MiB", key.bits // 16 * 256 * key.ciphertext_size / 2**20],
            ["open with the shared key, all cores, values a second", cores],
            [f"deal a key to {PARTIES} silos, s of CPU", dealt],
            [f"encrypt {count} ciphertexts, obfuscators ready, and prove them known, s of CPU", knowing],
            [f"check that {count} are known, s of CPU", believing],
            [f"prove {FEW} partial decryptions, s of CPU", proved],
            [f"check the proof of one silo over {FEW}, s of CPU", checked],
        ],
    )
    if peer_script is not None:
        # With obfuscators made on the way: the script keeps none ready for the others either.
        show_peers(
            peer.PaillierFigures("secagg", packing.entries, inline, adding, opening, bytes_each),
            peer.measure_paillier(peer_script, peer_python, bits=bits, libraries=peer_libraries.split(",")),
        )


if __name__ == "__main__":
    typer.run(main)
