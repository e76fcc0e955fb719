"""The caller's end of the control API, for notebooks and the command line: blocking calls, lasting watches.

    federation = Federation(silos=Coordinator(credentials="scientist"), app="hospital.training:trainer",
                            initial="initial.safetensors", metrics=["loss"])

A watch reconnects by itself; a run does not depend on who watches it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar

from coordinator import tls  # Before grpc: it sets what grpc reads when it is imported.
from coordinator.config import ClientConfig
from coordinator.control import (
    CONTROL,
    Ask,
    Done,
    Gathered,
    KeyList,
    KeyShown,
    MakeKey,
    Of,
    Resume,
    RunList,
    RunShown,
    Standing,
    Start,
    Watch,
    Watched,
    Weights,
    decode,
    encode,
    pieces,
    weights_of,
)
from coordinator.failures import Failed
from coordinator.feed import Ended, RoundFinished, RoundStarted, RunStarted, SiloPhase, Waiting
from coordinator.keys import PHASE_SECONDS
from coordinator.model_file import read_initial
from secagg.operator_files import read_text

import grpc  # isort: skip

from secagg.address import split_address
from secagg.errors import EnvironmentFault, MalformedMessage, TrustError, UsageError
from secagg.keys.document import DAY, DEFAULT_LIFETIME
from secagg.learning.history import Record
from secagg.learning.progress import Observer
from secagg.learning.remote import Layout, Outcome
from secagg.learning.request import RunRequest
from secagg.link.options import CHANNEL_OPTIONS
from secagg.names import RealVector
from secagg.payload import Payload
from secagg.report import plural
from secagg.roster_file import parse_roster
from secagg.terms import KeyScheme

SCHEME = "grpcs://"
CALL_SECONDS = 60.0
"""How long a short call may take."""
CEREMONY_SECONDS = 3 * PHASE_SECONDS + CALL_SECONDS
RECONNECT_SECONDS = 600.0
"""How long a watch tries to reach a coordinator again."""

_OPTIONS = (
    *CHANNEL_OPTIONS,
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5000),
)

Call: TypeAlias = Any  # Of grpc, whose stubs know no call without serialisers.
M = TypeVar("M")


class Coordinator:
    """A running coordinator, as a scientist or an operator reaches it. Closed at the end of a ``with``.

    Args:
        address: ``"grpcs://host:port"``; None for the one in ``client.toml``.
        credentials: folder with ``client.toml`` and the files that it names.

    Raises:
        EnvironmentFault: a file cannot be read.
        ParameterError: what is in it is wrong.
        TrustError: the certificate is not a scientist's or an operator's, or outside its dates.

    Guarantees:
        It speaks only to who has a server's certificate of the authority, over TLS 1.3.
    """

    def __init__(self, address: str | None = None, *, credentials: str | Path) -> None:
        config = ClientConfig.load(Path(credentials) / "client.toml")
        self.address = config.coordinator if address is None else address.removeprefix(SCHEME)
        split_address(self.address)
        self._roster = parse_roster(read_text(config.roster), str(config.roster))
        self._channel: Any = grpc.secure_channel(
            self.address, tls.channel_credentials(config.tls), options=_OPTIONS
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the connection go."""
        self._channel.close()

    def __repr__(self) -> str:
        return f"Coordinator({SCHEME}{self.address})"

    # --- runs ----------------------------------------------------------------------------------------------

    def read_initial(self, path: Path) -> tuple[RealVector, Layout]:
        """Return the weights in a file; see ``model_file.read_initial``."""
        return read_initial(path)

    def start(self, request: RunRequest, weights: RealVector) -> str:
        """Start a run from ``weights`` and return its name; see ``Remote``.

        Raises:
            TrustError: the coordinator serves another roster than the one beside ``client.toml``.
        """

        def frames() -> Iterator[bytes]:
            payload = Payload.of(weights)
            yield encode(Start(request, weights_of(payload), self._roster.digest))
            yield from pieces(payload)

        call: Call = self._channel.stream_unary(f"/{CONTROL}/Start")
        with self._reaching():
            return _read(call(frames(), timeout=RECONNECT_SECONDS), Done).run

    def watch(self, run: str, observer: Observer, *, waiting: Callable[[str], None] | None = None) -> Outcome:
        """Tell ``observer`` of a run until it ended; see ``Remote``."""
        records: list[Record] = []
        tell = waiting or (lambda _text: None)
        started: RunStarted | None = None
        for event in self._events(run, records, tell):
            match event:
                case RunStarted():
                    if started is None:
                        observer.run_started(event.silos, event.phases, rounds=event.rounds)
                    started = event
                case Waiting():
                    tell(_in_words(event))
                case RoundStarted():
                    observer.round_started(event.round, attempt=event.attempt)
                case SiloPhase():
                    observer.silo_phase(event.silo, event.phase, event.state)
                case RoundFinished():
                    records.append(event.record)
                    observer.round_finished(event.record.report, event.record.metrics)
                case Failed():
                    raise event.error()
                case Ended():
                    return Outcome(
                        run=run,
                        state=event.state,
                        exit=event.exit,
                        text=event.text,
                        records=tuple(records),
                        error=None if event.failure is None else event.failure.error(),
                        model=event.model,
                        card=event.card,
                    )
        raise MalformedMessage("the coordinator ended a watch without a verdict")

    def model(self, run: str) -> RealVector:
        """Return the weights after the last opened sum of a run, float64, shape (length,)."""
        call: Call = self._channel.unary_stream(f"/{CONTROL}/Model")
        with self._reaching():
            answer = iter(call(encode(Of(run)), timeout=RECONNECT_SECONDS))
            gathered = Gathered(_read(next(answer, b""), Weights))
            for piece in answer:
                gathered.add(piece)
            return gathered.whole().array()

    def halt(self, run: str) -> None:
        """Stop a run now; it can be resumed.

        Raises:
            UsageError: it is not under way.
        """
        self._ask("Halt", Of(run), Done)

    def resume(self, run: str, *, new_release: bool = False) -> None:
        """Go on with a run that was halted.

        Args:
            run: its name.
            new_release: begin the round anew with noise of its own, which ledgers are charged for, because
                its silos signed a set that cannot form again. Under masks with distributed noise.

        Raises:
            UsageError: there is no such run, it is complete, or another is under way; or a new release is
                asked for where there is none.
        """
        self._ask("Resume", Resume(run, new_release), Done)

    def runs(self) -> tuple[RunShown, ...]:
        """Return all runs, oldest first."""
        return self._ask("Runs", Ask(), RunList).runs

    def status(self) -> Standing:
        """Return how things stand."""
        return self._ask("Status", Ask(), Standing)

    # --- keys ----------------------------------------------------------------------------------------------

    def make_key(
        self,
        scheme: KeyScheme,
        *,
        size: int | None = None,
        threshold: int | None = None,
        maker: str | None = None,
        days: int = DEFAULT_LIFETIME // DAY,
    ) -> KeyShown:
        """Let the silos make a key, which replaces the last one of its scheme; an operator's call.

        Args:
            scheme: what it is for.
            size: bits of a Paillier key, degree of a CKKS ring; None for 3072 and 8192.
            threshold: for ``threshold-paillier``, how many silos open together; None for the least.
            maker: the silo that makes it; None for the first of the roster.
            days: how long it is used, 1 to 366.

        Raises:
            PolicyRefused: by the policy of silos; the error names all of them.
            TooFewSilos: silos are not there, or left the protocol; the error names them.
            UsageError: a run is under way.
            ParameterError: there are no such keys.
        """
        asked = MakeKey(scheme, size, threshold, maker, days, self._roster.digest)
        return self._ask("MakeKey", asked, KeyShown, seconds=CEREMONY_SECONDS)

    def keys(self) -> tuple[KeyShown, ...]:
        """Return all keys, oldest first."""
        return self._ask("Keys", Ask(), KeyList).keys

    # --- calls ---------------------------------------------------------------------------------------------

    def _ask(self, name: str, request: object, kind: type[M], *, seconds: float = CALL_SECONDS) -> M:
        call: Call = self._channel.unary_unary(f"/{CONTROL}/{name}")
        with self._reaching():
            return _read(call(encode(request), timeout=seconds), kind)

    def _events(self, run: str, records: list[Record], tell: Callable[[str], None]) -> Iterator[Watched]:
        """Yield events; when the connection breaks, go on after the sums that are in ``records``."""
        watch: Call = self._channel.unary_stream(f"/{CONTROL}/Watch")
        reached = False
        while True:
            try:
                stream: Iterable[bytes] = watch(encode(Watch(run, len(records))))
                for frame in stream:
                    reached = True
                    yield decode(frame, Watched)  # type: ignore[arg-type]  # A union is as good as a type.
                return
            except grpc.RpcError as error:
                if reached and error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                    continue  # This watcher took nothing for a while and was given up; it goes on.
                if not reached or error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise self._fault(error) from None
            tell(f"{self.address} cannot be reached; the run does not depend on it. Trying again")
            try:
                grpc.channel_ready_future(self._channel).result(timeout=RECONNECT_SECONDS)
            except grpc.FutureTimeoutError:
                raise EnvironmentFault(
                    f"{self.address} could not be reached for {RECONNECT_SECONDS:.0f} s. When it can: "
                    f"coordinator run watch {run}"
                ) from None

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise self._fault(error) from None

    def _fault(self, error: Any) -> Exception:
        code, text = error.code(), error.details() or ""
        match code:
            case grpc.StatusCode.PERMISSION_DENIED if _is_role(text):
                return UsageError(f"{self.address} refuses: {text}. Give its credentials (--credentials)")
            case grpc.StatusCode.PERMISSION_DENIED:
                return TrustError(f"{self.address} refuses: {text}")
            case grpc.StatusCode.UNAVAILABLE if _is_handshake(text):
                return TrustError(
                    f"{self.address} is not the coordinator of this authority, or does not accept this "
                    "certificate: compare the authority's fingerprint, and the name in the address"
                )
            case grpc.StatusCode.DEADLINE_EXCEEDED if "too slow" in text:
                return EnvironmentFault(f"{self.address} gave this call up, which was {text}. Try again")
            case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED:
                return EnvironmentFault(
                    f"{self.address} cannot be reached. Look whether `coordinator up` runs there, and "
                    "whether a firewall is in between"
                )
            case grpc.StatusCode.DATA_LOSS:
                return EnvironmentFault(f"{self.address} broke the call off: {text}. Its log says more")
            case grpc.StatusCode.UNIMPLEMENTED:
                return EnvironmentFault(f"{self.address} is no coordinator of this version")
            case _:
                return EnvironmentFault(f"{self.address} broke the call off ({code.name})")


def _read(data: object, kind: type[M]) -> M:
    reply: Any = decode(data, kind | Failed)  # type: ignore[arg-type]  # As above.
    if isinstance(reply, Failed):
        raise reply.error()
    return reply  # type: ignore[no-any-return]  # One of two, and not the other.


def _is_role(text: str) -> bool:
    return "may not make this call" in text  # As ``tls.caller`` words it; the certificate itself is good.


def _is_handshake(text: str) -> bool:
    return any(word in text for word in ("SSL", "TLS", "handshake", "ertificate", "CERTIFICATE", "Peer name"))


def _in_words(event: Waiting) -> str:
    since, until = (datetime.fromtimestamp(at).astimezone() for at in (event.since, event.until))
    then = "goes on" if event.have >= event.need else "halts"
    return (
        f"waiting for {', '.join(event.missing) or 'nobody'}: {plural(event.have, 'silo')} connected, "
        f"{event.need} needed, since {since:%H:%M:%S}; {then} at {until:%H:%M:%S} {until:%Z}"
    )
