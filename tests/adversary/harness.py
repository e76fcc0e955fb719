"""A federation of real silos, a coordinator that may lie, and what it knows.

The silos are ``Participant``s behind wire bytes, with journals that survive a crash. ``Liar`` is the
coordinator: it sends anything to anyone, and silos in ``colluders`` hand it every secret they hold.
``Knowledge`` keeps what both saw and computes whatever can be computed from it: secrets from shares, streams
from secrets, and every sum of vectors that the rest leaves open. A test asserts how little that is, and its
mutant that it is a victim's vector.

Vectors are uniform words and depend on (silo, base) alone, so that a difference of two sums is exact.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from itertools import combinations
from math import lcm
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from secagg import wire
from secagg.cohort import Cohort
from secagg.errors import FaultyCoordinator, FaultySiloOrCoordinator, MalformedMessage, SecaggError
from secagg.fixedpoint import plan_sum
from secagg.hazmat.agreement import AgreementKey
from secagg.hazmat.identity import IdentityKey
from secagg.hazmat.prg import add_streams
from secagg.hazmat.shamir import combine, lagrange
from secagg.masking import transcript
from secagg.masking.checks import opening_matches
from secagg.masking.dealing import OpeningPair, receive
from secagg.masking.transcript import Kind
from secagg.messages import (
    AdvertiseKeys,
    ConsistencyCheck,
    DealerEvidence,
    FromCoordinator,
    FromSilo,
    KeyBundle,
    KeysAnnounced,
    MaskedInput,
    Opened,
    Opening,
    RoundOpened,
    ShareKeys,
    SharesAnnounced,
    ShareSet,
    SurvivorsAnnounced,
    TrainingOpened,
    Unmasking,
    UnmaskingRequested,
    Void,
    Voided,
    VoidRequested,
)
from secagg.names import IntegerVector, RandomSource, SiloId
from secagg.payload import Frame, Payload
from secagg.policy import Policy
from secagg.records import SiloRecord, decode_silo_record
from secagg.roster import Roster
from secagg.rounds.silo import Participant
from secagg.session import Aggregate
from secagg.simulation import SimulatedSilo
from secagg.survivors import sign_survivors
from secagg.terms import MaskingParameters, Terms, training_digest

BASE = hashlib.sha256(b"a base model").digest()
SECONDS = 60.0
KINDS: tuple[Kind, ...] = ("seed", "mask")
T = TypeVar("T", bound=FromSilo)


@lru_cache(maxsize=1024)
def _once(derive: Callable[..., bytes], *values: Any) -> bytes:
    """Return ``derive(*values)``: the coordinator needs the same digests at every message."""
    return derive(*values)


# --- silos -----------------------------------------------------------------------------------------------


class Work:
    """A workload without learning: bases by round, vectors from ``data``.

    Attributes:
        bases: round -> digest of the model held for it, or None; a round that is not in it starts from
            ``BASE``.
        data: terms -> the silo's vector.
        applied: every sum that the silo took.
    """

    def __init__(self, data: Callable[[Terms], IntegerVector]) -> None:
        self.bases: dict[int, bytes | None] = {}
        self.data = data
        self.applied: list[Aggregate] = []
        self._candidate: bytes | None = None

    def accept(self, terms: Terms) -> None:
        pass

    def holds(self, terms: Terms) -> bytes | None:
        return self.bases.get(terms.round, BASE)

    def base_size(self, terms: Terms) -> int:
        return 0

    def base(self, terms: Terms) -> Payload | None:
        return None

    def adopt(self, terms: Terms, base: Payload) -> None:
        if base.digest != terms.base:
            raise FaultyCoordinator("the base model that was sent is not the one that the round names")
        self._candidate = base.digest

    def confirm(self, terms: Terms) -> None:
        if self._candidate is not None:
            self.bases[terms.round], self._candidate = self._candidate, None

    def vector(self, terms: Terms) -> IntegerVector:
        return self.data(terms)

    def apply(self, terms: Terms, aggregate: Aggregate, *, faulty: tuple[SiloId, ...] = ()) -> Opened:
        self.applied.append(aggregate)
        return Opened(training_digest(terms), terms.base, aggregate.survivors, faulty)

    def said(self, terms: Terms) -> None:
        pass


class Host(SimulatedSilo):
    """One silo's machine: its journal and its cache outlive a crash, its session does not.

    What is changed of it (``work``, ``cache``, ``roster``, ``random``) holds from the next ``restart``.
    """

    def __init__(self, silo: SiloId, federation: Federation) -> None:
        self.silo = silo
        self.federation = federation
        self.work = Work(lambda terms: federation.vector(silo, terms.base))
        self.cache: dict[bytes, IntegerVector] = {}
        self.roster = federation.roster
        self.random: Callable[[], RandomSource] = lambda: federation.random
        super().__init__(self._participant_from)

    def _participant_from(self, records: Iterable[SiloRecord]) -> Participant:
        federation = self.federation
        return Participant(
            self.silo,
            identity=federation.identities[self.silo],
            roster=self.roster,
            policy=federation.policies.get(self.silo, federation.policy),
            workload=self.work,
            records=records,
            cache=cast("dict[bytes, Any]", self.cache),
            random=self.random(),
            threads=1,
        )

    def deliver(self, frame: Frame) -> Frame | None:
        reply = super().deliver(frame)
        self.federation.knowledge.hear(self, frame, reply)
        return reply

    def crash(self, frame: Frame, *, synced: int) -> None:
        """Take ``frame``, sync the first ``synced`` of its records, die before the reply leaves, return."""
        before = len(self.journal)
        super().deliver(frame)
        del self.journal[before + synced :]
        self.restart()

    @property
    def participant(self) -> Participant:
        """The running silo."""
        return self._participant

    @property
    def records(self) -> list[SiloRecord]:
        """The journal, decoded."""
        return [decode_silo_record(line) for line in self.journal]

    @property
    def state(self) -> Any:
        """The state of the present masking session, with its secrets; None outside an attempt."""
        session = self._participant._session
        return None if session is None else session._state  # type: ignore[attr-defined]


class Federation:
    """Silos ``a``, ``b``, ... with identities, one pinned roster and one policy.

    Args:
        n: silos.
        colluders: those that hand everything to the coordinator.
        c, t, k_min: of the cohort, as ``Cohort.of``.
        length: entries of a vector.
        seed: of all randomness, so that a schedule can be repeated.
    """

    def __init__(
        self,
        n: int,
        *,
        colluders: Iterable[SiloId] = (),
        c: int | None = None,
        t: int | None = None,
        k_min: int = 2,
        length: int = 3,
        seed: int = 0,
        policy: Policy | None = None,
    ) -> None:
        self.random: RandomSource = np.random.default_rng([n, seed]).bytes
        names = [chr(ord("a") + slot) for slot in range(n)]
        self.identities = {silo: IdentityKey.generate(self.random) for silo in names}
        self.roster = Roster.of({silo: self.identities[silo].public for silo in names})
        self.cohort = Cohort.of(n, c=c, t=t, k_min=k_min)
        # A bare vector in the place of an update has no weight that a cap could bound.
        self.policy = Policy(min_weight_cap=None) if policy is None else policy
        self.policies: dict[SiloId, Policy] = {}
        self.encoding = plan_sum(length, clip=8.0, cohort=n)
        self.colluders = frozenset(colluders)
        self.knowledge = Knowledge(self)
        self.silos = {silo: Host(silo, self) for silo in names}

    @property
    def honest(self) -> tuple[SiloId, ...]:
        """The others, in slot order."""
        return tuple(silo for silo in self.roster.silos if silo not in self.colluders)

    def terms(self, **changes: Any) -> Terms:
        """Return the terms of a round; every field can be changed."""
        fields: dict[str, Any] = {
            "federation": "federation",
            "job": "job",
            "round": 1,
            "kind": "sum",
            "release": 1,
            "roster": self.roster.digest,
            "base": BASE,
            "scheme": MaskingParameters(self.cohort),
            "encoding": self.encoding,
        }
        return Terms(**(fields | changes))

    def vector(self, silo: SiloId, base: bytes = BASE) -> NDArray[Any]:
        """Return the true vector of ``silo``."""
        seed = hashlib.sha256(silo.encode() + base).digest()
        generator = np.random.default_rng(np.frombuffer(seed, np.uint32))
        return generator.integers(0, 2**32, self.encoding.length, dtype=self.encoding.dtype)

    def total(self, silos: Iterable[SiloId], base: bytes = BASE) -> NDArray[Any]:
        """Return the true sum over ``silos``."""
        total = np.zeros(self.encoding.length, self.encoding.dtype)
        for silo in silos:
            total += self.vector(silo, base)
        return total


# --- knowledge -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _View:
    """What one silo was told in its present attempt."""

    base: bytes
    descriptor: bytes
    bundles: Mapping[SiloId, KeyBundle]
    session: bytes = b""
    share_sets: Mapping[SiloId, ShareSet] | None = None


@dataclass(frozen=True, eq=False)
class Upload:
    """A masked vector and what it was masked with."""

    silo: SiloId
    base: bytes
    session: bytes
    round_id: bytes
    masks: Mapping[SiloId, bytes]  # U2 as this silo was told it -> mask public key
    masked: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Exposure:
    """A combination of honest silos' vectors that is known in clear.

    Attributes:
        coefficients: (silo, base) -> whole number, never 0.
        total: the combination of the vectors, without the count entry.
    """

    coefficients: Mapping[tuple[SiloId, bytes], int]
    total: NDArray[Any]

    @property
    def silos(self) -> frozenset[SiloId]:
        """Whose vectors are in it."""
        return frozenset(silo for silo, _ in self.coefficients)


class Knowledge:
    """Everything that the coordinator and its colluders saw, and what follows from it.

    Attributes:
        uploads: every masked vector that left a silo.
        keys: mask public key -> private key: of colluders, made up, and rebuilt from shares.
    """

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        self._views: dict[SiloId, _View] = {}
        self._terms: dict[bytes, Terms] = {}
        self._boxes: dict[bytes, AgreementKey] = {}
        self._shares: defaultdict[tuple[bytes, SiloId, Kind], dict[SiloId, Opening]] = defaultdict(dict)
        self._share_sets: dict[tuple[bytes, SiloId], list[ShareSet]] = defaultdict(list)
        self._seeds: dict[tuple[bytes, SiloId], bytes] = {}
        self.keys: dict[bytes, AgreementKey] = {}
        self.uploads: list[Upload] = []

    # --- collecting ------------------------------------------------------------------------------------

    def hear(self, host: Host, frame: Frame, reply: Frame | None) -> None:
        """Take one message to a silo and its reply."""
        try:
            message = wire.decode_from_coordinator(*frame)
        except MalformedMessage:
            return  # Nor did the silo understand it.
        answer = None if reply is None else wire.decode_from_silo(*reply)
        silo = host.silo
        match message, answer:
            case TrainingOpened(), _:
                self._terms[training_digest(message.terms)] = message.terms
            case RoundOpened(), AdvertiseKeys():
                descriptor = transcript.descriptor_digest(message.training, message.attempt, message.seconds)
                self._views[silo] = _View(self._terms[message.training].base, descriptor, {})
            case KeysAnnounced(), ShareKeys():
                view = self._views[silo]
                session = _once(transcript.session_id, view.descriptor, message.bundles)
                self._views[silo] = replace(view, bundles=dict(message.bundles), session=session)
                self._share_sets[session, silo].append(answer.share_set)
                self._open_boxes(self._views[silo], silo, answer)
            case SharesAnnounced(), MaskedInput():
                view = replace(self._views[silo], share_sets=dict(message.share_sets))
                self._views[silo] = view
                masks = {peer: view.bundles[peer].mask for peer, _ in message.share_sets}
                masked = answer.vector.array()
                upload = Upload(silo, view.base, view.session, answer.round_id, masks, masked)
                self.uploads.append(upload)
            case UnmaskingRequested(), Unmasking():
                self._take_openings(self._views[silo], silo, answer)
        if silo in self._federation.colluders:
            self._take_secrets(host)

    def _take_secrets(self, host: Host) -> None:
        """A colluder hands over what its session holds."""
        state: Any = host.state
        if isinstance(getattr(state, "box", None), AgreementKey):
            self._boxes[state.box.public] = state.box
            self.keys[state.mask.public] = state.mask
        if hasattr(state, "seed"):
            self._seeds[state.session, host.silo] = state.seed
            self._keep(state.session, host.silo, host.silo, state.own)

    def _open_boxes(self, view: _View, dealer: SiloId, sent: ShareKeys) -> None:
        """Open what a silo sealed to colluders."""
        entries = {entry.recipient: entry for entry in sent.share_set.entries}
        for recipient, *boxes in sent.boxes:
            box = self._boxes.get(view.bundles[recipient].box)
            if box is None:
                continue
            try:
                pair = receive(
                    session=view.session,
                    dealer=dealer,
                    recipient=recipient,
                    box=box,
                    dealer_box=view.bundles[dealer].box,
                    entry=entries[recipient],
                    boxes=(boxes[0], boxes[1]),
                )
            except MalformedMessage:
                continue  # A colluder that deals badly keeps no secret from the coordinator.
            self._keep(view.session, dealer, recipient, pair)

    def _keep(self, session: bytes, dealer: SiloId, recipient: SiloId, pair: OpeningPair) -> None:
        self._shares[session, dealer, "seed"][recipient] = pair.seed
        self._shares[session, dealer, "mask"][recipient] = pair.mask

    def _take_openings(self, view: _View, silo: SiloId, answer: Unmasking) -> None:
        for dealer, opening in answer.openings:
            for kind in KINDS:
                for share_set in self._share_sets[view.session, dealer]:
                    entry = next(e for e in share_set.entries if e.recipient == silo)
                    if opening_matches(view.session, dealer, entry, kind, opening):
                        self._shares[view.session, dealer, kind][silo] = opening

    # --- what follows ------------------------------------------------------------------------------------

    @property
    def sessions(self) -> frozenset[bytes]:
        """Every session in which a silo dealt shares."""
        return frozenset(session for session, _ in self._share_sets)

    def shares_of(self, session: bytes, dealer: SiloId, kind: Kind) -> Mapping[SiloId, bytes]:
        """Return recipient -> share, of those that are known."""
        return {silo: opening.share for silo, opening in self._shares[session, dealer, kind].items()}

    def double_reveals(self, threshold: int) -> frozenset[tuple[bytes, SiloId]]:
        """Return each (session, honest dealer) of which both secrets can be combined."""
        return frozenset(
            (session, dealer)
            for session in self.sessions
            for dealer in self._federation.honest
            if all(len(self.shares_of(session, dealer, kind)) >= threshold for kind in KINDS)
        )

    def secret_of(self, session: bytes, dealer: SiloId, kind: Kind) -> bytes | None:
        """Return a dealer's seed or mask key if it is known or enough shares are; checked, never guessed."""
        if kind == "seed" and (session, dealer) in self._seeds:
            return self._seeds[session, dealer]
        shares = self.shares_of(session, dealer, kind)
        if len(shares) < 2:
            return None
        try:
            weights = lagrange([self._federation.roster.slot(silo) + 1 for silo in shares])
            secret = combine(weights, list(shares.values()))
        except MalformedMessage:
            return None
        for share_set in self._share_sets[session, dealer]:
            if kind == "seed" and transcript.seed_commitment(session, dealer, secret) == share_set.seed:
                return secret
            if kind == "mask" and AgreementKey.from_private_bytes(secret).public == share_set.mask:
                return secret
        return None

    def exposures(self, silos: Iterable[SiloId] | None = None) -> list[Exposure]:
        """Return a basis of all combinations that are in clear and have vectors of ``silos`` alone in them.

        None for all honest silos. Colluders' vectors are known and never in one.
        """
        return _exposed(self._unmasked(), silos)

    def smallest(self, below: int) -> Exposure | None:
        """Return a combination in clear that covers fewer than ``below`` honest silos, the fewest first."""
        rows = self._unmasked()
        covered = sorted({silo for exposure in _exposed(rows, None) for silo in exposure.silos})
        for size in range(1, below):
            for silos in combinations(covered, size):
                for exposure in _exposed(rows, silos):
                    return exposure
        return None

    def vector_of(self, silo: SiloId, base: bytes = BASE) -> NDArray[Any] | None:
        """Return the vector of one silo if it is in clear."""
        for exposure in self.exposures([silo]):
            factor = exposure.coefficients.get((silo, base), 0)
            if factor % 2 and len(exposure.coefficients) == 1:
                return _times(exposure.total, pow(factor, -1, _modulus(exposure.total)))
        return None

    def learn(self, *keys: AgreementKey) -> None:
        """Take private keys that the coordinator made up for silos, as box and mask keys."""
        self._boxes |= {key.public: key for key in keys}
        self.keys |= {key.public: key for key in keys}

    def learn_seed(self, session: bytes, silo: SiloId, seed: bytes) -> None:
        """Take the seed of a silo's own mask, however it came about."""
        self._seeds[session, silo] = seed

    def _unmasked(self) -> list[_Row]:
        """Return the combinations of uploads in which no unknown stream is left."""
        honest = [upload for upload in self.uploads if upload.silo not in self._federation.colluders]
        self._rebuild_keys()
        sums = [self._strip(upload) for upload in honest]
        return _eliminate(sums, {symbol for row, _ in sums for symbol in row if len(symbol) > 2})

    def stripped(self, upload: Upload) -> _Row:
        """Return ``upload`` without every stream that is known, and what is left in it by name."""
        self._rebuild_keys()
        return self._strip(upload)

    def _strip(self, upload: Upload) -> _Row:
        total = upload.masked.copy()
        row: dict[Any, int] = {(upload.silo, upload.base): 1}
        plus: list[bytes] = []
        minus: list[bytes] = []
        seed = self.secret_of(upload.session, upload.silo, "seed")
        if seed is None:
            row["self", upload.round_id, upload.session, upload.silo] = 1
        else:
            minus.append(transcript.self_stream(seed, upload.round_id, upload.silo))
        for peer in upload.masks.keys() - {upload.silo}:
            added, stream, key = self._pair(upload, peer)
            if key is None:
                row[stream] = 1 if added else -1
            else:
                (minus if added else plus).append(key)
        add_streams(total, plus=plus, minus=minus, threads=1)
        return row, total[:-1]

    def _pair(self, upload: Upload, peer: SiloId) -> tuple[bool, tuple[Any, ...], bytes | None]:
        """Return whether the silo added the stream, its name, and its key if that is known."""
        slot = self._federation.roster.slot
        added = slot(upload.silo) < slot(peer)
        lower, higher = (upload.silo, peer) if added else (peer, upload.silo)
        own, other = upload.masks[upload.silo], upload.masks[peer]
        name = ("pair", upload.round_id, lower, higher, frozenset({own, other}))
        for mine, theirs in ((own, other), (other, own)):
            if mine in self.keys:
                key = transcript.pair_stream(
                    self.keys[mine], theirs, upload.round_id, lower=lower, higher=higher
                )
                return added, name, key
        return added, name, None

    def _rebuild_keys(self) -> None:
        for (session, dealer), share_sets in self._share_sets.items():
            if all(share_set.mask in self.keys for share_set in share_sets):
                continue
            secret = self.secret_of(session, dealer, "mask")
            if secret is not None:
                key = AgreementKey.from_private_bytes(secret)
                self.keys[key.public] = key


