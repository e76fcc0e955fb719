"""``silo.toml``: what one data holder's process runs with, and the floors that nothing remote can widen.

Paths are taken from the file's own folder. Loading checks that private keys are their owner's alone; whether
certificates fit is ``tls``'s matter, and what a round asks for is ``secagg.policy``'s.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Self

from secagg.errors import EnvironmentFault, MissingExtra, TrustError

try:
    from pydantic import AfterValidator, Field, model_validator
except ModuleNotFoundError as missing:
    raise MissingExtra("silo", "pydantic") from missing

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from secagg.errors import ParameterError, PolicyRefused
from secagg.hazmat.identity import IdentityKey, fingerprint
from secagg.names import SiloId
from secagg.operator_files import read_private
from secagg.operator_tables import AppPath, Dialled, FilePath, PartyFile, Table
from secagg.policy import Policy
from secagg.privacy.ledger import Budget
from secagg.psi.queries import QueryLimits
from secagg.psi.terms import Count, IntersectionPolicy
from secagg.roster import SILO_ID_PATTERN, Roster, check_silo
from silo.vertical.policy import VerticalPolicy

_NAME = re.compile(SILO_ID_PATTERN)
_BUDGET = frozenset(field.name for field in fields(Budget))
_HASH = re.compile(r"sha256:[0-9a-f]{64}")


def _silo(name: str) -> str:
    check_silo(name)
    return name


def _data_set(name: str) -> str:
    if not _NAME.fullmatch(name):  # It stands in the journal, whose names these are.
        raise ParameterError("a data set's name is 1 to 64 of letters, digits, dot, underscore, hyphen")
    return name


def _source_hash(text: str) -> str:
    if not _HASH.fullmatch(text):
        raise ParameterError('a hash is "sha256:" and 64 hex digits, as `silo app hash` prints it')
    return text


class Floors(Table):
    """``[policy]``: what is not given is as in ``Policy`` and ``Budget``, whose attributes these are.

    Attributes:
        epsilon, delta, period_days: what may be spent of the data set. Where epsilon is given, rounds without
            differential privacy are refused, unless ``require_privacy`` is false.
        apps: approved training code, import path -> hash of its source. Code that is not listed never runs.
    """

    schemes: Annotated[frozenset[str], Field(strict=False)] | None = None
    min_silos: int | None = None
    colluders: int | None = None
    min_honest: int | None = None
    min_threshold: int | None = None
    max_clip: float | None = None
    min_weight_cap: float | None = None
    require_privacy: bool = False
    max_l2_clip_norm: float | None = None
    epsilon: float | None = None
    delta: float | None = None
    period_days: int | None = None
    apps: dict[AppPath, Annotated[str, AfterValidator(_source_hash)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.policy()
        self.budget()
        return self

    def policy(self) -> Policy:
        """Return the policy that rounds are checked against."""
        given = self._given(self.model_fields_set - {"apps"} - _BUDGET)
        # A limit that a round without noise would pass by is none: whoever writes one means it.
        return Policy(**{"require_privacy": "epsilon" in self.model_fields_set} | given)

    def budget(self) -> Budget:
        """Return what may be spent of the data set, in all jobs together."""
        return Budget(**self._given(self.model_fields_set & _BUDGET))

    def _given(self, names: AbstractSet[str]) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names}


class Intersections(Table):
    """``[intersections]``: which silos may look for records that they share with this one, and for how many.

    Attributes:
        partners: nobody who is not listed: that a silo trains with this one does not mean that it may learn
            who its customers are.
        largest_set: records that a partner may bring to one intersection.
        smallest_intersection: with fewer shared records, partners are not told which.
        queries: records that each partner may bring in any ``period_days``; None for ``largest_set``.
        period_days: see there.
    """

    partners: Annotated[frozenset[Annotated[str, AfterValidator(_silo)]], Field(strict=False)] = frozenset()
    largest_set: int = 1_000_000
    smallest_intersection: int = 10
    queries: int | None = None
    period_days: int = 365

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.policy()
        self.limits()
        return self

    def policy(self, count: Count | None = None) -> IntersectionPolicy:
        """Return the limits of one intersection; ``count`` as of ``IntersectionPolicy``."""
        return IntersectionPolicy(
            largest_set=self.largest_set, smallest_intersection=self.smallest_intersection, count=count
        )

    def limits(self) -> QueryLimits:
        """Return the limits over all of them."""
        queries = self.largest_set if self.queries is None else self.queries
        return QueryLimits(queries=queries, period_days=self.period_days)

    def check_partner(self, partner: SiloId) -> None:
        """Refuse who is not listed.

        Raises:
            PolicyRefused: see there.
        """
        if partner not in self.partners:
            listed = ", ".join(sorted({*self.partners, partner}))
            raise PolicyRefused(
                "partners",
                f"{partner} may not look for shared records here; if it is to, its name belongs under "
                f"[intersections] of silo.toml: partners = [{listed}], each in quotes",
            )


class Data(Table):
    """``[data]``: what the app is called with.

    Attributes:
        name: of the data set; locks hold for a data set and a base model.
        arguments: keyword arguments of the app's function.
    """

    name: Annotated[str, AfterValidator(_data_set)]
    arguments: dict[str, Any] = Field(default_factory=dict)


class SiloConfig(PartyFile):
    """The whole file.

    Attributes:
        name: this silo, as in the roster and in its certificate.
        coordinator: ``host:port`` that is dialled.
        state: the only folder that is written to, but for the ledger's.
        roster: ``roster.toml``, pinned here.
        ledger: folder of the ledgers of data sets; None for ``state / "ledger"``.
        identity: the Ed25519 private key, PKCS#8 PEM, 0600.
        threads: that training may use.
        memory_limit: bytes that the process may hold beside training; None for what the machine has.
        tls: certificates.
        policy: floors, and approved apps.
        intersections: who may look for shared records, and its limits.
        vertical: how much vertical jobs may have this silo show.
        data: what is trained on.
    """

    name: Annotated[str, AfterValidator(_silo)]
    coordinator: Dialled
    state: FilePath
    ledger: FilePath | None = None
    identity: FilePath
    threads: int = Field(default=1, ge=1, le=1024)
    memory_limit: int | None = Field(default=None, ge=1)
    policy: Floors = Floors()
    intersections: Intersections = Intersections()
    vertical: VerticalPolicy = VerticalPolicy()
    data: Data

    def private_keys(self) -> Sequence[Path]:
        """Return the files that must be their owner's alone."""
        return (self.identity, *super().private_keys())

    @property
    def ledger_folder(self) -> Path:
        """The folder of the ledgers, which outlive the state of one identity."""
        return self.state / "ledger" if self.ledger is None else self.ledger

    def member(self) -> tuple[IdentityKey, Roster]:
        """Return this silo's identity and the roster that it pinned.

        Raises:
            ParameterError: the roster is none.
            EnvironmentFault: a file cannot be read, or the key is not its owner's alone, or no Ed25519 key.
            TrustError: the roster has not this name with this key.
        """
        identity = _identity(self.identity)
        roster = self.members()
        if self.name not in roster:
            raise TrustError(f"{self.roster} has no silo {self.name}; it has {', '.join(roster.silos)}")
        if roster.key(self.name) != identity.public:
            raise TrustError(
                f"{self.roster} pins {fingerprint(roster.key(self.name))} for {self.name}, and "
                f"{self.identity} is {fingerprint(identity.public)}"
            )
        return identity, roster


def _identity(path: Path) -> IdentityKey:
    try:
        key = load_pem_private_key(read_private(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # What it says may quote the file.
        raise EnvironmentFault(f"{path} is no unencrypted private key in PEM") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise EnvironmentFault(f"{path} is no Ed25519 key; a silo's identity is one")
    return IdentityKey(key)
