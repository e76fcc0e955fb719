"""One silo across rounds: policy, base model, training, the lock, and a session for each attempt.

Pure like the sessions: the driver syncs the records of a step, then sends its reply. Training runs inside
``receive``, so a driver with an event loop calls it from a thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple, TypedDict, cast

from secagg import wire
from secagg.encrypted.cipher import SEAL_SIZE, Keys, SharedKeyCipher, SiloCipher, ThresholdCipher
from secagg.encrypted.silo import SharedKeySilo, ThresholdSilo
from secagg.encrypted.transcript import WRONG_PARTS
from secagg.errors import (
    FaultyCoordinator,
    FaultySiloOrCoordinator,
    InputRefused,
    MalformedMessage,
    MissingExtra,
    PolicyRefused,
    PrivacyBudgetExhausted,
    RoundAborted,
    SecaggError,
    TooFewSilos,
    TrainerFailed,
    UnexpectedMessage,
    UsageError,
)
from secagg.hazmat.agreement import AgreementKey, seal, unseal
from secagg.hazmat.identity import IdentityKey
from secagg.heads import LedgerRefused
from secagg.masking.checks import proves
from secagg.masking.silo import MaskingSilo
from secagg.messages import (
    BUDGET_SPENT,
    AggregateAnnounced,
    BaseAsked,
    BaseForwarded,
    BaseRequested,
    BaseSealed,
    BaseSent,
    BaseWanted,
    EncryptedInput,
    FromCoordinator,
    FromSilo,
    KeyAsked,
    KeyDelivered,
    KeyPassed,
    KeyRequested,
    KeysAnnounced,
    MaskedInput,
    Opened,
    OpeningRequested,
    PlainInput,
    Ready,
    Refused,
    RoundOpened,
    SealingKeysAnnounced,
    TrainingOpened,
    Voided,
    VoidRequested,
)
from secagg.names import IntegerVector, RandomSource, SiloId
from secagg.payload import Frame, Payload
from secagg.plain import PlainSilo
from secagg.policy import Policy
from secagg.privacy.ledger import Ledger
from secagg.records import AttemptJoined, SiloRecord
from secagg.roster import Roster
from secagg.rounds.bases import base_wanted_fault, sign_base_wanted
from secagg.rounds.spending import Spending
from secagg.rounds.workload import Workload
from secagg.session import Aggregate, SiloSession, SiloStep, Step
from secagg.survivors import LockRefused, Locks, lock_key, sign_void
from secagg.terms import (
    CKKSParameters,
    MaskingParameters,
    PaillierParameters,
    PlainParameters,
    Terms,
    ThresholdPaillierParameters,
    is_encrypted,
    training_digest,
    voids_needed,
)


def base_key(own: AgreementKey, peer: bytes, base: bytes, recipient: SiloId) -> bytes:
    """Return the key that seals a base model to one silo; the giver's half is fresh, so it is used once."""
    return own.derive(peer, "sealed base model", base, recipient)


class OpenedSum(NamedTuple):
    """A sum that a silo opened, and the digest of the terms that it is of."""

    training: bytes
    aggregate: Aggregate


class _Common(TypedDict):
    """What every protected session takes."""

    identity: IdentityKey
    roster: Roster
    terms: Terms
    vector: IntegerVector
    locks: Locks
    data_set: str
    random: RandomSource


