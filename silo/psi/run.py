"""One intersection at a silo: what ``silo psi`` does, from the file of identifiers to the file of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from secagg.catalogue import Explanation
from secagg.conversation import Side
from secagg.errors import (
    EnvironmentFault,
    FaultySilo,
    InputRefused,
    ParameterError,
    PartnersMissing,
    PolicyRefused,
)
from secagg.explanation import annotate, explain
from secagg.hazmat.curve import hash_to_points
from secagg.hazmat.identity import grouped
from secagg.names import SiloId
from secagg.psi.agreement import Settings, Terms, agreed, finished
from secagg.psi.identifiers import Duplicates, Identifiers, Rule, read_identifiers
from secagg.psi.many.follower import FollowerSession
from secagg.psi.many.leader import LeaderSession
from secagg.psi.many.sides import following, leading
from secagg.psi.many.terms import ManyTerms
from secagg.psi.outcome import Outcome
from secagg.psi.powers import Powers, Progress
from secagg.psi.receiver import ReceiverSession
from secagg.psi.sender import SenderSession
from secagg.psi.sides import receiving, sending
from secagg.psi.sizes import padded
from secagg.psi.terms import IntersectionPolicy, IntersectionTerms, Reveal
from secagg.psi.transcript import repeatable
from silo.config import SiloConfig
from silo.meeting import PATIENCE, Watch, check_parties, meet_now
from silo.psi.queries import QueryFile
from silo.psi.rows import KINDS, write_rows
from silo.psi.session import Session, folder_of
from silo.readers import open_table, read_keys
from silo.target import check_target

RECORD_SIZE = 64
"""Bytes of one record in a message, at the most, where there are so many that they make it large."""
LEAST_LIMIT = 1 << 20
"""Bytes that a message of few records may have: a small table has more for each."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What an operator asks for.

    Attributes:
        name: of the session, as the operators agreed.
        partners: the other silos.
        data: the file of identifiers.
        columns: of a key.
        query: see ``open_table``.
        first: see ``Settings``.
        reveal: see ``Settings``.
        rule: how identifiers are read.
        duplicates: what becomes of an identifier that several rows have.
        out: where rows are written.
    """

    name: str
    partners: tuple[SiloId, ...]
    data: Path
    columns: tuple[str, ...]
    query: str | None = None
    first: bool | None = None
    reveal: Reveal = "both"
    rule: Rule
    duplicates: Duplicates = "refuse"
    out: Path


@dataclass(frozen=True)
class Found:
    """What came of it: on what the parties agreed, and what this one learned."""

    terms: Terms
    outcome: Outcome | None


def prepared(config: SiloConfig, request: Request) -> Settings:
    """Check all that can be checked before the data is read, and return what partners are told.

    Raises:
        EnvironmentFault: rows cannot be written where they are to be.
        MissingExtra: a package is not installed.
        ParameterError: a name or an option that there is not.
        PolicyRefused: a partner is not among those that may look for shared records.
    """
    wanted = {config.name, *request.partners}
    if len(wanted) <= len(request.partners):
        raise ParameterError("name each partner once, and not this silo itself")
    check_parties(config, request.name, tuple(sorted(wanted)))
    parties = tuple(silo for silo in config.members().silos if silo in wanted)
    for partner in request.partners:
        config.intersections.check_partner(partner)
    if len(parties) > 2 and request.reveal == "count":
        raise ParameterError("the number alone is found for two parties, not for more")
    check_target(
        request.out,
        what="rows",
        kinds=KINDS,
        data=request.data,
        new=not folder_of(config.state, request.name).exists(),
    )
    hash_to_points([b""], b"installed?")  # Says what is missing before the data is read.
    return Settings(
        parties=parties,
        first=request.first,
        reveal=request.reveal,
        case=request.rule.case,
        spaces=request.rule.spaces,
        parts=len(request.columns),
        smallest_intersection=config.intersections.smallest_intersection,
    )


def read(request: Request) -> Identifiers:
    """Read the identifiers.

    Raises:
        SecaggError: see ``open_table``, ``read_keys`` and ``read_identifiers``.
    """
    try:
        keys = read_keys(open_table(request.data, query=request.query), request.columns)
        return read_identifiers(
            keys, rule=request.rule, duplicates=request.duplicates, name=str(request.data)
        )
    except InputRefused as refusal:
        annotate(refusal, not_taken(refusal))
        raise


def find(
    config: SiloConfig,
    request: Request,
    settings: Settings,
    identifiers: Identifiers,
    *,
    patience: float = PATIENCE,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Found:
    """Meet the partners, find what all have, and write this silo's rows; a session that was killed goes on.

    Args:
        config: of this silo.
        request: of the operator.
        settings: as ``prepared`` gave them.
        identifiers: as ``read`` gave them.
        patience: seconds for which partners are waited for.
        progress: told of points.
        watch: told how the meeting stands.

    Raises:
        SecaggError: see ``meet``, ``Session``, ``agreed`` and the sessions of an intersection.
    """
    with _opened(config, request, settings, identifiers) as session:
        side = partial(
            one_side,
            config,
            session,
            settings,
            identifiers,
            powers=Powers(progress=progress, buckets=session),
            keep=partial(_keep, request.out),
        )
        largest = padded(max(config.intersections.largest_set, len(identifiers)))
        try:
            found = meet_now(
                config,
                request.name,
                settings.parties,
                side,
                patience=patience,
                largest=max(LEAST_LIMIT, RECORD_SIZE * largest),
                watch=watch,
            )
        except FaultySilo as fault:
            annotate(fault, left_the_protocol(fault, request.name))
            raise
        except PolicyRefused as refusal:
            annotate(refusal, refused(refusal, request.name))
            raise
        except PartnersMissing as missing:
            if not session.done:
                raise
            raise PartnersMissing(
                missing.silos,
                f"{missing}. This silo has its result, and {', '.join(missing.silos)} did not say so. If "
                f"their operators have theirs too, type: silo psi {request.name} --abandon",
                met=missing.met,
            ) from None
        session.end()
    return found


def one_side(
    config: SiloConfig,
    session: Session,
    settings: Settings,
    identifiers: Identifiers,
    *,
    powers: Powers,
    keep: Callable[[Outcome | None], None],
) -> Side[Found]:
    """Return this silo's side, from what the parties agree on until all have their result.

    Args:
        config: of this silo.
        session: kept until it ends.
        settings: of this silo.
        identifiers: of this silo.
        powers: computes.
        keep: takes what was learned; it is on disk when this returns.
    """
    agreement = yield from agreed(config.name, settings, session.nonce)
    session.meet(agreement.proposals)
    terms = agreement.terms
    queries = QueryFile(config.ledger_folder, config.intersections.limits())
    policy = config.intersections.policy(partial(queries.count, terms.session))
    role = _role(config.name, terms, identifiers, policy, powers, session)
    outcome = yield from repeatable(role, session)
    keep(outcome)
    session.finish()
    yield from finished([party for party in settings.parties if party != config.name])
    return Found(terms, outcome)


def _role(
    name: SiloId,
    terms: Terms,
    identifiers: Identifiers,
    policy: IntersectionPolicy,
    powers: Powers,
    session: Session,
) -> Side[Outcome | None]:
    draws = session.draws()
    match terms:
        case IntersectionTerms(receiver=first) if name == first:
            return receiving(ReceiverSession(terms, identifiers, policy=policy, powers=powers, draws=draws))
        case IntersectionTerms():
            return sending(SenderSession(terms, identifiers, policy=policy, powers=powers, draws=draws))
        case ManyTerms(leader=first) if name == first:
            return leading(LeaderSession(terms, identifiers, policy=policy, powers=powers, draws=draws))
        case ManyTerms():
            return following(
                FollowerSession(terms, name, identifiers, policy=policy, powers=powers, draws=draws)
            )


def _opened(config: SiloConfig, request: Request, settings: Settings, identifiers: Identifiers) -> Session:
    try:
        return Session(
            config.state, request.name, settings=settings, identifiers=identifiers, source=request.data
        )
    except InputRefused as refusal:
        annotate(refusal, not_taken(refusal))
        raise


def _keep(path: Path, outcome: Outcome | None) -> None:
    if outcome is not None and outcome.rows is not None:
        write_rows(path, outcome.rows)


def told(found: Found, out: Path) -> list[str]:
    """Return what the operator reads at the end, a line each."""
    outcome = found.outcome
    if outcome is None:
        return [described(found.terms)]
    lines = [described(found.terms), f"shared    {outcome.count:,} records"]
    if outcome.digest is not None:
        lines.append(f"order     {grouped(outcome.digest[:16])}, the same at every party that has rows")
    lines.append(f"rows      {out if outcome.rows is not None else 'none: this party learns the number'}")
    return lines


def not_taken(refusal: InputRefused) -> Explanation:
    """Return what it means that identifiers are refused, where no trainer and no round is."""
    return replace(
        explain(refusal),
        what="the identifiers cannot be taken as they are",
        safe="yes: nothing left this silo",
        you_can="correct the file, or say which of it is taken: --column, --query, --duplicates",
        they_can="nothing: no other party is involved",
    )


def refused(refusal: PolicyRefused, name: str) -> Explanation:
    """Return what it means that a party's policy refuses, where a session is kept for another try."""
    known = explain(refusal)
    return replace(
        known,
        you_can=f"{known.you_can}. To give up the session, type at every party: silo psi {name} --abandon",
    )


