"""What a round is about: everything that all silos must agree on before anything leaves one of them.

``TrainingOpened`` carries the terms once; every later message names them by their digest, so that no
parameter can differ between two silos of one round without their signatures failing to match.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, TypeAlias, TypeGuard

import msgspec

from secagg.cohort import Cohort
from secagg.errors import ParameterError
from secagg.fixedpoint import Encoding
from secagg.hazmat.framing import Field, digest
from secagg.roster import SILO_ID_PATTERN

Name = Annotated[str, msgspec.Meta(pattern=SILO_ID_PATTERN)]
Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Counter = Annotated[int, msgspec.Meta(ge=1, lt=2**53)]
Seconds = Annotated[float, msgspec.Meta(gt=0.0, le=30 * 24 * 3600.0)]
Setting: TypeAlias = tuple[Annotated[str, msgspec.Meta(max_length=64)], int | float | str | None]


SchemeTag: TypeAlias = Literal["masking", "paillier", "threshold-paillier", "ckks", "plain"]
KeyScheme: TypeAlias = Literal["paillier", "threshold-paillier", "ckks"]
"""Those that need a key."""


class MaskingParameters(msgspec.Struct, frozen=True, tag="masking"):
    """Pairwise masks: the cohort decides everything."""

    cohort: Cohort

    @property
    def quorum(self) -> int:
        """Silos without which no sum can be opened."""
        return self.cohort.min_survivors


class PlainParameters(msgspec.Struct, frozen=True, tag="plain"):
    """No protection."""

    @property
    def quorum(self) -> int:
        """Silos without which no sum can be opened."""
        return 1


class _Encrypted(msgspec.Struct, frozen=True):
    """Sums of ciphertexts: who takes part, and the key, which every silo holds and the coordinator does not.

    Attributes:
        cohort: as of masking.
        key: its id.
    """

    cohort: Cohort
    key: Digest

    @property
    def quorum(self) -> int:
        """Silos without which no sum is opened."""
        return self.cohort.min_survivors


class PaillierParameters(_Encrypted, frozen=True, tag="paillier"):
    """Paillier under one secret key that every silo holds."""


class CKKSParameters(_Encrypted, frozen=True, tag="ckks"):
    """CKKS under one secret key that every silo holds."""


class ThresholdPaillierParameters(_Encrypted, frozen=True, tag="threshold-paillier"):
    """Paillier under a key of which every silo holds a share; t of them open."""


SharedKeyParameters: TypeAlias = PaillierParameters | CKKSParameters
EncryptedParameters: TypeAlias = SharedKeyParameters | ThresholdPaillierParameters
ProtectedParameters: TypeAlias = MaskingParameters | EncryptedParameters
SchemeParameters: TypeAlias = ProtectedParameters | PlainParameters


Positive = Annotated[float, msgspec.Meta(gt=0.0)]
Rate = Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]
Delta = Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)]


class SiloNoise(msgspec.Struct, frozen=True, tag="silo"):
    """Shares of noise in a protected sum, which hides one silo's whole contribution.

    Attributes:
        l2_clip_norm: of the update of one silo, enforced on its integers.
        share: standard deviation of each silo's discrete Gaussian, in steps of the encoding.
        delta: at which epsilon is reported.
    """

    l2_clip_norm: Positive
    share: Annotated[float, msgspec.Meta(ge=4.0)]
    delta: Delta


class RecordNoise(msgspec.Struct, frozen=True, tag="record"):
    """Shares of noise in a protected sum of gradients, which hides one record; a round is one step.

    Attributes:
        l2_clip_norm: of the gradient of one record.
        share: standard deviation of each silo's discrete Gaussian, in steps of the encoding.
        sampling_rate: probability with which a record is in the step.
        batch: records expected in a step, of all silos together; public, the divisor of the sum.
        delta: at which epsilon is reported.
    """

    l2_clip_norm: Positive
    share: Annotated[float, msgspec.Meta(ge=4.0)]
    sampling_rate: Rate
    batch: Positive
    delta: Delta


class LocalNoise(msgspec.Struct, frozen=True, tag="local"):
    """Noise in every step of every silo's own training (DP-SGD), which hides one record from everybody.

    Attributes:
        l2_clip_norm: of the gradient of one record.
        noise_multiplier: standard deviation of the noise of a step, in units of ``l2_clip_norm``.
        sampling_rate: probability with which a record is in a step.
        steps: of one round.
        delta: at which epsilon is reported.
    """

    l2_clip_norm: Positive
    noise_multiplier: Positive
    sampling_rate: Rate
    steps: Counter
    delta: Delta


DistributedNoise: TypeAlias = SiloNoise | RecordNoise
PrivacyParameters: TypeAlias = DistributedNoise | LocalNoise


def is_encrypted(scheme: SchemeParameters) -> TypeGuard[EncryptedParameters]:
    """Whether sums are of ciphertexts: the coordinator reads none of them, and the model is at the silos."""
    return isinstance(scheme, PaillierParameters | CKKSParameters | ThresholdPaillierParameters)


def scheme_tag(scheme: SchemeParameters) -> SchemeTag:
    """Return the name of a scheme in policies, requests and digests."""
    match scheme:
        case MaskingParameters():
            return "masking"
        case PlainParameters():
            return "plain"
        case _:
            return key_scheme(scheme)


def key_scheme(scheme: EncryptedParameters) -> KeyScheme:
    """Return what a key for ``scheme`` is for."""
    match scheme:
        case PaillierParameters():
            return "paillier"
        case ThresholdPaillierParameters():
            return "threshold-paillier"
        case CKKSParameters():
            return "ckks"


def voids_needed(scheme: ProtectedParameters) -> int:
    """Return how many silos must void a round before another set may be signed for its base.

    As many as must answer to open: with one void more there are never enough answers left. Where any one silo
    can open, all of them.
    """
    match scheme:
        case PaillierParameters() | CKKSParameters():
            return scheme.cohort.n
        case MaskingParameters() | ThresholdPaillierParameters():
            return scheme.cohort.t


class Terms(msgspec.Struct, frozen=True):
    """All that TrainingOpened says but its deadline.

    Attributes:
        federation, job: names; a job is one call of ``run``.
        round: from 1.
        kind: ``"train"`` sums updates and metrics, ``"metrics"`` metrics only, ``"sum"`` bare vectors.
        release: 1; a higher number is a second release of one base, which only DP permits.
        roster: digest of the roster.
        base: digest of the model that the round starts from.
        scheme: protection and its cohort.
        encoding: fixed-point layout of one upload.
        training: (name, value) pairs in name order, read by the workload of the silos.
        privacy: the noise of differential privacy; None for none.

    Raises:
        ParameterError: a value of ``training`` or ``privacy`` is NaN or infinite: it has no canonical bytes
            and no use.
    """

    federation: Name
    job: Name
    round: Counter
    kind: Literal["train", "metrics", "sum"]
    release: Counter
    roster: Digest
    base: Digest
    scheme: SchemeParameters
    encoding: Encoding
    training: tuple[Setting, ...] = ()
    privacy: PrivacyParameters | None = None

    def __post_init__(self) -> None:
        if any(isinstance(value, float) and not math.isfinite(value) for _, value in self.training):
            raise ParameterError("a training parameter is NaN or infinite")
        if self.privacy is not None and not all(map(math.isfinite, msgspec.structs.astuple(self.privacy))):
            raise ParameterError("a privacy parameter is NaN or infinite")


def _encoding_fields(encoding: Encoding) -> Field:
    return (
        encoding.word_bits,
        encoding.cohort,
        encoding.weight_cap,
        tuple((s.name, s.length, s.bound, s.fraction_bits) for s in encoding.segments),
    )


def _scheme_fields(scheme: SchemeParameters) -> Field:
    match scheme:
        case MaskingParameters(cohort=cohort):
            return ("masking", cohort.n, cohort.c, cohort.t, cohort.k_min)
        case PaillierParameters() | CKKSParameters() | ThresholdPaillierParameters():
            cohort = scheme.cohort
            return (scheme_tag(scheme), cohort.n, cohort.c, cohort.t, cohort.k_min, scheme.key)
        case PlainParameters():
            return ("plain",)


def _privacy_fields(privacy: PrivacyParameters | None) -> Field:
    match privacy:
        case None:
            return ()
        case SiloNoise():
            return ("silo", privacy.l2_clip_norm, privacy.share, privacy.delta)
        case RecordNoise():
            noise = privacy.l2_clip_norm, privacy.share
            return ("record", *noise, privacy.sampling_rate, privacy.batch, privacy.delta)
        case LocalNoise():
            noise = privacy.l2_clip_norm, privacy.noise_multiplier
            return ("local", *noise, privacy.sampling_rate, privacy.steps, privacy.delta)


def training_digest(terms: Terms) -> bytes:
    """Return 32 bytes that stand for every field of ``terms``."""
    return digest(
        "training",
        terms.federation,
        terms.job,
        terms.round,
        terms.kind,
        terms.release,
        terms.roster,
        terms.base,
        _scheme_fields(terms.scheme),
        _encoding_fields(terms.encoding),
        terms.training,
        _privacy_fields(terms.privacy),
    )
