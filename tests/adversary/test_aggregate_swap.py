"""Attack ``aggregate_swap``: have something else opened than the sum of what was signed, one update at best.

The coordinator lies and one silo colludes. All four silos signed the same set; then the coordinator asks the
honest ones to open ciphertexts of its own choice: one silo's upload beside encryptions of zero, which anybody
can make, one upload in two places, uploads in another order, fewer. Each honest silo adds what it is sent
itself, and gives no part of anything whose digests were not signed. Where one key opens there is no such
defence, which is why reports of those schemes begin with L0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, get_args

import numpy as np
import pytest
from msgspec.structs import replace

from secagg.encrypted.silo import ThresholdSilo
from secagg.errors import RoundAborted, UsageError
from secagg.messages import OpeningRequested
from secagg.names import SiloId
from secagg.packing import Packing
from secagg.paillier.ciphertexts import encrypt
from secagg.paillier.gmp import mpz
from secagg.paillier.obfuscators import Pool
from secagg.payload import Payload, regroup
from secagg.report import SHARED_KEY, SchemeName, readers
from tests.adversary.shared_opening import COLLUDER, SharedOpening

VICTIM = "north"
HONEST: tuple[SiloId, ...] = ("north", "south", "west")


def joined(here: SharedOpening, contents: list[bytes]) -> OpeningRequested:
    data = b"".join(contents)
    return replace(here.requested, ciphertexts=Payload.over("u1", len(data), memoryview(data)))


def zeros(here: SharedOpening) -> bytes:
    """Ciphertexts of nothing, under the public key, and no proof."""
    packing: Packing = here.adder.packing
    rows = np.zeros((here.adder.count, packing.row_bytes), np.uint8)
    return b"".join(encrypt(rows, Pool(here.key.public))) + bytes(here.adder.proof_size)


def swaps(here: SharedOpening) -> Iterator[OpeningRequested]:
    """Yield what the coordinator asks to be opened in the place of the sum."""
    own = {silo: upload.ciphertexts.buffer()[:].tobytes() for silo, upload in here.uploads.items()}
    names = here.federation.roster.silos
    yield joined(here, [own[silo] if silo == VICTIM else zeros(here) for silo in names])
    yield joined(here, [own[VICTIM] if silo == COLLUDER else own[silo] for silo in names])
    yield joined(here, [own[silo] for silo in reversed(names)])
    yield joined(here, [own[VICTIM]])
    yield joined(here, [own[silo] for silo in names if silo != COLLUDER])
    yield joined(here, [*(own[silo] for silo in names), own[VICTIM]])
    yield joined(here, [own[silo] if silo != COLLUDER else zeros(here) for silo in names])


HOW_MANY = 7


def opened(which: int) -> list[int] | None:
    """Attack: return what the coordinator and its colluder open of a swapped request; None if nothing."""
    here = SharedOpening()
    requested = [*swaps(here)][which]
    box = here.box
    given = here.parts(requested, HONEST)
    if not given:
        return None
    key, size = here.key, here.key.public.ciphertext_size
    data = requested.ciphertexts.buffer()[:].tobytes()
    total: list[mpz] = []
    for start in range(0, len(data), here.adder.upload.size):
        content = memoryview(data)[start : start + here.adder.total.size]
        numbers = [mpz.from_bytes(bytes(one), "big") for one in regroup(iter([content]), size)]
        modulus = key.public.n_squared
        total = [a * b % modulus for a, b in zip(total, numbers, strict=True)] if total else numbers
    partials: dict[int, Any] = {here.federation.roster.slot(COLLUDER) + 1: share_of(here, total)}
    for silo, part in given.items():
        found = here.numbers(silo, part, box)
        assert found is not None
        partials[here.federation.roster.slot(silo) + 1] = found
    packing: Packing = here.adder.packing
    try:
        rows = key.open(partials, size=packing.row_bytes)
    except (RoundAborted, UsageError):
        return []
    plaintexts = [int.from_bytes(row.tobytes(), "little") for row in rows]
    lanes = [plain >> packing.lane_bits * at for plain in plaintexts for at in range(1, packing.lanes)]
    values = [lane % 2**packing.lane_bits - packing.bias for lane in lanes]
    return values[: here.federation.encoding.length]


def share_of(here: SharedOpening, total: list[mpz]) -> list[mpz]:
    return here.ciphers[COLLUDER]._share.decrypt(total)


@pytest.mark.parametrize("which", range(HOW_MANY))
def test_aggregate_swap(which: int) -> None:
    assert opened(which) is None, "an honest silo helped to open what was not signed"


def test_what_was_signed_is_opened() -> None:
    """The control: the same silos give their parts of the sum itself."""
    here = SharedOpening()
    assert here.parts(here.requested, HONEST).keys() == set(HONEST)


def test_who_shares_one_key_is_told() -> None:
    for scheme in get_args(SchemeName):
        told = readers(scheme, colluders="1 silo", honest="at least 2")
        assert told.startswith("L0") == (scheme in SHARED_KEY)


def trusting(self: ThresholdSilo, state: Any, ciphertexts: Payload) -> Payload:
    """Add whatever is sent."""
    form, total = self._cipher.upload, self._cipher.begin()
    for content in regroup(ciphertexts.pieces(), form.size):
        total.add(Payload.over(form.dtype, form.length, content))
    return total.total()


@pytest.mark.parametrize(("defence", "mutant"), [("secagg.encrypted.silo.ThresholdSilo._added", trusting)])
def test_aggregate_swap_mutant(
    monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Callable[..., Any]
) -> None:
    monkeypatch.setattr(defence, mutant)
    victim = SharedOpening().federation.vectors[VICTIM].view(np.int32).tolist()
    assert opened(0) == victim, "the update of one silo was not read"
    with pytest.raises(AssertionError, match="helped to open"):
        test_aggregate_swap(0)
