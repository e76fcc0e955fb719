"""What one step costs, as the recorded benchmarks say: the figures that estimates are made of.

Every figure is CPU time on one core of the machine that its record names, and stands in the record as it
stands here. Other machines are slower or faster; ratios between steps change less. Pure data.
"""

from __future__ import annotations

from dataclasses import dataclass

MACHINE = "an Intel Xeon"
"""On which everything here was recorded."""

MASKING, PAILLIER, CKKS, ROUND = (
    f"benchmarks/results/{name}-xeon-2-cores.md" for name in ("masking", "paillier", "ckks", "round")
)
"""The records."""

MIB = 1 << 20


@dataclass(frozen=True)
class Figure:
    """CPU seconds that one step takes on one core.

    Attributes:
        step: as the record calls it.
        recorded: the numbers that stand there; added up if there are several.
        seconds: for one unit of the step, which the constant's text names.
        record: the file.
    """

    step: str
    recorded: tuple[str, ...]
    seconds: float
    record: str


def _milliseconds(step: str, *recorded: str, of: float) -> Figure:
    return Figure(step, recorded, sum(map(float, recorded)) / 1e3 / of, MASKING)


def _rate(step: str, recorded: str, *, of: float) -> Figure:
    return Figure(step, (recorded,), of / float(recorded), PAILLIER)


def _seconds(step: str, recorded: str, *, of: float) -> Figure:
    return Figure(step, (recorded,), float(recorded) / of, CKKS)


# --- masks: 10^7 parameters of 32 bits, 10 silos, none lost; seconds for one parameter --------------------

QUANTISE = _milliseconds("quantise", "23.6", of=1e7)
COPY = _milliseconds("boxes, copy", "13.6", of=1e7)
SILO_STREAM = _milliseconds("mask streams", "48.1", of=1e7 * 10)
"""For one stream; a silo makes one for each silo of the roster."""
SILO_HANDSHAKE = _milliseconds("keys, shares, later", "0.196", "4.01", "2.41", of=10)
"""For one silo of the roster, whatever the number of parameters."""

ADD = _milliseconds("add uploads", "66.3", of=1e7 * 10)
"""For one upload."""
COORDINATOR_STREAM = _milliseconds("mask streams", "47.8", of=1e7 * 10)
"""For one stream; the coordinator takes one of each survivor out of the sum."""
DECODE = _milliseconds("decode", "30.1", of=1e7)
COORDINATOR_HANDSHAKE = _milliseconds("keys, shares, recover", "3.2", "2.87", "2.56", of=10)
"""For one silo of the roster."""

# --- Paillier: a key of 3072 bits; seconds for one ciphertext, which held 76 values of 32 bits then -------

PAILLIER_BITS = 3072
_VALUES = 76
ENCRYPT = _rate("encrypt, obfuscators made", "37030", of=_VALUES)
"""All of it; most of it, the obfuscators, can be done while a silo trains."""
CHECK_AND_ADD = _rate("check and add", "4268174", of=_VALUES)
OPEN = _rate("open, shared key", "8191", of=_VALUES)
PARTIAL = _rate("partial decryption, threshold key", "1100", of=_VALUES)
COMBINE = _rate("combine 7 partial decryptions", "20895", of=_VALUES / 7)
"""For one of the t partial decryptions."""
TABLE = Figure("table of the obfuscators' base", ("0.543",), 0.543, PAILLIER)
"""Once for a key."""

# A proof raises each ciphertext to one of 128 bits: among many in 24 products, none dearer than to check and
# add a ciphertext. That upload and opening are proved costs more only where few ciphertexts are proved.
KNOWN = Figure("check and add", CHECK_AND_ADD.recorded, 24 * CHECK_AND_ADD.seconds, PAILLIER)
"""For one ciphertext of one upload, whose proof that its plaintexts are known is checked."""
BATCH = Figure("check and add", CHECK_AND_ADD.recorded, 2 * KNOWN.seconds, PAILLIER)
"""For one ciphertext in one proof of partial decryptions, made or checked: it and its partial decryption."""
# Among few, each is a power by itself; what is left of the recorded time does not grow with the ciphertexts.
_FEW = 20 * 2 * 128 / (2 * PAILLIER_BITS) * PARTIAL.seconds
PROVE = Figure("prove 20 partial decryptions", ("0.27",), 0.27 - _FEW, PAILLIER)
CHECK_PROOF = Figure("check the proof of one silo over 20", ("0.217",), 0.217 - _FEW, PAILLIER)
"""For one proof, beside its batch."""

# --- CKKS: degree 8192, 10^6 parameters in 245 chunks; seconds for one chunk ------------------------------

CKKS_DEGREE = 8192
_CHUNKS = 245
CKKS_ENCRYPT = _seconds("encrypt", "0.367", of=_CHUNKS)
CKKS_CHECK = _seconds("check one", "0.00567", of=_CHUNKS)
CKKS_ADD = _seconds("add one", "0.0786", of=_CHUNKS)
CKKS_SERIALISE = _seconds("serialise", "0.0866", of=_CHUNKS)
CKKS_OPEN = _seconds("open", "0.141", of=_CHUNKS)

# --- memory of the coordinator's process, bytes: 10^7 parameters of 32 bits, 10 and 30 silos --------------

IDLE = round(97.9 * MIB)
"""Before a run."""
COORDINATOR_A_SILO = round((128 - 74.5) / (30 - 10) * MIB)
"""For each silo that is connected."""
COORDINATOR_BASE = round(74.5 * MIB) - 10 * COORDINATOR_A_SILO - 4 * 10**7
"""Above idle, beside one encoded vector and what each silo takes."""
