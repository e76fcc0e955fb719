"""One silo's half of pairwise masking: a state per phase, one ``match`` as the transition table.

Moving to the next state drops the secrets of the last one. Python cannot wipe memory, so dropping means
that no reference is left; see ``SECURITY.md``.

Source: Bonawitz et al., CCS 2017, figure 4, with the additions of ``docs/protocol.md``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from secagg.cohort import Cohort
from secagg.errors import (
    FaultyCoordinator,
    FaultySiloOrCoordinator,
    InputRefused,
    MalformedMessage,
    PolicyRefused,
    UnexpectedMessage,
)
from secagg.hazmat.agreement import AgreementKey
from secagg.hazmat.identity import IdentityKey
from secagg.hazmat.prg import add_streams
from secagg.masking import transcript
from secagg.masking.checks import bundle_fault, share_set_fault
from secagg.masking.dealing import OpeningPair, deal, receive
from secagg.messages import (
    AdvertiseKeys,
    BoxReport,
    ConsistencyCheck,
    FromCoordinator,
    KeyBundle,
    KeysAnnounced,
    MaskedInput,
    Opening,
    RoundOpened,
    ShareKeys,
    SharesAnnounced,
    ShareSet,
    SumOpened,
    SurvivorsAnnounced,
    Unmasking,
    UnmaskingRequested,
)
from secagg.names import IntegerVector, RandomSource, SiloId
from secagg.payload import Payload
from secagg.roster import Roster
from secagg.session import Aggregate, SiloStep, Step
from secagg.survivors import (
    Locks,
    check_survivors,
    count_matches,
    lock_key,
    sign_survivors,
    signed_survivors,
)
from secagg.terms import MaskingParameters, Terms, training_digest

T = TypeVar("T")


@dataclass(frozen=True)
class _Start:
    pass


@dataclass(frozen=True, repr=False)
class _Advertised:
    descriptor: bytes
    box: AgreementKey
    mask: AgreementKey
    bundle: KeyBundle


@dataclass(frozen=True, repr=False)
class _Shared:
    session: bytes
    peers: Mapping[SiloId, KeyBundle]  # U1, this silo included
    box: AgreementKey
    mask: AgreementKey
    seed: bytes
    own: OpeningPair
    share_set: ShareSet


@dataclass(frozen=True, repr=False)
class _Masked:
    session: bytes
    round_id: bytes
    pairs: Mapping[SiloId, OpeningPair]  # U2, this silo included


@dataclass(frozen=True, repr=False)
class _Signed:
    round_id: bytes
    survivors: tuple[SiloId, ...]
    pairs: Mapping[SiloId, OpeningPair]


@dataclass(frozen=True, repr=False)
class _Released:
    round_id: bytes
    members: frozenset[SiloId]


@dataclass(frozen=True)
class _Done:
    outcome: Aggregate


@dataclass(frozen=True)
class _Left:
    """The attempt is over for this silo; nothing of it is kept."""


_State: TypeAlias = _Start | _Advertised | _Shared | _Masked | _Signed | _Released | _Done | _Left


class MaskingSilo:
    """One silo in one attempt; single use.

    Args:
        silo: this silo's name in ``roster``.
        identity: its long-lived signing key.
        roster: the pinned roster.
        terms: what this silo agreed to in TrainingOpened; policy was checked there.
        vector: encoded input, uint32 or uint64 by ``terms.encoding``, shape (length,); not modified.
        locks: what this silo signed, released and voided; read here, changed only through records.
        data_set: the name under which this silo's data is configured.
        random: fresh uniform bytes.
        threads: for the masks; None for all usable cores.

    Raises:
        InputRefused: the vector is not of the encoding's length and word.

    Guarantees:
        No message leaves unless n, c, t and every parameter are those of this silo's own terms.
        For one peer a share of its seed or of its mask key is given, never both.
        After an error that ends the attempt every further message is refused.
        A mask stream is used for one vector of one attempt.
    """

    def __init__(
        self,
        silo: SiloId,
        *,
        identity: IdentityKey,
        roster: Roster,
        terms: Terms,
        vector: IntegerVector,
        locks: Locks,
        data_set: str,
        random: RandomSource = os.urandom,
        threads: int | None = None,
    ) -> None:
        match terms.scheme:
            case MaskingParameters(cohort=cohort):
                self._cohort: Cohort = cohort
            case _:
                raise PolicyRefused("scheme", "these terms are not those of masking")
        if vector.dtype != terms.encoding.dtype or vector.shape != (terms.encoding.length,):
            raise InputRefused(
                "shape", f"the encoded vector must be {terms.encoding.dtype} of {terms.encoding.length}"
            )
        self._silo = silo
        self._identity = identity
        self._roster = roster
        self._terms = terms
        self._training = training_digest(terms)
        self._vector: NDArray[Any] = vector
        self._locks = locks
        self._key = lock_key(data_set, terms)
        self._random = random
        self._threads = threads
        self._state: _State = _Start()

    @property
    def outcome(self) -> Aggregate | None:
        """The opened sum, once it was announced."""
        return self._state.outcome if isinstance(self._state, _Done) else None

    def receive(self, message: FromCoordinator) -> SiloStep:
        """Take one message of the coordinator; see ``SiloSession.receive``."""
        try:
            match self._state, message:
                case _Start(), RoundOpened():
                    return self._advertise(message)
                case _Advertised() as state, KeysAnnounced():
                    return self._share(state, message)
                case _Shared() as state, SharesAnnounced():
                    return self._mask(state, message)
                case _Masked() as state, SurvivorsAnnounced():
                    return self._sign(state, message)
                case _Signed() as state, UnmaskingRequested():
                    return self._unmask(state, message)
                case (_Masked() | _Signed() | _Released()) as state, SumOpened():
                    return self._finish(state, message)
                case state, _:
                    raise UnexpectedMessage(
                        f"{type(message).__name__} is not accepted in {type(state).__name__[1:]}"
                    )
        except (FaultyCoordinator, FaultySiloOrCoordinator, PolicyRefused):
            self._state = _Left()
            raise

    # --- step 1 ------------------------------------------------------------------------------------------

    def _advertise(self, opened: RoundOpened) -> SiloStep:
        if opened.training != self._training:
            raise FaultyCoordinator("the attempt is not for the terms that this silo was told")
        descriptor = transcript.descriptor_digest(opened.training, opened.attempt, opened.seconds)
        box, mask = AgreementKey.generate(self._random), AgreementKey.generate(self._random)
        unsigned = KeyBundle(box.public, mask.public, self._random(32), b"")
        signature = self._identity.sign(
            transcript.ADVERTISE, *transcript.bundle_fields(descriptor, self._silo, unsigned)
        )
        bundle = KeyBundle(unsigned.box, unsigned.mask, unsigned.nonce, signature)
        self._state = _Advertised(descriptor, box, mask, bundle)
        return Step((), AdvertiseKeys(bundle))

    # --- step 2 ------------------------------------------------------------------------------------------

    def _share(self, state: _Advertised, announced: KeysAnnounced) -> SiloStep:
        peers = self._members(announced.bundles, "the announced keys")
        if peers.get(self._silo) != state.bundle:
            raise FaultyCoordinator("the announced keys of this silo are not those that it sent")
        for peer, bundle in peers.items():
            if peer != self._silo:  # Its own is the one that it made.
                blame(peer, bundle_fault(self._roster, state.descriptor, peer, bundle))
        session = transcript.session_id(state.descriptor, announced.bundles)
        seed = self._random(32)
        dealt = deal(
            session=session,
            dealer=self._silo,
            identity=self._identity,
            box=state.box,
            mask=state.mask,
            seed=seed,
            peers={peer: bundle.box for peer, bundle in peers.items()},
            roster=self._roster,
            threshold=self._cohort.t,
            random=self._random,
        )
        self._state = _Shared(session, peers, state.box, state.mask, seed, dealt.own, dealt.share_set)
        return Step((), ShareKeys(dealt.share_set, dealt.boxes))

    # --- step 3 ------------------------------------------------------------------------------------------

    def _mask(self, state: _Shared, announced: SharesAnnounced) -> SiloStep:
        share_sets = self._members(announced.share_sets, "the announced share sets")
        if share_sets.get(self._silo) != state.share_set:
            raise FaultyCoordinator("the announced share set of this silo is not the one that it sent")
        if not share_sets.keys() <= state.peers.keys():
            raise FaultyCoordinator("a share set is announced of a silo whose keys were not")
        boxes = {dealer: (seed, mask) for dealer, seed, mask in announced.boxes}
        if boxes.keys() != share_sets.keys() - {self._silo} or len(boxes) != len(announced.boxes):
            raise FaultyCoordinator("the boxes for this silo are not one of each other dealer")
        for dealer, share_set in share_sets.items():
            if dealer != self._silo:
                blame(dealer, share_set_fault(self._roster, state.session, dealer, share_set, state.peers))
        pairs = {self._silo: state.own}
        for dealer, sealed in boxes.items():
            entry = next(e for e in share_sets[dealer].entries if e.recipient == self._silo)
            if tuple(map(transcript.box_digest, sealed)) != (entry.seed_box, entry.mask_box):
                raise FaultyCoordinator(f"the boxes of {dealer} are not those that it signed")
            try:
                pairs[dealer] = receive(
                    session=state.session,
                    dealer=dealer,
                    recipient=self._silo,
                    box=state.box,
                    dealer_box=state.peers[dealer].box,
                    entry=entry,
                    boxes=sealed,
                )
            except MalformedMessage:
                # The signed box itself is wrong, so the dealer is; without its share this silo cannot
                # help to unmask, and it says so before its vector leaves.
                self._state = _Left()
                return Step((), BoxReport(state.session, dealer))
        round_id = transcript.round_id(state.session, announced.share_sets)
        masked = self._masked_vector(state, round_id, frozenset(share_sets))
        self._state = _Masked(state.session, round_id, {dealer: pairs[dealer] for dealer in share_sets})
        return Step((), MaskedInput(round_id, Payload.of(masked)))

    def _masked_vector(self, state: _Shared, round_id: bytes, members: frozenset[SiloId]) -> NDArray[Any]:
        masked = np.empty(self._vector.size + 1, self._vector.dtype)
        masked[:-1] = self._vector
        masked[-1] = 1  # The count entry: opened, it must equal the number of survivors.
        plus = [transcript.self_stream(state.seed, round_id, self._silo)]
        minus: list[bytes] = []
        for peer in self._roster.ordered(members - {self._silo}):
            lower_is_self = self._roster.slot(self._silo) < self._roster.slot(peer)
            lower, higher = (self._silo, peer) if lower_is_self else (peer, self._silo)
            key = transcript.pair_stream(
                state.mask, state.peers[peer].mask, round_id, lower=lower, higher=higher
            )
            (plus if lower_is_self else minus).append(key)
        add_streams(masked, plus=plus, minus=minus, threads=self._threads)
        return masked

    # --- step 4 ------------------------------------------------------------------------------------------

    def _sign(self, state: _Masked, announced: SurvivorsAnnounced) -> SiloStep:
        self._check_round(state.round_id, announced.round_id)
        check_survivors(self._silo, announced.survivors, frozenset(state.pairs), self._cohort)
        survivors = self._roster.ordered(frozenset(announced.survivors))
        record = self._locks.sign(
            self._key,
            round_id=state.round_id,
            session=state.session,
            threshold=self._cohort.t,
            survivors=survivors,
            roster=self._roster,
        )
        signature = sign_survivors(self._identity, state.round_id, survivors)
        self._state = _Signed(state.round_id, survivors, state.pairs)
        return Step((record,), ConsistencyCheck(state.round_id, signature))

    # --- step 5 ------------------------------------------------------------------------------------------

    def _unmask(self, state: _Signed, requested: UnmaskingRequested) -> SiloStep:
        self._check_round(state.round_id, requested.round_id)
        if requested.survivors != state.survivors:
            raise FaultyCoordinator("unmasking is asked for another set than the one signed here")
        self._check_signatures(state.round_id, state.survivors, requested.signatures)
        record = self._locks.release(state.round_id)
        alive = frozenset(state.survivors)
        openings = tuple((peer, released(pair, alive=peer in alive)) for peer, pair in state.pairs.items())
        self._state = _Released(state.round_id, frozenset(state.pairs))
        return Step((record,), Unmasking(state.round_id, openings))

    # --- step 6 ------------------------------------------------------------------------------------------

    def _finish(self, state: _Masked | _Signed | _Released, opened: SumOpened) -> SiloStep:
        self._check_round(state.round_id, opened.round_id)
        members = state.members if isinstance(state, _Released) else frozenset(state.pairs)
        if not frozenset(opened.survivors) <= members or len(set(opened.survivors)) != len(opened.survivors):
            raise FaultyCoordinator("the opened sum names silos that shared no keys")
        self._check_signatures(state.round_id, opened.survivors, opened.signatures)
        total = opened.total.array()
        if total.dtype != self._terms.encoding.dtype or total.size != self._terms.encoding.length + 1:
            raise FaultyCoordinator("the opened sum has another length or word than the encoding")
        if not count_matches(total, opened.survivors):
            raise FaultyCoordinator("the count entry of the opened sum is not the number of survivors")
        self._state = _Done(Aggregate(total[:-1], opened.survivors))
        return Step((), None)

    # --- checks ------------------------------------------------------------------------------------------

    def _members(self, announced: tuple[tuple[SiloId, T], ...], what: str) -> dict[SiloId, T]:
        members = dict(announced)
        stranger = next((silo for silo in members if silo not in self._roster), None)
        if stranger is not None:
            raise FaultyCoordinator(f"{what} name {stranger}, which the pinned roster does not")
        if tuple(silo for silo, _ in announced) != self._roster.ordered(frozenset(members)):
            raise FaultyCoordinator(f"{what} are not distinct members of the roster in its order")
        if self._silo not in members or len(members) < self._cohort.t:
            raise FaultyCoordinator(
                f"{what} are of {len(members)} silos; t = {self._cohort.t} are needed, this one in"
            )
        return members

    def _check_round(self, mine: bytes, named: bytes) -> None:
        if mine != named:
            raise FaultyCoordinator("a message names another round than the one that this silo is in")

    def _check_signatures(
        self, round_id: bytes, survivors: tuple[SiloId, ...], signatures: tuple[tuple[SiloId, bytes], ...]
    ) -> None:
        valid = signed_survivors(self._roster, round_id, survivors, signatures)
        if len(valid) < self._cohort.t:
            raise FaultyCoordinator(
                f"{len(valid)} valid signatures over the set; t = {self._cohort.t} are needed"
            )


def released(pair: OpeningPair, *, alive: bool) -> Opening:
    """Return the one share that leaves: of the seed if the peer's input counts, of its mask key if not."""
    return pair.seed if alive else pair.mask


def blame(peer: SiloId, fault: str | None) -> None:
    """Raise FaultySiloOrCoordinator naming ``peer`` if there is a fault: an honest coordinator checks too."""
    if fault is not None:
        raise FaultySiloOrCoordinator(peer, fault)