_Row = tuple[Mapping[Any, int], NDArray[Any]]


def _exposed(rows: list[_Row], silos: Iterable[SiloId] | None) -> list[Exposure]:
    if silos is not None:
        inside = frozenset(silos)
        rows = _eliminate(rows, {vector for row, _ in rows for vector in row if vector[0] not in inside})
    return [Exposure(dict(row), total) for row, total in _independent(rows)]


def _eliminate(rows: Sequence[_Row], symbols: Iterable[Any]) -> list[_Row]:
    """Return a basis of the combinations of ``rows`` in which none of ``symbols`` is left.

    Coefficients stay whole, because the vectors are words: dividing could lose a bit.
    """
    left = list(rows)
    for symbol in symbols:
        pivot = next((row for row in left if row[0].get(symbol)), None)
        if pivot is None:
            continue
        left = [
            _combine(row, pivot, symbol) if row[0].get(symbol) else row for row in left if row is not pivot
        ]
    return [_oriented(row) for row in left if row[0]]


def _oriented(row: _Row) -> _Row:
    """Return ``row`` or its negative: whichever adds more than it subtracts."""
    return row if sum(row[0].values()) >= 0 else ({s: -v for s, v in row[0].items()}, _times(row[1], -1))


def _combine(row: _Row, pivot: _Row, symbol: Any) -> _Row:
    """Return the multiple of ``row`` minus that of ``pivot`` in which ``symbol`` is gone."""
    common = lcm(row[0][symbol], pivot[0][symbol])
    a, b = common // row[0][symbol], -common // pivot[0][symbol]
    mixed = {s: a * row[0].get(s, 0) + b * pivot[0].get(s, 0) for s in row[0].keys() | pivot[0].keys()}
    return {s: value for s, value in mixed.items() if value}, _times(row[1], a) + _times(pivot[1], b)


