"""Key ceremonies of four silos over wire frames, with keys that are made once in each process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from secagg import wire
from secagg.cohort import Cohort
from secagg.hazmat.identity import IdentityKey
from secagg.keys.coordinator import EstablishedKey, KeyCeremony
from secagg.keys.document import SCHEMES
from secagg.keys.keyring import HeldKey, Keyring
from secagg.keys.secret import KeyMaker, MadeKey, make_key
from secagg.keys.silo import CeremonySilo
from secagg.messages import FromCoordinator, FromSilo
from secagg.names import RandomSource, SiloId
from secagg.policy import Policy
from secagg.records import SiloRecord
from secagg.roster import Roster
from secagg.terms import KeyScheme
from tests.paillier_keys import SAFE_P, SAFE_Q, secret_key, stream

SILOS = ("a", "b", "c", "d")
IDENTITIES = {silo: IdentityKey.from_private_bytes(silo.encode() * 32) for silo in SILOS}
ROSTER = Roster.of({silo: identity.public for silo, identity in IDENTITIES.items()})
MAKER = "b"
NOW = 1_790_000_000
THRESHOLD = Cohort.of(len(SILOS)).t
POLICY = Policy(schemes=frozenset(SCHEMES))

SIZES: Mapping[KeyScheme, int] = {"paillier": 2048, "threshold-paillier": 2048, "ckks": 4096}


@cache
def _shared_out(seed: str, parties: int, threshold: int) -> MadeKey:
    from secagg.paillier.shares import deal_from

    key, shares = deal_from(SAFE_P, SAFE_Q, parties=parties, threshold=threshold, random=stream(seed))
    return MadeKey(key.id, key.to_bytes(), tuple(share.to_bytes() for share in shares))


def maker(seed: str = "key") -> KeyMaker:
    """Return what makes the key of ``seed``; of CKKS a new one each time, which takes no time."""

    def make(
        scheme: KeyScheme, *, size: int, threshold: int | None, parties: int, random: RandomSource
    ) -> MadeKey:
        match scheme:
            case "paillier":
                secret = secret_key(seed, size)
                return MadeKey(secret.public.id, secret.public.to_bytes(), (secret.to_bytes(),) * parties)
            case "threshold-paillier":
                assert threshold is not None
                return _shared_out(seed, parties, threshold)
            case "ckks":
                return make_key(scheme, size=size, threshold=threshold, parties=parties, random=random)

    return make


def over_the_wire(message: Any) -> Any:
    """Return what the other end decodes."""
    decode: Callable[..., Any] = (
        wire.decode_from_silo if isinstance(message, FromSilo) else wire.decode_from_coordinator
    )
    return decode(*wire.encode(message))


def ceremony(scheme: KeyScheme = "paillier", **changes: Any) -> KeyCeremony:
    """Return a coordinator of a new ceremony."""
    threshold = THRESHOLD if scheme == "threshold-paillier" else None
    asked: dict[str, Any] = {"size": SIZES[scheme], "maker": MAKER, "threshold": threshold} | changes
    return KeyCeremony(ROSTER, federation="federation", scheme=scheme, **asked)


def silo(name: SiloId, **changes: Any) -> CeremonySilo:
    """Return a silo of a new ceremony."""
    given: dict[str, Any] = {"roster": ROSTER, "policy": POLICY, "now": NOW, "make": maker()} | changes
    return CeremonySilo(name, identity=IDENTITIES[name], **given)


@dataclass
class Ceremony:
    """An honest driver of one ceremony; ``turn`` at a time, or ``run`` to the end."""

    coordinator: KeyCeremony = field(default_factory=ceremony)
    silos: dict[SiloId, CeremonySilo] = field(default_factory=lambda: {name: silo(name) for name in SILOS})
    told: list[tuple[SiloId, FromCoordinator]] = field(default_factory=list)
    replied: list[tuple[SiloId, FromSilo]] = field(default_factory=list)
    journal: list[tuple[SiloId, SiloRecord]] = field(default_factory=list)
    inbox: Mapping[SiloId, FromCoordinator] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.inbox = self.coordinator.open(0.0).output

    @classmethod
    def of(cls, scheme: KeyScheme, *, seed: str = "key", **changes: Any) -> Ceremony:
        """Return a ceremony of ``scheme``."""
        silos = {name: silo(name, make=maker(seed)) for name in SILOS}
        return cls(ceremony(scheme, **changes), silos)

    def replies(self) -> dict[SiloId, FromSilo]:
        """Let the silos answer what they were told last."""
        answers: dict[SiloId, FromSilo] = {}
        for name, message in self.inbox.items():
            self.told.append((name, message))
            step = self.silos[name].receive(over_the_wire(message))
            self.journal += [(name, record) for record in step.records]
            assert step.output is not None
            answers[name] = step.output
        return answers

    def take(self, replies: Mapping[SiloId, FromSilo], now: float = 1.0) -> None:
        """Hand the answers to the coordinator, and let it go on."""
        for name, reply in replies.items():
            self.replied.append((name, reply))
            self.coordinator.receive(name, over_the_wire(reply))
        self.inbox = self.coordinator.advance(now).output

    def turn(self) -> None:
        """One phase."""
        self.take(self.replies())

    def run(self) -> EstablishedKey:
        """Return what came of it."""
        while self.inbox:
            self.turn()
        assert self.coordinator.outcome is not None
        return self.coordinator.outcome

    def held(self, name: SiloId) -> HeldKey:
        """Return the key that ``name`` holds."""
        held = self.silos[name].held
        assert held is not None
        return held

    def keyring(self, name: SiloId) -> Keyring:
        """Return the keys of ``name``."""
        return Keyring(name, ROSTER, [self.held(name)])

    def frames(self) -> list[bytes]:
        """Return everything that the coordinator saw."""
        return [wire.encode(message)[0] for _, message in (*self.told, *self.replied)]
