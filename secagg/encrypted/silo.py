"""One silo's half of a round over ciphertexts: a state per phase, one ``match`` as the transition table.

Two ways to open. Where every silo holds the key, the coordinator sends the sum, and any silo opens it: such a
silo cannot tell a sum from one silo's upload, which is why the coordinator must follow the protocol (L0).
Where silos hold shares, each adds the signed uploads itself before its part of the opening leaves, and the
part leaves sealed, so that neither a lying coordinator nor what it stores opens anything (L1).

Source: "Ciphertexts" in ``docs/protocol.md``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from secagg.encrypted import transcript
from secagg.encrypted.cipher import SEAL_SIZE, Cipher, Form, SharedKeyCipher, ThresholdCipher
from secagg.errors import (
    FaultyCoordinator,
    FaultySiloOrCoordinator,
    InputRefused,
    MalformedMessage,
    PolicyRefused,
    RoundAborted,
    TooFewSilos,
    UnexpectedMessage,
    UsageError,
)
from secagg.hazmat.agreement import AgreementKey, check_point, seal, unseal
from secagg.hazmat.identity import IdentityKey
from secagg.messages import (
    AggregateAnnounced,
    ConsistencyCheck,
    EncryptedInput,
    FromCoordinator,
    OpeningRequested,
    PartialDecryption,
    PartialsAnnounced,
    RoundOpened,
    SignedUpload,
    UploadsAnnounced,
)
from secagg.names import IntegerVector, RandomSource, SiloId
from secagg.payload import Payload, regroup
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
from secagg.terms import (
    EncryptedParameters,
    MaskingParameters,
    PlainParameters,
    Terms,
    training_digest,
    voids_needed,
)

C = TypeVar("C", bound=Cipher)


@dataclass(frozen=True)
class _Start:
    pass


@dataclass(frozen=True, repr=False)
class _Sent:
    round_id: bytes
    upload: SignedUpload
    box: AgreementKey | None


@dataclass(frozen=True, repr=False)
class _Signed:
    round_id: bytes
    uploads: tuple[tuple[SiloId, SignedUpload], ...]  # of the survivors, in roster order
    box: AgreementKey | None


@dataclass(frozen=True, repr=False)
class _Released:
    """The record is on its way to disk; the sum is opened when it is there."""

    round_id: bytes
    survivors: tuple[SiloId, ...]
    total: Payload


@dataclass(frozen=True, repr=False)
class _Parted:
    round_id: bytes
    uploads: tuple[tuple[SiloId, SignedUpload], ...]
    box: AgreementKey
    total: Payload
    part: bytes


@dataclass(frozen=True)
class _Done:
    outcome: Aggregate


@dataclass(frozen=True)
class _Left:
    """The attempt is over for this silo; nothing of it is kept."""


_State: TypeAlias = _Start | _Sent | _Signed | _Released | _Parted | _Done | _Left


class _EncryptedSilo(Generic[C]):
    """What both ways have in common: encrypt, sign the set.

    Args:
        silo: this silo's name in ``roster``.
        identity: its long-lived signing key.
        roster: the pinned roster.
        terms: what this silo agreed to in TrainingOpened; policy was checked there.
        cipher: of the key that the terms name, and their encoding.
        vector: encoded input, shape (length,); not modified.
        locks: what this silo signed, released and voided; read here, changed only through records.
        data_set: the name under which this silo's data is configured.
        random: fresh uniform bytes.

    Raises:
        InputRefused: the vector is not of the encoding's length and word.
    """

    _culprit: str

    def __init__(
        self,
        silo: SiloId,
        *,
        identity: IdentityKey,
        roster: Roster,
        terms: Terms,
        cipher: C,
        vector: IntegerVector,
        locks: Locks,
        data_set: str,
        random: RandomSource = os.urandom,
    ) -> None:
        match terms.scheme:
            case MaskingParameters() | PlainParameters():
                raise PolicyRefused("scheme", "these terms are not those of ciphertexts")
            case scheme:
                self._scheme: EncryptedParameters = scheme
        if cipher.key != self._scheme.key:
            raise PolicyRefused("key", "the key here is not the one that the terms name")
        if vector.dtype != terms.encoding.dtype or vector.shape != (terms.encoding.length,):
            raise InputRefused(
                "shape", f"the encoded vector must be {terms.encoding.dtype} of {terms.encoding.length}"
            )
        self._silo = silo
        self._identity = identity
        self._roster = roster
        self._terms = terms
        self._training = training_digest(terms)
        self._cipher = cipher
        self._vector: NDArray[Any] = vector
        self._locks = locks
        self._key = lock_key(data_set, terms)
        self._random = random
        self._state: _State = _Start()
        self._faulty: tuple[SiloId, ...] = ()

    @property
    def outcome(self) -> Aggregate | None:
        """The opened sum, once this silo has opened it."""
        return self._state.outcome if isinstance(self._state, _Done) else None

    @property
    def faulty(self) -> tuple[SiloId, ...]:
        """Silos whose part of the opening was wrong, or was changed on its way."""
        return self._faulty

    def receive(self, message: FromCoordinator) -> SiloStep:
        """Take one message of the coordinator; see ``SiloSession.receive``."""
        try:
            return self._receive(self._state, message)
        except (FaultyCoordinator, FaultySiloOrCoordinator, PolicyRefused, RoundAborted):
            self._state = _Left()
            raise

    def _receive(self, state: _State, message: FromCoordinator) -> SiloStep:
        match state, message:
            case _Start(), RoundOpened():
                return self._encrypt(message)
            case _Sent(), UploadsAnnounced():
                return self._sign(state, message)
            case _:
                name = type(state).__name__[1:]
                raise UnexpectedMessage(f"{type(message).__name__} is not accepted in {name}")

    # --- step 3 ------------------------------------------------------------------------------------------

    def _encrypt(self, opened: RoundOpened) -> SiloStep:
        if opened.training != self._training:
            raise FaultyCoordinator("the attempt is not for the terms that this silo was told")
        round_id = transcript.round_id(opened, self._cipher)
        counted = np.empty(self._vector.size + 1, self._vector.dtype)
        counted[:-1] = self._vector
        counted[-1] = 1  # The count entry: opened, it must equal the number of survivors.
        ciphertexts = self._cipher.encrypt(counted, silo=self._silo, round_id=round_id)
        box = self._new_box()
        public = None if box is None else box.public
        fields = transcript.upload_fields(self._cipher, round_id, self._silo, ciphertexts.digest, public)
        upload = SignedUpload(ciphertexts.digest, public, self._identity.sign(transcript.UPLOAD, *fields))
        self._state = _Sent(round_id, upload, box)
        return Step((), EncryptedInput(round_id, upload, ciphertexts))

    def _new_box(self) -> AgreementKey | None:
        """Return a fresh key to which peers seal; None if nothing will be sealed."""
        return None

    # --- step 4 ------------------------------------------------------------------------------------------

    def _sign(self, state: _Sent, announced: UploadsAnnounced) -> SiloStep:
        self._check_round(state.round_id, announced.round_id)
        survivors = transcript.names(announced.uploads)
        check_survivors(self._silo, survivors, frozenset(self._roster.silos), self._scheme.cohort)
        if survivors != self._roster.ordered(frozenset(survivors)):
            raise FaultyCoordinator("the uploads are not announced in the order of the roster")
        if dict(announced.uploads)[self._silo] != state.upload:
            raise FaultyCoordinator("the announced upload of this silo is not the one that it sent")
        for silo, upload in announced.uploads:
            self._check_upload(silo, state.round_id, upload)
        record = self._locks.sign(
            self._key,
            round_id=state.round_id,
            session=state.round_id,
            threshold=voids_needed(self._scheme),
            survivors=survivors,
            roster=self._roster,
        )
        signed = transcript.set_id(state.round_id, announced.uploads)
        self._state = _Signed(state.round_id, announced.uploads, state.box)
        return Step(
            (record,), ConsistencyCheck(state.round_id, sign_survivors(self._identity, signed, survivors))
        )

    # --- checks ------------------------------------------------------------------------------------------

    def _check_upload(self, silo: SiloId, round_id: bytes, upload: SignedUpload) -> None:
        if not transcript.is_signed(self._roster, self._cipher, round_id, silo, upload):
            raise FaultySiloOrCoordinator(silo, "its upload is not signed by the pinned identity")

    def _check_round(self, mine: bytes, named: bytes) -> None:
        if mine != named:
            raise FaultyCoordinator("a message names another round than the one that this silo is in")

    def _check_signatures(self, state: _Signed, signatures: tuple[tuple[SiloId, bytes], ...]) -> None:
        signed = transcript.set_id(state.round_id, state.uploads)
        survivors = transcript.names(state.uploads)
        valid = signed_survivors(self._roster, signed, survivors, signatures)
        if len(valid) < self._scheme.cohort.t:
            raise FaultyCoordinator(
                f"{len(valid)} valid signatures over the set; t = {self._scheme.cohort.t} are needed"
            )

    def _finish(self, total: IntegerVector, survivors: tuple[SiloId, ...]) -> None:
        if not count_matches(total, survivors):
            raise RoundAborted(f"the count entry of the sum is not the number of survivors: {self._culprit}")
        total.flags.writeable = False
        self._state = _Done(Aggregate(total[:-1], survivors))


class SharedKeySilo(_EncryptedSilo[SharedKeyCipher]):
    """One silo in one attempt under a key that every silo holds; single use.

    Guarantees:
        A vector is encrypted anew for every attempt.
        A sum that is none names nobody: a silo's garbage and a coordinator's look the same.
        Nothing is opened before the record of it is synced.
        Nothing is opened but what t silos signed to be the sum of one set; that it is, the coordinator is
        trusted for.
    """

    _culprit = "a silo or the coordinator did it, and it cannot be told which"

    def _receive(self, state: _State, message: FromCoordinator) -> SiloStep:
        match state, message:
            case _Signed(), AggregateAnnounced():
                return self._release(state, message)
            case _:
                return super()._receive(state, message)

    def _release(self, state: _Signed, announced: AggregateAnnounced) -> SiloStep:
        self._check_round(state.round_id, announced.round_id)
        self._check_signatures(state, announced.signatures)
        if not self._cipher.total.fits(announced.total):
            raise FaultyCoordinator("the announced sum has another length or type than the terms say")
        record = self._locks.release(state.round_id)
        self._state = _Released(state.round_id, transcript.names(state.uploads), announced.total)
        return Step((record,), None)

    def proceed(self) -> None:
        """Open the sum that was announced, if one was; called when its records are synced.

        Raises:
            RoundAborted: it is not the sum of vectors of the set; the silo leaves the attempt.
        """
        match self._state:
            case _Released() as state:
                self._state = _Left()
                try:
                    total = self._cipher.open(
                        state.total, silos=len(state.survivors), round_id=state.round_id
                    )
                except (MalformedMessage, RoundAborted) as error:
                    why = f"the announced sum does not open: {error}: {self._culprit}"
                    raise RoundAborted(why) from error
                self._finish(total, state.survivors)
            case _:
                pass


class ThresholdSilo(_EncryptedSilo[ThresholdCipher]):
    """One silo in one attempt under a key of which every silo holds a share; single use.

    Guarantees:
        A vector is encrypted anew for every attempt.
        A sum that is none names nobody: this silo added it, and a silo made it so.
        This silo's part of an opening is of the sum of the uploads that t silos signed, and of nothing else:
        it added them itself.
        The part leaves sealed to the survivors.
        A part that is wrong is left out, and names its silo.
    """

    _culprit = "one of the silos did it, and it cannot be told which"

    def _new_box(self) -> AgreementKey:
        return AgreementKey.generate(self._random)

    def _receive(self, state: _State, message: FromCoordinator) -> SiloStep:
        match state, message:
            case _Signed(), OpeningRequested():
                return self._part(state, message)
            case _Parted(), PartialsAnnounced():
                return self._combine(state, message)
            case _:
                return super()._receive(state, message)

    def _check_upload(self, silo: SiloId, round_id: bytes, upload: SignedUpload) -> None:
        super()._check_upload(silo, round_id, upload)
        if upload.box is None:
            raise FaultySiloOrCoordinator(silo, "its upload names no key to seal to")
        try:
            check_point(upload.box)
        except MalformedMessage as error:
            raise FaultySiloOrCoordinator(silo, f"the key of its upload: {error}") from error

    # --- step 5 ------------------------------------------------------------------------------------------

    def _part(self, state: _Signed, requested: OpeningRequested) -> SiloStep:
        if state.box is None:
            raise UsageError("a round under a shared key has a key to unseal with")
        self._check_round(state.round_id, requested.round_id)
        self._check_signatures(state, requested.signatures)
        total = self._added(state, requested.ciphertexts)
        record = self._locks.release(state.round_id)
        try:
            part = self._cipher.part(total, round_id=state.round_id)
        except MalformedMessage as error:
            raise RoundAborted(f"the uploads add up to no sum: {error}: {self._culprit}") from error
        # One seal for all, and its key sealed to each: a part is large.
        key = self._random(32)
        boxes = tuple(
            (peer, seal(part_key(state.box, upload, state.round_id, sender=self._silo, recipient=peer), key))
            for peer, upload in state.uploads
        )
        sealed = Payload.over("u1", len(part) + SEAL_SIZE, memoryview(seal(key, part)))
        self._state = _Parted(state.round_id, state.uploads, state.box, total, part)
        return Step((record,), PartialDecryption(state.round_id, boxes, sealed))

    def _added(self, state: _Signed, ciphertexts: Payload) -> Payload:
        """Return the sum of the uploads that were signed, which come end to end."""
        form = self._cipher.upload
        if not Form(form.dtype, form.length * len(state.uploads)).fits(ciphertexts):
            raise FaultyCoordinator("the uploads have another length or type than the terms say")
        total = self._cipher.begin()
        size = ciphertexts.size // len(state.uploads)
        for (silo, upload), content in zip(state.uploads, regroup(ciphertexts.pieces(), size), strict=True):
            payload = Payload.over(form.dtype, form.length, content)
            if payload.digest != upload.content:
                raise FaultyCoordinator(f"the ciphertexts of {silo} are not those that it signed")
            try:
                self._cipher.check(payload, silo=silo, round_id=state.round_id)
                total.add(payload)
            except MalformedMessage as error:
                raise FaultySiloOrCoordinator(silo, f"its upload: {error}") from error
        try:
            return total.total()
        except MalformedMessage as error:
            raise RoundAborted(f"the uploads add up to no sum: {error}: {self._culprit}") from error

    # --- step 6 ------------------------------------------------------------------------------------------

    def _combine(self, state: _Parted, announced: PartialsAnnounced) -> SiloStep:
        self._check_round(state.round_id, announced.round_id)
        parts = {**dict(self._unsealed(state, announced)), self._silo: state.part}
        survivors = transcript.names(state.uploads)
        if len(parts) < self._scheme.cohort.t:
            raise FaultyCoordinator("fewer parts of the opening are passed on than open it")
        by_slot = {self._roster.slot(silo): part for silo, part in parts.items()}
        try:
            opening = self._cipher.combine(
                state.total, by_slot, silos=len(survivors), round_id=state.round_id
            )
        except RoundAborted as error:
            raise RoundAborted(f"the uploads add up to no sum: {error}: {self._culprit}") from error
        self._faulty = tuple(self._roster.silos[slot] for slot in opening.faulty)
        if opening.vector is None:
            right = len(parts) - len(opening.faulty)
            raise TooFewSilos(right, self._scheme.cohort.t, "PartialDecryption", self._faulty)
        self._finish(opening.vector, survivors)
        return Step((), None)

    def _unsealed(self, state: _Parted, announced: PartialsAnnounced) -> Iterator[tuple[SiloId, bytes]]:
        """Yield the parts; what does not open is as good as empty, and a part that is wrong."""
        size = self._cipher.part_size + SEAL_SIZE
        uploads: Mapping[SiloId, SignedUpload] = dict(state.uploads)
        boxes = announced.boxes
        distinct = {silo for silo, _ in boxes}
        if not distinct <= uploads.keys() or len(distinct) != len(boxes):
            raise FaultyCoordinator("the parts of the opening are not of distinct survivors")
        if not Form("u1", size * len(boxes)).fits(announced.sealed):
            raise FaultyCoordinator("the parts of the opening have another length or type than they must")
        for (silo, box), content in zip(boxes, regroup(announced.sealed.pieces(), size), strict=True):
            try:
                opener = part_key(state.box, uploads[silo], state.round_id, sender=silo, recipient=self._silo)
                yield silo, unseal(unseal(opener, box), bytes(content))
            except MalformedMessage:
                yield silo, b""


def part_key(
    own: AgreementKey, peer: SignedUpload, round_id: bytes, *, sender: SiloId, recipient: SiloId
) -> bytes:
    """Return the key that seals the key of one silo's part of an opening to one peer; used once."""
    if peer.box is None:  # Refused before the set was signed.
        raise UsageError("an upload names no key to seal to")
    return own.derive(peer.box, "partial decryption", round_id, sender, recipient)