def _modulus(vector: NDArray[Any]) -> int:
    return 1 << (8 * vector.dtype.itemsize)


def _times(vector: NDArray[Any], factor: int) -> NDArray[Any]:
    product: NDArray[Any] = vector * vector.dtype.type(factor % _modulus(vector))
    return product


def _independent(rows: Sequence[_Row]) -> list[_Row]:
    """Return rows of which none is a combination of the others."""
    kept: list[_Row] = []
    echelon: list[tuple[Any, Mapping[Any, Fraction]]] = []
    for row in rows:
        rest = {symbol: Fraction(value) for symbol, value in row[0].items()}
        for pivot, other in echelon:
            factor = rest.get(pivot, Fraction(0)) / other[pivot]
            rest = {
                s: rest.get(s, Fraction(0)) - factor * other.get(s, Fraction(0))
                for s in rest.keys() | other.keys()
            }
        rest = {symbol: value for symbol, value in rest.items() if value}
        if rest:
            echelon.append((next(iter(rest)), rest))
            kept.append(row)
    return kept


# --- the coordinator -------------------------------------------------------------------------------------


class Liar:
    """A coordinator that sends what it likes to whom it likes, over wire bytes.

    Attributes:
        sent: every (silo, frame to it, reply), in order.
    """

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.sent: list[tuple[SiloId, Frame, Frame | None]] = []

    @property
    def knowledge(self) -> Knowledge:
        """What it and its colluders know."""
        return self.federation.knowledge

    def tell(self, silo: SiloId, message: FromCoordinator) -> FromSilo | None:
        """Send one message and return the reply: None, Refused, or what was asked for."""
        frame = frozen(wire.encode(message))
        reply = self.federation.silos[silo].deliver(frame)
        self.sent.append((silo, frame, None if reply is None else frozen(reply)))
        return None if reply is None else wire.decode_from_silo(*reply)

    def ask(self, silos: Iterable[SiloId], message: FromCoordinator, kind: type[T]) -> dict[SiloId, T]:
        """Send one message to each of ``silos`` and return those replies that are of ``kind``."""
        replies = {silo: self.tell(silo, message) for silo in silos}
        return {silo: reply for silo, reply in replies.items() if isinstance(reply, kind)}

    def train(self, terms: Terms, silos: Iterable[SiloId] | None = None) -> dict[SiloId, FromSilo | None]:
        """Announce ``terms`` to ``silos`` (None: everybody) and return what they say."""
        opened = TrainingOpened(terms, SECONDS)
        chosen = self.federation.roster.silos if silos is None else silos
        return {silo: self.tell(silo, opened) for silo in chosen}

    def void(self, round_ids: Iterable[bytes], silos: Iterable[SiloId] | None = None) -> tuple[Void, ...]:
        """Ask ``silos`` (None: everybody) to void ``round_ids`` and return the voids."""
        chosen = self.federation.roster.silos if silos is None else silos
        replies = self.ask(chosen, VoidRequested(tuple(round_ids)), Voided)
        return tuple(void for reply in replies.values() for void in reply.voids)