def left_the_protocol(fault: FaultySilo, name: str) -> Explanation:
    """Return what a partner's fault means where there is no round and no model."""
    return replace(
        explain(fault),
        what=f"{fault.silo} left what was agreed on, and {name} stops",
        safe="yes: identifiers leave this silo only under an exponent that nobody else has",
        you_can=f"ask its operator, then type the command again, or: silo psi {name} --abandon",
        they_can=f"{fault.silo}: put back what it began with, or abandon the session too",
    )


def described(terms: Terms) -> str:
    """Return who learns what, in words."""
    match terms:
        case IntersectionTerms(receiver=first, sender=second, reveal=reveal):
            return {
                "both": f"{first} and {second} learn which records they share",
                "receiver": f"{first} learns which records they share, {second} how many",
                "count": f"{first} and {second} learn how many records they share",
            }[reveal]
        case ManyTerms(leader=first, parties=parties, reveal=reveal):
            return {
                "all": f"{', '.join(parties)} learn which records all have",
                "leader": f"{first} alone learns which records all have",
            }[reveal]


def check(config: SiloConfig) -> str:
    """Return whether intersections are possible here, in words.

    Raises:
        MissingExtra: a package is not installed, and partners are named.
        StateFault: what partners asked about cannot be read.
        EnvironmentFault: a partner is not in the roster.
    """
    own = config.intersections
    if not own.partners:
        return "nobody may look for shared records; list partners under [intersections] if somebody is to"
    if strangers := own.partners - set(config.members().silos):
        raise EnvironmentFault(f"[intersections] lists {', '.join(sorted(strangers))}, not in the roster")
    hash_to_points([b""], b"installed?")
    limits = own.limits()
    queries = QueryFile(config.ledger_folder, limits)
    left = [f"{partner} {max(0, limits.most - queries.asked(partner)):,}" for partner in sorted(own.partners)]
    return f"records that each may still bring within {limits.period_days} days: {', '.join(left)}"
