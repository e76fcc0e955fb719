"""One round of masking between the real sessions, with one silo and the coordinator timed step by step.

Nothing is copied from the product and nothing simulated but the dropouts. Every round ends by comparing the
opened sum with the sum of the inputs, so that nothing fast and wrong is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.machine import Stopwatch
from secagg import wire
from secagg.cohort import Cohort
from secagg.hazmat.identity import IdentityKey
from secagg.masking import coordinator as coordinator_half
from secagg.masking import silo as silo_half
from secagg.masking.coordinator import MaskingCoordinator
from secagg.masking.silo import MaskingSilo
from secagg.messages import FromCoordinator, FromSilo, MaskedInput
from secagg.names import IntegerVector, SiloId
from secagg.roster import Roster
from secagg.session import Aggregate
from secagg.survivors import Locks
from secagg.terms import MaskingParameters, Terms
from secagg.weighting import decode_mean, encode_mean, plan_mean

WEIGHT = 100.0


class Federation:
    """Silos with one update and one weight each, and the terms of one weighted mean.

    Attributes:
        measured: the silo in the middle of the roster: half of its pair masks have either sign.
    """

    def __init__(self, length: int, silos: int) -> None:
        self.identities = {f"silo-{i:02}": IdentityKey.generate() for i in range(silos)}
        self.roster = Roster.of({silo: key.public for silo, key in self.identities.items()})
        self.measured = self.roster.silos[silos // 2]
        self.cohort = Cohort.of(silos)
        self.update = np.random.default_rng(length).normal(0.0, 0.05, length).astype(np.float32)
        self.encoding = plan_mean(
            length,
            clip=8.0,
            cohort=silos,
            weight_cap=10 * WEIGHT,
            least_total_weight=WEIGHT,
            precision=1e-3,
            word_bits=32,
        )
        self.terms = Terms(
            federation="benchmark",
            job="masking",
            round=1,
            kind="train",
            release=1,
            roster=self.roster.digest,
            base=bytes(32),
            scheme=MaskingParameters(self.cohort),
            encoding=self.encoding,
        )
        self.encoded = self.quantise()

    def quantise(self) -> IntegerVector:
        """Encode the update and its weight."""
        return encode_mean(
            self.encoding, update=self.update, weight=WEIGHT, metrics={}, evaluation_weight=0.0
        )

    def session(self, silo: SiloId) -> MaskingSilo:
        """Return one silo's half of one attempt."""
        return MaskingSilo(
            silo,
            identity=self.identities[silo],
            roster=self.roster,
            terms=self.terms,
            vector=self.encoded,
            locks=Locks(),
            data_set="benchmark",
        )

    def coordinator(self) -> MaskingCoordinator:
        """Return the coordinator's half of one attempt."""
        return MaskingCoordinator(self.roster, terms=self.terms, attempt=1, seconds=3600.0)

    def dropouts(self, count: int) -> frozenset[SiloId]:
        """Return ``count`` silos that will be lost before their vectors arrive; never the measured one."""
        return frozenset([silo for silo in self.roster.silos if silo != self.measured][:count])


@dataclass(frozen=True)
class Round:
    """What one round took.

    Attributes:
        client: the measured silo, by the reply that each step makes; beside them ``quantise``, ``streams``
            (adding masks, no part of the others), ``opened`` (checking the sum) and ``digest`` (the digest of
            the vector, which the transport asks for).
        coordinator: by the reply that each step awaits; beside them ``streams`` and ``decode`` (the sum as
            a mean of reals, which silos do too).
        vector_bytes, other_bytes: what the measured silo sent, as payload and beside it.
    """

    client: Stopwatch
    coordinator: Stopwatch
    vector_bytes: int
    other_bytes: int


def run_round(federation: Federation, dropouts: frozenset[SiloId]) -> Round:
    """Run one attempt to its end and check what it opened."""
    client, server = Stopwatch(), Stopwatch()
    with client.step("quantise"):
        federation.quantise()
    sessions = {silo: federation.session(silo) for silo in federation.roster.silos}
    sent = {"vector": 0, "other": 0}

    def reply(silo: SiloId, message: FromCoordinator, step: str) -> FromSilo | None:
        if silo != federation.measured:
            return sessions[silo].receive(message).output
        with client.step(step), streams_of(silo_half, client):
            output = sessions[silo].receive(message).output
        if isinstance(output, MaskedInput):
            with client.step("digest"):
                output.vector.digest  # noqa: B018 - computed when it is first read
            sent["vector"] += output.vector.size
        if output is not None:
            sent["other"] += len(wire.encode(output)[0])
        return output

    coordinator = federation.coordinator()
    drive(coordinator, reply, dropouts, server)
    open_mean(federation, coordinator.outcome, server)
    open_mean(federation, sessions[federation.measured].outcome, Stopwatch())
    return Round(client, server, sent["vector"], sent["other"])


def drive(
    coordinator: MaskingCoordinator,
    reply: Callable[[SiloId, FromCoordinator, str], FromSilo | None],
    dropouts: frozenset[SiloId],
    watch: Stopwatch,
) -> None:
    """Carry messages until the sum is opened and announced; ``dropouts`` are lost before their vectors."""
    outbox = coordinator.open(0.0).output
    while (step := coordinator.phase) is not None:
        addressed, outbox = outbox, {}
        for silo, message in addressed.items():
            if step == "MaskedInput" and silo in dropouts:
                coordinator.lose(silo)
            elif (answer := reply(silo, message, step)) is not None:
                with watch.step(step):
                    coordinator.receive(silo, answer)
                del answer  # One upload is in memory, never n.
            with watch.step(step), streams_of(coordinator_half, watch):
                outbox = coordinator.advance(0.0).output
            if outbox:
                break  # The phase closed: a sum needs t answers, not all.
    for silo, message in outbox.items():
        if silo not in dropouts:
            reply(silo, message, "opened")


@contextmanager
def streams_of(half: Any, watch: Stopwatch) -> Iterator[None]:
    """Time, under "streams", the product's ``add_streams`` where ``half`` calls it."""
    add_streams = half.add_streams

    def timed(*args: Any, **named: Any) -> None:
        with watch.step("streams"):
            add_streams(*args, **named)

    with mock.patch.object(half, "add_streams", timed):
        yield


def open_mean(federation: Federation, opened: Aggregate | None, watch: Stopwatch) -> None:
    """Decode what was opened under step ``decode``, and compare it with what went in.

    Raises:
        ArithmeticError: it is not the sum of the survivors' inputs, or not the mean of their updates.
    """
    if opened is None:
        raise ArithmeticError("no sum was opened")
    with watch.step("decode"):
        mean = decode_mean(federation.encoding, opened.total, silos=len(opened.survivors))
    if not np.array_equal(opened.total, federation.encoded * np.uint32(len(opened.survivors))):
        raise ArithmeticError("the opened sum is not the sum of the inputs")
    if mean.values is None or np.abs(mean.values - federation.update).max() > mean.worst_error:
        raise ArithmeticError("the opened mean is not the mean of the updates")