class Attempt:
    """One attempt, step by step, each step towards any silos with any content.

    Every method sends to ``to`` (None: to all that the step is about) and returns the replies of the right
    kind. What silos sent is kept, so that later steps and tests can use it.
    """

    def __init__(
        self,
        liar: Liar,
        terms: Terms,
        number: int = 1,
        *,
        voids: tuple[Void, ...] = (),
        evidence: tuple[DealerEvidence, ...] = (),
    ) -> None:
        self.liar = liar
        self.terms = terms
        self.opened = RoundOpened(training_digest(terms), number, SECONDS, voids, evidence)
        self.bundles: dict[SiloId, KeyBundle] = {}
        self.dealt: dict[SiloId, ShareKeys] = {}
        self.signatures: defaultdict[tuple[bytes, tuple[SiloId, ...]], dict[SiloId, bytes]] = defaultdict(
            dict
        )

    def beside(self, terms: Terms) -> Attempt:
        """Return this attempt as it is told to some silos under other terms: what is collected is shared."""
        other = Attempt(self.liar, terms, self.opened.attempt)
        other.bundles, other.dealt, other.signatures = self.bundles, self.dealt, self.signatures
        return other

    @property
    def roster(self) -> Roster:
        """The pinned roster."""
        return self.liar.federation.roster

    @property
    def descriptor(self) -> bytes:
        """The digest that bundles are signed over."""
        return transcript.descriptor_digest(self.opened.training, self.opened.attempt, self.opened.seconds)

    @property
    def session(self) -> bytes:
        """The id of the session in which all bundles were announced."""
        return _once(transcript.session_id, self.descriptor, tuple(self._in_order(self.bundles)))

    def round_id(self, members: Iterable[SiloId] | None = None) -> bytes:
        """Return the id of the round whose U2 is ``members``; None for all who dealt."""
        return _once(transcript.round_id, self.session, tuple(self._share_sets(members)))

    def advertise(self, silos: Iterable[SiloId] | None = None) -> dict[SiloId, AdvertiseKeys]:
        """Open the attempt and collect keys."""
        replies = self.liar.ask(self.roster.silos if silos is None else silos, self.opened, AdvertiseKeys)
        self.bundles |= {silo: reply.bundle for silo, reply in replies.items()}
        return replies

    def announce_keys(
        self, bundles: Mapping[SiloId, KeyBundle] | None = None, *, to: Iterable[SiloId] | None = None
    ) -> dict[SiloId, ShareKeys]:
        """Announce U1 and collect share sets and boxes."""
        shown = self.bundles if bundles is None else bundles
        message = KeysAnnounced(tuple(self._in_order(shown)))
        replies = self.liar.ask(list(shown) if to is None else to, message, ShareKeys)
        self.dealt |= replies
        return replies

    def announce_shares(
        self, members: Iterable[SiloId] | None = None, *, to: Iterable[SiloId] | None = None
    ) -> dict[SiloId, MaskedInput]:
        """Announce ``members`` as U2, each with its boxes, and collect masked inputs."""
        share_sets = self._share_sets(members)
        replies: dict[SiloId, MaskedInput] = {}
        for silo in [dealer for dealer, _ in share_sets] if to is None else to:
            message = SharesAnnounced(tuple(share_sets), tuple(self._boxes_for(silo, share_sets)))
            replies |= self.liar.ask([silo], message, MaskedInput)
        return replies

    def announce_survivors(
        self,
        survivors: Iterable[SiloId],
        *,
        members: Iterable[SiloId] | None = None,
        to: Iterable[SiloId] | None = None,
    ) -> dict[SiloId, ConsistencyCheck]:
        """Ask for signatures over ``survivors`` in the round whose U2 is ``members``."""
        ordered = self.roster.ordered(frozenset(survivors))
        message = SurvivorsAnnounced(self.round_id(members), ordered)
        replies = self.liar.ask(ordered if to is None else to, message, ConsistencyCheck)
        for silo, reply in replies.items():
            self.signatures[reply.round_id, ordered][silo] = reply.signature
        return replies

    def collude(
        self, survivors: Iterable[SiloId], *, members: Iterable[SiloId] | None = None
    ) -> dict[SiloId, bytes]:
        """Let colluders sign ``survivors``, whatever they signed before; return all signatures so far."""
        federation = self.liar.federation
        ordered = self.roster.ordered(frozenset(survivors))
        round_id = self.round_id(members)
        signatures = self.signatures[round_id, ordered]
        for silo in federation.colluders & set(ordered):
            signatures[silo] = sign_survivors(federation.identities[silo], round_id, ordered)
        return signatures

    def request(
        self,
        survivors: Iterable[SiloId],
        *,
        members: Iterable[SiloId] | None = None,
        to: Iterable[SiloId] | None = None,
        signatures: Mapping[SiloId, bytes] | None = None,
    ) -> dict[SiloId, Unmasking]:
        """Ask to unmask ``survivors``, with all signatures over them that are there."""
        ordered = self.roster.ordered(frozenset(survivors))
        round_id = self.round_id(members)
        shown = self.signatures[round_id, ordered] if signatures is None else signatures
        message = UnmaskingRequested(round_id, ordered, tuple(self._in_order(shown)))
        return self.liar.ask(ordered if to is None else to, message, Unmasking)

    def until_masked(self, silos: Iterable[SiloId] | None = None) -> dict[SiloId, MaskedInput]:
        """Run an honest attempt of ``silos`` up to their masked inputs."""
        self.advertise(silos)
        self.announce_keys()
        return self.announce_shares()

    def finish(self, survivors: Iterable[SiloId]) -> dict[SiloId, Unmasking]:
        """Ask for signatures, then for shares."""
        chosen = tuple(survivors)
        self.announce_survivors(chosen)
        self.collude(chosen)
        return self.request(chosen)

    def _share_sets(self, members: Iterable[SiloId] | None) -> list[tuple[SiloId, ShareSet]]:
        chosen = frozenset(self.dealt if members is None else members)
        return [(silo, self.dealt[silo].share_set) for silo in self.roster.ordered(chosen)]

    def _boxes_for(
        self, silo: SiloId, share_sets: Iterable[tuple[SiloId, ShareSet]]
    ) -> Iterator[tuple[SiloId, bytes, bytes]]:
        for dealer, _ in share_sets:
            for recipient, seed, mask in self.dealt[dealer].boxes:
                if recipient == silo:
                    yield dealer, seed, mask

    def _in_order(self, values: Mapping[SiloId, Any]) -> list[tuple[SiloId, Any]]:
        return [(silo, values[silo]) for silo in self.roster.ordered(frozenset(values))]


def frozen(frame: Frame) -> Frame:
    """Return ``frame`` with a payload of its own, which later additions cannot change."""
    header, payload = frame
    return header, None if payload is None else memoryview(bytes(payload[:]))


def refusals(host: SimulatedSilo) -> list[type[SecaggError]]:
    """Return the kinds of errors that a silo raised, in order."""
    return [type(error) for error in host.errors]


def named(federation: Federation) -> frozenset[SiloId]:
    """Return every silo that some silo named as faulty."""
    return frozenset(
        error.silo
        for host in federation.silos.values()
        for error in host.errors
        if isinstance(error, FaultySiloOrCoordinator)
    )