class Participant:
    """A silo's side of every round.

    Args:
        silo: its name in ``roster``.
        identity: its signing key.
        roster: the pinned roster.
        policy: its own floors.
        workload: what it trains.
        keys: what it can encrypt with; None for none.
        ledger: of what its data set spent; None where none is kept, and then nothing with noise is done.
        data_set: the configured name of its data; locks hold per data set and base model.
        records: its journal so far, oldest first.
        cache: encoded vectors by training digest; the driver keeps it on disk. Only the last is kept.
        random: fresh uniform bytes.
        threads: for the masks.

    Guarantees:
        Nothing leaves before the policy accepted the terms.
        A silo that holds a model for a round never adopts another.
        While no other terms are announced, terms are trained once, whatever the number of attempts.
        Where silos alone open a sum, it is applied once; the coordinator is told of it as often as it asks.
        No silo alone that seals a key or a base wrongly keeps this one out, if another holds it.
        An attempt is joined at most once, also after a crash.
        What a vector costs is in the ledger before it can leave; beyond the budget none is made.
        No share and no part of an opening leaves where a ledger is behind its last head, of all whose
        signatures the request carries.
    """

    def __init__(
        self,
        silo: SiloId,
        *,
        identity: IdentityKey,
        roster: Roster,
        policy: Policy,
        workload: Workload,
        keys: Keys | None = None,
        ledger: Ledger | None = None,
        data_set: str = "default",
        records: Iterable[SiloRecord] = (),
        cache: MutableMapping[bytes, IntegerVector] | None = None,
        random: RandomSource = os.urandom,
        threads: int | None = None,
    ) -> None:
        if silo not in roster or roster.key(silo) != identity.public:
            raise PolicyRefused("roster", f"{silo} with its identity key is not in the pinned roster")
        self._silo = silo
        self._identity = identity
        self._roster = roster
        self._policy = policy
        self._workload = workload
        self._keys = keys
        self._data_set = data_set
        records = tuple(records)
        self._locks = Locks(records)
        self._spending = Spending(
            silo, identity=identity, roster=roster, ledger=ledger, data_set=data_set, records=records
        )
        self._cache: MutableMapping[bytes, IntegerVector] = {} if cache is None else cache
        self._random = random
        self._threads = threads
        self._terms: Terms | None = None
        self._cipher: SiloCipher | None = None
        self._session: SiloSession | None = None
        self._attempt = 0
        self._opened: OpenedSum | None = None
        self._base_box: AgreementKey | None = None
        self._keyless: Terms | None = None  # Of which a peer is asked for the key.
        self._tries = 0  # How often what a peer sealed did not open, for these terms.
        self._doubted: FaultySiloOrCoordinator | None = None

    @property
    def opened(self) -> OpenedSum | None:
        """The sum that this silo opened last, until other terms come; None where the coordinator reads it."""
        return self._opened

    @property
    def doubted(self) -> FaultySiloOrCoordinator | None:
        """Whose sealed key or base, in the last message, did not open; another silo is asked for it."""
        return self._doubted

    @property
    def attempt(self) -> int:
        """The attempt of the last message that this silo was sent; 0 outside attempts."""
        return self._attempt

    @property
    def largest_payload(self) -> int:
        """Bytes of the largest payload that the coordinator has a reason to send: none before terms."""
        if self._terms is None:
            return 0
        base = self._workload.base_size(self._terms) + SEAL_SIZE
        match self._terms.scheme:
            case MaskingParameters() | PlainParameters():
                encoding = self._terms.encoding
                return max(base, (encoding.length + 1) * encoding.word_bits // 8)
            case PaillierParameters() | CKKSParameters():
                return max(base, self._needed_cipher().total.size)
            case ThresholdPaillierParameters():
                cipher = self._needed_cipher()
                return max(base, self._roster.n * max(cipher.upload.size, cipher.part_size + SEAL_SIZE))

    def receive(self, message: FromCoordinator) -> SiloStep:
        """Take one message of the coordinator.

        Raises:
            UnexpectedMessage: not accepted now; nothing changed.
            SecaggError: this silo leaves the round; ``refusal`` is what the coordinator may know.
        """
        self._doubted = None
        match message:
            case TrainingOpened():
                return self._open_training(message)
            case BaseSent():
                return self._adopt(message)
            case BaseAsked():
                return self._share_base(message)
            case BaseForwarded():
                return self._unseal_base(message)
            case RoundOpened():
                return self._join(message)
            case VoidRequested():
                return self._void(message)
            case KeyRequested() | SealingKeysAnnounced() | KeyDelivered() | KeyAsked():
                return self._needed_keys().receive(message)
            case KeyPassed():
                return self._take_key(message)
            case _:
                return self._forward(message)

    def _open_training(self, opened: TrainingOpened) -> SiloStep:
        terms = opened.terms
        if terms == self._terms and self._session is not None:
            return self._ready(terms)  # A repetition: the answer is the same, and the attempt goes on.
        if self._opened is not None and self._opened.training != training_digest(terms):
            self._opened = None
        self._terms, self._cipher, self._session, self._attempt = None, None, None, 0
        self._keyless, self._tries = None, 0
        self._policy.check(terms, self._roster)
        self._workload.accept(terms)
        if is_encrypted(terms.scheme):
            wanted = self._needed_keys().want(terms)
            if wanted is not None:
                self._keyless = terms
                return wanted  # When the key is here, the coordinator says again what to train.
        cipher = self._cipher_of(terms)
        said = self._workload.said(terms)
        if said is not None:
            # The base may be held nowhere any more. If too few silos say so, the attempt that follows is
            # answered with the vector that is kept, and the same sum is opened again.
            self._terms, self._cipher = terms, cipher
            return Step((), said)
        held = self._workload.holds(terms)
        if held is not None and held != terms.base:
            raise FaultyCoordinator(
                f"round {terms.round} is to start from another base model than the one here"
            )
        self._terms, self._cipher = terms, cipher
        if held is None:
            return Step((), self._base_wanted(terms))
        return self._ready(terms)

    def _take_key(self, passed: KeyPassed) -> SiloStep:
        keys, terms = self._needed_keys(), self._keyless
        try:
            return keys.receive(passed)
        except FaultySiloOrCoordinator as fault:
            return self._ask_another(fault, lambda: None if terms is None else keys.want(terms))

    def _ask_another(self, fault: FaultySiloOrCoordinator, ask: Callable[[], SiloStep | None]) -> SiloStep:
        """Ask anew for what did not open, as often as there are other silos: one alone shuts nobody out."""
        self._tries += 1
        again = ask() if self._tries < self._roster.n - 1 else None
        if again is None:
            raise fault
        self._doubted = fault
        return again

    def _base_wanted(self, terms: Terms) -> BaseRequested | BaseWanted:
        """Return how this silo asks for the base: of a peer, where the coordinator may not have it."""
        if not is_encrypted(terms.scheme):
            return BaseRequested(terms.base)
        self._base_box = AgreementKey.generate(self._random)
        return sign_base_wanted(self._identity, self._silo, terms.base, self._base_box.public)

    def _adopt(self, sent: BaseSent) -> SiloStep:
        terms = self._lacking(sent.base)
        self._workload.adopt(terms, sent.vector)
        return self._ready(terms)

    def _lacking(self, base: bytes) -> Terms:
        """Return the terms whose base this silo lacks, if it is ``base``."""
        terms = self._terms
        if terms is None or base != terms.base or self._workload.holds(terms) is not None:
            raise UnexpectedMessage("a base model was sent that this silo did not ask for")
        return terms

    def _share_base(self, asked: BaseAsked) -> SiloStep:
        """Seal the base of the round to a silo of the roster that lacks it."""
        terms = self._terms
        vector = None if terms is None or asked.base != terms.base else self._workload.base(terms)
        if vector is None:
            raise UnexpectedMessage("a base model is asked for that this silo does not hold")
        fault = base_wanted_fault(
            self._roster, asked.silo, BaseWanted(asked.base, asked.box, asked.signature)
        )
        if fault is not None:
            raise FaultySiloOrCoordinator(asked.silo, fault)
        own = AgreementKey.generate(self._random)
        key = base_key(own, asked.box, asked.base, asked.silo)
        sealed = seal(key, b"".join(vector.pieces()))
        content = Payload.over("u1", len(sealed), memoryview(sealed))
        return Step((), BaseSealed(asked.base, asked.silo, asked.box, own.public, content))

    def _unseal_base(self, forwarded: BaseForwarded) -> SiloStep:
        box, holder = self._base_box, forwarded.holder
        if box is None:
            raise UnexpectedMessage("a base model was sent that this silo did not ask for")
        terms = self._lacking(forwarded.base)
        self._base_box = None
        if holder == self._silo or holder not in self._roster:
            raise FaultyCoordinator("a base model was forwarded that is of no peer")
        try:
            key = base_key(box, forwarded.box, forwarded.base, self._silo)
            opened = unseal(key, b"".join(forwarded.sealed.pieces()))
            self._workload.adopt(terms, Payload.over("f8", len(opened) // 8, memoryview(opened)))
        except (MalformedMessage, FaultyCoordinator) as error:
            # The holder sealed something else, or the coordinator changed it: no other can see which.
            fault = FaultySiloOrCoordinator(holder, f"the base model that it sealed: {error}")
            return self._ask_another(fault, lambda: Step((), self._base_wanted(terms)))
        return self._ready(terms)

    def _ready(self, terms: Terms) -> SiloStep:
        digest = training_digest(terms)
        if digest not in self._cache:
            self._spending.check(terms)
            with nullcontext() if self._cipher is None else self._cipher.prepare():
                vector = self._workload.vector(terms)
            self._cache.clear()
            self._cache[digest] = vector
        return Step((), Ready(digest))

    def _join(self, opened: RoundOpened) -> SiloStep:
        self._attempt = opened.attempt
        terms = self._terms
        if terms is None:
            raise UnexpectedMessage("an attempt is opened before its training")
        if opened.training != training_digest(terms):
            raise FaultyCoordinator("the attempt is not for the terms that this silo was told")
        if opened.training not in self._cache:
            raise UnexpectedMessage("an attempt is opened before this silo was ready")
        joined = self._locks.join(AttemptJoined(terms.federation, terms.job, terms.round, opened.attempt))
        unlocked = self._unlock(terms, opened)
        for record in (*unlocked, joined):
            self._locks.apply(record)
        self._session = self._new_session(terms, self._cache[opened.training])
        step = self._session.receive(opened)
        return Step((*unlocked, joined, *step.records), self._leaving(terms, step.output))

    def _unlock(self, terms: Terms, opened: RoundOpened) -> tuple[SiloRecord, ...]:
        """Return the records by which voids lift, or evidence moves, this silo's lock on the base."""
        if isinstance(terms.scheme, PlainParameters):
            return ()
        key = lock_key(self._data_set, terms)
        lifted = self._locks.lift(key, opened.voids, self._roster, threshold=voids_needed(terms.scheme))
        if lifted is not None:
            return (lifted,)
        lock = self._locks.lock(key)
        moved = []
        for evidence in opened.evidence:
            # The threshold is that of the session in which the dealer shared, as this silo knew it then:
            # with a smaller one, too few shares of an honest dealer would look like a wrong sharing.
            threshold = lock.thresholds.get(evidence.session) if lock is not None else None
            if threshold is not None and proves(evidence, self._roster, threshold=threshold):
                record = self._locks.move(
                    key, session=evidence.session, dealer=evidence.dealer, roster=self._roster
                )
                moved += [record] if record is not None else []
        return tuple(moved)

    def _new_session(self, terms: Terms, vector: IntegerVector) -> SiloSession:
        if isinstance(terms.scheme, PlainParameters):
            return PlainSilo(terms=terms, vector=vector)
        common = _Common(
            identity=self._identity,
            roster=self._roster,
            terms=terms,
            vector=vector,
            locks=self._locks,
            data_set=self._data_set,
            random=self._random,
        )
        match terms.scheme:
            case MaskingParameters():
                return MaskingSilo(self._silo, **common, threads=self._threads)
            case PaillierParameters() | CKKSParameters():
                # The keys gave the kind of cipher that the terms ask for.
                return SharedKeySilo(self._silo, **common, cipher=cast(SharedKeyCipher, self._cipher))
            case ThresholdPaillierParameters():
                return ThresholdSilo(self._silo, **common, cipher=cast(ThresholdCipher, self._cipher))

    def _cipher_of(self, terms: Terms) -> SiloCipher | None:
        return self._needed_keys().cipher(terms) if is_encrypted(terms.scheme) else None

    def _needed_keys(self) -> Keys:
        if self._keys is None:
            raise PolicyRefused("key", "this silo holds no keys")
        return self._keys

    def _needed_cipher(self) -> SiloCipher:
        if self._cipher is None:
            raise UsageError("terms of ciphertexts were accepted without a cipher")
        return self._cipher

    def _forward(self, message: FromCoordinator) -> SiloStep:
        if self._session is None or self._terms is None:
            raise UnexpectedMessage(f"{type(message).__name__} is not accepted outside an attempt")
        step = self._session.receive(message)
        # Only once the session took it for one of this round: heads that were said in an earlier round are
        # signed well for that one, and would make a ledger that is right look like one that was put back.
        held = self._taken(message)
        step = Step((*held, *step.records), self._leaving(self._terms, step.output))
        for record in step.records:
            self._locks.apply(record)
            self._spending.apply(record)
        if isinstance(message, KeysAnnounced | AggregateAnnounced | OpeningRequested):
            # t silos signed for this base, so an adopted one is what the federation trains from.
            self._workload.confirm(self._terms)
        opened = self._apply()
        return step if opened is None else Step(step.records, opened)

    def _taken(self, message: FromCoordinator) -> tuple[SiloRecord, ...]:
        """Return a record for each ledger in an announced set; one that went back stops here."""
        try:
            return self._spending.take(message)
        except SecaggError:
            self._session = None  # The attempt is over here.
            raise

    def _leaving(self, terms: Terms, reply: FromSilo | None) -> FromSilo | None:
        """Return a reply with what the ledger has to say of it, once it is charged."""
        if not isinstance(reply, MaskedInput | EncryptedInput | PlainInput):
            return reply
        try:
            return self._spending.leave(terms, reply)
        except SecaggError:
            self._session = None  # The vector stays here.
            raise

    def proceed(self) -> Opened | None:
        """Do what the last message allowed once its records are synced, and return what is sent of it.

        Raises:
            SecaggError: as ``receive``.
        """
        if not isinstance(self._session, SharedKeySilo):
            return None
        self._session.proceed()
        return self._apply()

    def _apply(self) -> Opened | None:
        """Apply the sum if it is open, and return what the coordinator is told of it if it cannot read it."""
        session, terms = self._session, self._terms
        if session is None or terms is None or session.outcome is None:
            return None
        self._workload.confirm(terms)
        self._session = None
        match session:
            case SharedKeySilo() | ThresholdSilo():
                self._opened = OpenedSum(training_digest(terms), session.outcome)
                # A model is made of a sum once: of one that is opened again the same is said again.
                said = self._workload.said(terms)
                return said or self._workload.apply(terms, session.outcome, faulty=session.faulty)
            case _:
                self._workload.apply(terms, session.outcome)
                return None

    def _void(self, requested: VoidRequested) -> SiloStep:
        records = self._locks.void(requested.round_ids)
        fresh = tuple(record for record in records if not self._locks.is_void(record.round_id))
        for record in fresh:  # A promise is written once, however often it is asked for.
            self._locks.apply(record)
        return Step(fresh, Voided(tuple(sign_void(self._identity, self._silo, r.round_id) for r in records)))


def answer(
    participant: Participant,
    frame: Frame,
    sync: Callable[[Sequence[SiloRecord]], None],
) -> tuple[Frame | None, SecaggError | None]:
    """Take one frame of the coordinator, as every transport delivers it.

    Args:
        participant: this silo.
        frame: header and payload.
        sync: puts records where they survive a crash; called before the reply is returned.

    Returns:
        The reply, or None; and why the silo left the round, by its own account, or None. What is late or
        repeated is answered by nothing.
    """
    try:
        step = participant.receive(wire.decode_from_coordinator(*frame))
    except UnexpectedMessage:
        return None, None
    except LedgerRefused as error:
        sync(error.records)
        return wire.encode(refusal(error, participant.attempt)), error
    except SecaggError as error:
        return wire.encode(refusal(error, participant.attempt)), error
    sync(step.records)
    try:
        further = participant.proceed()
    except SecaggError as error:
        return wire.encode(refusal(error, participant.attempt)), error
    reply = step.output if further is None else further
    return (None if reply is None else wire.encode(reply)), None


def refusal(error: SecaggError, attempt: int = 0) -> Refused:
    """Return all that the coordinator learns of an error at a silo: a rule, and silos that it names."""
    match error:
        case LockRefused() | LedgerRefused():
            return Refused(error.rule, error.silos, attempt)
        case PolicyRefused():
            return Refused(error.rule, (), attempt)
        case PrivacyBudgetExhausted():
            return Refused(BUDGET_SPENT, (), attempt)
        case InputRefused():
            return Refused(f"input: {error.rule}", (), attempt)
        case TrainerFailed():
            return Refused("trainer", (), attempt)
        case MissingExtra():
            return Refused("missing extra", (), attempt)
        case TooFewSilos():
            return Refused(WRONG_PARTS, error.missing, attempt)
        case RoundAborted():
            return Refused("no sum", (), attempt)
        case FaultySiloOrCoordinator():
            return Refused("faulty silo or coordinator", (error.silo,), attempt)
        case FaultyCoordinator():
            return Refused("faulty coordinator", (), attempt)
        case _:
            return Refused("error", (), attempt)
