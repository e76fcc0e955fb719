"""Every error this library raises, the exit code each one means, and the one warning it gives.

The tree answers three questions: who is at fault (us, the caller, a peer, nobody), may that party be
named, and is anything lost. Third-party exceptions are converted where they enter. A text names
parameters, sizes and the next step, never a secret or a data value.
"""

from __future__ import annotations

from secagg.names import SiloId


class SecaggError(Exception):
    """Root of the tree; never raised itself."""


class ParameterError(SecaggError, ValueError):
    """Our own parameters are unsafe or contradictory; raised in constructors.

    Attributes:
        parameter: which one, as this library spells it (``"n"``, ``"c"``, ``"t"``, ``"k_min"``,
            ``"encoding"``, ``"memory"``, ``"typed"``: of a command); empty where the text alone says it.
    """

    def __init__(self, text: str, *, parameter: str = "") -> None:
        super().__init__(text)
        self.parameter = parameter


class UsageError(SecaggError):
    """The caller broke a contract: a session used twice, a call in the wrong order."""


class InputRefused(UsageError, ValueError):
    """A vector, weight or metric handed in cannot be encoded; nothing left the silo.

    Attributes:
        rule: which check refused: ``"nan"``, ``"infinite"``, ``"bound"``, ``"shape"``, ``"dtype"``,
            ``"weight"``, ``"metric"``, ``"layout"``, ``"identifier"`` or ``"table"``.
    """

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(text)
        self.rule = rule


class TrainerFailed(UsageError):
    """A trainer raised; the round goes on without its silo.

    Attributes:
        silo: the silo whose trainer raised.
        original: what it raised, with its traceback, for whoever mends the trainer; None where it returned
            something wrong. Not chained: whatever prints a traceback, a log too, would print its text
            first, and that text may quote data. ``traceback.print_exception(error.original)`` shows it.
    """

    def __init__(self, silo: SiloId, text: str, *, original: Exception | None = None) -> None:
        super().__init__(f"{silo}: {text}")
        self.silo = silo
        self.original = original


class ProtocolError(SecaggError):
    """A received message shows that a peer left the protocol."""


class MalformedMessage(ProtocolError):
    """Bytes are not a message."""


class UnexpectedMessage(ProtocolError):
    """A well-formed message that this phase does not accept."""


class FaultySilo(ProtocolError):
    """Raised by the coordinator: this silo left the protocol.

    Attributes:
        silo: who is named.
        dealer: the silo is named for the secret shares it dealt, not for a message it sent.
    """

    def __init__(self, silo: SiloId, text: str, *, dealer: bool = False) -> None:
        super().__init__(f"{silo}: {text}")
        self.silo = silo
        self.dealer = dealer


class FaultySiloOrCoordinator(ProtocolError):
    """Raised by a silo that cannot tell which of the two left the protocol.

    Attributes:
        silo: the silo that is named beside the coordinator.
    """

    def __init__(self, silo: SiloId, text: str) -> None:
        super().__init__(f"{silo} or the coordinator: {text}")
        self.silo = silo


class RoundAborted(SecaggError):
    """Nobody can be named, the sum cannot be formed.

    Attributes:
        opened: silos may have opened it all the same, where they alone can.
    """

    opened = False


class TooFewSilos(RoundAborted):
    """Fewer silos answered than the phase needs.

    Attributes:
        have: how many answered.
        need: how many are needed.
        phase: the phase that could not close.
        missing: who did not answer, by name; empty if unknown.
    """

    def __init__(self, have: int, need: int, phase: str, missing: tuple[SiloId, ...] = ()) -> None:
        who = f"; silent or refused: {', '.join(missing)}" if missing else ""
        super().__init__(f"{phase}: {have} silos answered, {need} are needed{who}")
        self.have = have
        self.need = need
        self.phase = phase
        self.missing = missing


class RunStopped(RoundAborted):
    """Somebody halted the run, or stopped its coordinator; it can go on where it is."""


class PartnerStopped(RoundAborted):
    """Raised by a silo that met others: one of them ended what they did together.

    Attributes:
        silo: who.
        rule: of its policy; empty if that was not why.
    """

    def __init__(self, silo: SiloId, text: str, *, rule: str = "") -> None:
        super().__init__(f"{silo}: {text}")
        self.silo = silo
        self.rule = rule


class PartnersMissing(RoundAborted):
    """Raised by a silo: others did not come to a meeting, or not back to it.

    Attributes:
        silos: who.
        met: whether all had been there before.
    """

    def __init__(self, silos: tuple[SiloId, ...], text: str, *, met: bool = False) -> None:
        super().__init__(text)
        self.silos = silos
        self.met = met


class PolicyRefused(SecaggError):
    """The silo's own policy says no; nothing left the silo.

    Attributes:
        rule: the rule that refused, the only part of the refusal that reaches the run.
        silos: for a lock, whose return would let the round finish.
    """

    def __init__(self, rule: str, text: str, silos: tuple[SiloId, ...] = ()) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule
        self.silos = silos


class PrivacyBudgetExhausted(SecaggError):
    """The release did not happen: the ledger has no budget left."""


class EnvironmentFault(SecaggError):
    """A missing extra, a port in use, an unreadable file, a full disk."""


class MissingExtra(EnvironmentFault):
    """A package of an optional extra is not installed; the text has the one command to type.

    Attributes:
        extra: the extra that brings it.
        package: its name.
    """

    def __init__(self, extra: str, package: str) -> None:
        super().__init__(f"{package} is not installed. Type: pip install 'secagg[{extra}]'")
        self.extra = extra
        self.package = package


class TrustError(SecaggError):
    """A certificate, token or pin is not the one that was confirmed."""


class FaultyCoordinator(ProtocolError, TrustError):
    """Raised by a silo: the coordinator left the protocol."""


class SiloLeftOut(UserWarning):
    """A round went on without a silo whose trainer or policy said no.

    Attributes:
        error: the silo's own account; None in a copy that was made from the text alone.
    """

    def __init__(self, text: str, error: SecaggError | None = None) -> None:
        super().__init__(text)
        self.error = error


# First match wins, so that a class with two parents (FaultyCoordinator) gets the graver verdict.
EXIT_CODES: tuple[tuple[type[SecaggError], int], ...] = (
    (TrustError, 5),
    (ProtocolError, 4),
    (RoundAborted, 4),
    (PolicyRefused, 6),
    (PrivacyBudgetExhausted, 7),
    (EnvironmentFault, 3),
    (ParameterError, 2),
    (UsageError, 2),
)


def exit_code(error: SecaggError) -> int:
    """Return the process exit code that ``error`` means (2 to 7; see ``EXIT_CODES``)."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))
