"""What a process holds that adds and sends ciphertexts as the service does: no more than is estimated.

It drives whole rounds over frames whose payloads lie on disk, and takes what it sends piece by piece. What
silos make is made in this process; it is as large as theirs, and hides nothing.
"""

from __future__ import annotations

import multiprocessing
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from coordinator.on_disk import OnDisk
from secagg import wire
from secagg.ckks.params import CKKS
from secagg.encrypted import transcript
from secagg.encrypted.cipher import SEAL_SIZE
from secagg.estimates import estimate
from secagg.hazmat.agreement import AgreementKey
from secagg.heap import keep_freed_memory
from secagg.link.line import Outgoing
from secagg.messages import (
    AggregateAnnounced,
    ConsistencyCheck,
    EncryptedInput,
    FromCoordinator,
    FromSilo,
    Opened,
    OpeningRequested,
    PartialDecryption,
    PartialsAnnounced,
    Ready,
    RoundOpened,
    SignedUpload,
    TrainingOpened,
    UploadsAnnounced,
)
from secagg.names import SiloId
from secagg.paillier.ciphertexts import encrypt
from secagg.paillier.gmp import mpz
from secagg.paillier.knowledge import encrypt_known
from secagg.paillier.obfuscators import Pool
from secagg.paillier.params import Paillier, ThresholdPaillier
from secagg.payload import Frame, Payload
from secagg.rounds.coordinator import RoundCoordinator
from secagg.rounds.driver import RoundDriver
from secagg.scheme import Scheme
from secagg.survivors import sign_survivors
from secagg.terms import training_digest
from tests.federations import (
    MODEL,
    NAMES,
    PAILLIER,
    THRESHOLD_PAILLIER,
    Federation,
    encoding_of,
    seeded,
)

N = 3
SILOS = NAMES[:N]
SECONDS = 60.0


class OneObfuscator(Pool):
    """Hands out one obfuscator again and again: ciphertexts are valid and quick to make, and hide nothing."""

    def _take(self) -> tuple[bytes, mpz]:
        if not self._ready:
            self._ready.append(self._make())
        return self._ready[0]


def federation_of(scheme: Scheme, length: int) -> Federation:
    nothing = np.empty(0, np.uint32)
    return Federation(
        N, scheme=scheme, encoding=encoding_of(N, length=length), vectors=dict.fromkeys(SILOS, nothing)
    )


# --- the silos ---------------------------------------------------------------------------------------------


def uploads(here: Federation, scheme: Scheme) -> dict[SiloId, bytes]:
    """Return the ciphertexts of a vector of zeros of each silo, for the first attempt."""
    adder = here.adder
    zeros = np.zeros(here.encoding.length + 1, np.uint32)
    opened = RoundOpened(training_digest(here.terms), 1, SECONDS, ())
    round_id = transcript.round_id(opened, adder)
    match scheme:
        case Paillier():
            content = b"".join(
                encrypt(adder.packing.pack(zeros, adder.checks(round_id)), OneObfuscator(adder.public))
            )
            return dict.fromkeys(SILOS, content)
        case ThresholdPaillier():
            known = partial(
                encrypt_known,
                adder.packing.pack(zeros, adder.checks(round_id)),
                OneObfuscator(adder.public),
                random=seeded(1),
            )
            return {silo: known(context=adder.context(silo, round_id)) for silo in SILOS}
        case _:
            payload = here.cipher(SILOS[0]).encrypt(zeros, silo=SILOS[0], round_id=round_id)
            return dict.fromkeys(SILOS, bytes(payload.buffer()[:]))


def reply(here: Federation, silo: SiloId, message: FromCoordinator, folder: Path) -> FromSilo:
    """Return what a silo answers whose large payloads lie in ``folder``."""
    adder, identity = here.adder, here.identities[silo]
    match message:
        case TrainingOpened():
            return Ready(training_digest(here.terms))
        case RoundOpened():
            round_id = transcript.round_id(message, adder)
            payload = Payload.over(adder.upload.dtype, adder.upload.length, OnDisk.of(folder / silo))
            box = AgreementKey.generate(seeded(2)).public if adder.part_size else None
            fields = transcript.upload_fields(adder, round_id, silo, payload.digest, box)
            upload = SignedUpload(payload.digest, box, identity.sign(transcript.UPLOAD, *fields))
            return EncryptedInput(round_id, upload, payload)
        case UploadsAnnounced(round_id=round_id, uploads=announced):
            signed = transcript.set_id(round_id, announced)
            return ConsistencyCheck(round_id, sign_survivors(identity, signed, SILOS))
        case OpeningRequested(round_id=round_id):
            part = Payload.over("u1", adder.part_size + SEAL_SIZE, OnDisk.of(folder / "part"))
            return PartialDecryption(round_id, tuple((peer, bytes(48)) for peer in SILOS), part)
        case AggregateAnnounced() | PartialsAnnounced():
            return Opened(training_digest(here.terms), bytes(32), SILOS)
    raise AssertionError(f"nobody expects {type(message).__name__}")


# --- the coordinator, in a process of its own --------------------------------------------------------------


def coordinate(parent: Connection, folder: Path, scheme: Scheme, length: int) -> None:
    """Coordinate one round and send what was resident before it began, and at most."""
    keep_freed_memory()  # As the service does.
    here = federation_of(scheme, length)
    coordinator = RoundCoordinator(
        here.roster, terms=here.terms, base=MODEL, seconds=SECONDS, adder=here.adder
    )
    driver, idle = RoundDriver(coordinator), resident("VmRSS")
    frames = driver.open(0.0)
    while driver.outcome is None:
        said = [(silo, wire.encode(reply(here, silo, taken(frame), folder))) for silo, frame in frames]
        for silo, frame in said:
            driver.take(silo, frame)
        frames = driver.advance(0.0)
    parent.send((idle, resident("VmHWM")))


def taken(frame: Frame) -> FromCoordinator:
    """Return the message in a frame that was sent as a line sends it."""
    line = Outgoing()
    line.put(frame)
    while line.take() is not None:
        pass
    return wire.decode_from_coordinator(*frame)


def resident(name: str) -> int:
    with Path("/proc/self/status").open(encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize(
    ("scheme", "length"),
    [
        (CKKS(), 10**6),
        pytest.param(PAILLIER, 2 * 10**6, marks=pytest.mark.full),
        pytest.param(THRESHOLD_PAILLIER, 6 * 10**5, marks=pytest.mark.full),
    ],
    ids=str,
)
def test_a_coordinator_that_sends_ciphertexts_holds_no_more_than_is_estimated(
    scheme: Scheme, length: int, tmp_path: Path
) -> None:
    here = federation_of(scheme, length)
    for silo, content in uploads(here, scheme).items():
        (tmp_path / silo).write_bytes(content)
    (tmp_path / "part").write_bytes(bytes(here.adder.part_size + SEAL_SIZE))
    context = multiprocessing.get_context("spawn")
    parent, child = context.Pipe()
    process = context.Process(target=coordinate, args=(child, tmp_path, scheme, length))
    process.start()
    child.close()
    idle, peak = parent.recv()
    process.join()
    (cost,) = estimate(length, N, scheme=scheme).costs
    held = 0 if here.adder.part_size else here.adder.total.size
    assert held < peak - idle <= cost.coordinator.memory
