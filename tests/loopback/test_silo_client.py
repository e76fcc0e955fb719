"""A silo's line over real sockets and mutual TLS, to a coordinator that cuts it wherever it hurts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
import structlog
import trustme

from secagg import __version__
from secagg.errors import EnvironmentFault, SecaggError, TrustError
from secagg.link.frames import (
    MAX_PIECE,
    PROTOCOL,
    Begin,
    Held,
    Piece,
    Received,
    Welcome,
    encode_link,
)
from secagg.payload import Frame
from silo.client import MAX_UNREAD, Client
from silo.tls import Dialling
from tests.loopback.scripted import Coordinator

import grpc  # isort: skip
import grpc.aio  # isort: skip

SECONDS = 30
"""A test that hangs ends here."""
ROSTER = bytes(range(32))
SIZE = 6 * MAX_PIECE + 1
LIMIT = 64 * MAX_PIECE


@cache
def authority(name: str = "authority") -> trustme.CA:
    return trustme.CA(organization_name=name)


def server_credentials(ca: trustme.CA, host: str = "127.0.0.1") -> grpc.ServerCredentials:
    issued = ca.issue_cert(host)
    chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
    return grpc.ssl_server_credentials(
        [(issued.private_key_pem.bytes(), chain)], authority().cert_pem.bytes(), True
    )


def serving(coordinator: Coordinator) -> AbstractAsyncContextManager[Coordinator]:
    return coordinator.serving(server_credentials(authority()))


def client(port: int) -> Client:
    issued = authority().issue_cert("north.example")
    credentials = grpc.ssl_channel_credentials(
        authority().cert_pem.bytes(),
        issued.private_key_pem.bytes(),
        b"".join(pem.bytes() for pem in issued.cert_chain_pems),
    )
    dialling = Dialling(credentials, datetime.now(UTC) + timedelta(days=1))
    silo = Client(f"127.0.0.1:{port}", lambda: dialling, roster=ROSTER)
    silo.limit = LIMIT
    return silo


def message(number: int, size: int = 0) -> Frame:
    payload = memoryview(bytes([number]) * size) if size else None
    return b"header %d" % number, payload


def same(one: Frame, other: Frame) -> bool:
    return (
        one[0] == other[0]
        and (one[1] is None) == (other[1] is None)
        and bytes((one[1] or b"")[:]) == bytes((other[1] or b"")[:])
    )


@contextmanager
def logged_to(processor: structlog.typing.Processor) -> Iterator[None]:
    before = structlog.get_config()["processors"]
    structlog.configure(processors=[processor])
    try:
        yield
    finally:
        structlog.configure(processors=before)


@asynccontextmanager
async def running(silo: Client) -> AsyncIterator[asyncio.Task[None]]:
    task: asyncio.Task[None] = asyncio.create_task(silo.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(SECONDS):
            await test()

    asyncio.run(limited())


async def exchange(coordinator: Coordinator, silo: Client, sizes: list[int]) -> None:
    """Send a message of each size and have it echoed; each arrives once and in order, both ways."""
    for number, size in enumerate(sizes, start=1):
        coordinator.send(message(number, size))
    for number, size in enumerate(sizes, start=1):
        arrival = await silo.next()
        assert same(arrival.frame, message(number, size))
        silo.reply(arrival, arrival.frame)
    for number, size in enumerate(sizes, start=1):
        assert same(await coordinator.replies.get(), message(number, size))
    await coordinator.until(lambda: coordinator.outgoing.pending == 0)
    assert coordinator.replies.empty()


# --- messages -----------------------------------------------------------------------------------------------


def test_messages_and_replies_cross_once_and_in_order() -> None:
    async def test() -> None:
        async with serving(Coordinator()) as coordinator, running(silo := client(coordinator.port)):
            await exchange(coordinator, silo, [0, 1, SIZE, 0, MAX_PIECE])
            (hello,) = coordinator.hellos
            assert (hello.protocol, hello.version, hello.roster) == (PROTOCOL, __version__, ROSTER)
            assert (hello.peer, hello.held) == (None, Held())

    run(test)


@pytest.mark.parametrize("way", ["down", "up"])
@pytest.mark.parametrize("cuts", [[0], [1], [4], [2, 2], [0, 0, 3]], ids=str)
def test_a_cut_stream_goes_on_where_it_broke_off(way: str, cuts: list[int]) -> None:
    async def test() -> None:
        coordinator = Coordinator(**{f"cut_{way}": list(cuts)})  # type: ignore[arg-type]
        async with serving(coordinator), running(silo := client(coordinator.port)):
            await exchange(coordinator, silo, [SIZE, 0, SIZE])
        assert not coordinator.cut_down + coordinator.cut_up
        assert len(coordinator.hellos) == len(cuts) + 1
        assert {hello.boot for hello in coordinator.hellos} == {coordinator.hellos[0].boot}
        assert {hello.peer for hello in coordinator.hellos[1:]} == {coordinator.boot}
        held = coordinator.welcomes if way == "up" else [hello.held for hello in coordinator.hellos]
        assert [part.part > 0 for part in held[1:]] == [cut > 0 for cut in cuts]
        for stream, part in enumerate(held, start=1):
            first = next(o for w, number, o in coordinator.pieces if (w, number) == (way, stream))
            assert first == part.part

    run(test)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xc1",
        b"",
        encode_link(Begin(99, b"", None)),
        encode_link(Piece(1, 8, memoryview(b"early"))),
        encode_link(Received(7)),
        encode_link(Welcome(PROTOCOL, "9.9.9", bytes(16), True, Held())),
    ],
    ids=["bytes", "nothing", "gap", "piece", "acknowledgement", "welcome"],
)
def test_what_is_malformed_ends_the_stream_and_not_the_line(garbage: bytes) -> None:
    async def test() -> None:
        coordinator = Coordinator(garbage=[garbage])
        async with serving(coordinator), running(silo := client(coordinator.port)):
            await exchange(coordinator, silo, [SIZE, 1])
        assert [hello.peer for hello in coordinator.hellos] == [None, coordinator.boot]

    run(test)


def test_few_messages_wait_for_an_agent_that_is_busy() -> None:
    async def test() -> None:
        many = 5 * MAX_UNREAD
        async with serving(Coordinator()) as coordinator, running(silo := client(coordinator.port)):
            for number in range(1, many + 1):
                coordinator.send(message(number))
            await coordinator.until(lambda: coordinator.outgoing.pending == many - MAX_UNREAD)
            for number in range(1, many + 1):
                assert len(silo._unread) <= MAX_UNREAD
                assert same((await silo.next()).frame, message(number))
            await coordinator.until(lambda: coordinator.outgoing.pending == 0)

    run(test)


# --- certificates -------------------------------------------------------------------------------------------


def unreadable() -> Dialling:
    raise EnvironmentFault("silo.pem is not there")


@pytest.mark.parametrize("lasts", [True, False])
def test_files_that_are_being_renewed_do_not_end_a_silo_whose_certificate_lasts(lasts: bool) -> None:
    async def test() -> None:
        async with serving(Coordinator()) as coordinator:
            silo = client(coordinator.port)
            first = silo._read_credentials()
            until = datetime.now(UTC) + timedelta(days=1 if lasts else -1)
            reads = iter([lambda: Dialling(first.credentials, until), unreadable])
            silo._read_credentials = lambda: next(reads, unreadable)()
            ends = nullcontext() if lasts else pytest.raises(EnvironmentFault, match="is not there")
            with ends:
                async with running(silo) as task:
                    await coordinator.until(lambda: len(coordinator.welcomes) == 1)
                    coordinator.restart()
                    if not lasts:
                        await task
                    await coordinator.until(lambda: len(coordinator.welcomes) == 2)

    run(test)


# --- restarts -----------------------------------------------------------------------------------------------


def test_nothing_of_a_coordinator_that_restarted_goes_on() -> None:
    async def test() -> None:
        async with serving(Coordinator()) as coordinator, running(silo := client(coordinator.port)):
            coordinator.send(message(1))
            coordinator.send(message(2))
            before = await silo.next()
            await coordinator.until(lambda: coordinator.outgoing.pending == 0)
            with structlog.testing.capture_logs() as logs:
                coordinator.restart()
                await coordinator.until(lambda: len(coordinator.hellos) == 2)
                coordinator.send(message(3))
                await coordinator.until(lambda: coordinator.outgoing.pending == 0)
                # The second message of the old process is gone, and so is the reply to the first.
                after = await silo.next()
            assert same(after.frame, message(3))
            silo.reply(before, message(1))
            silo.reply(after, message(4))
            assert same(await coordinator.replies.get(), message(4))
            assert [entry for entry in logs if "restarted" in entry["event"]]

    run(test)


def test_a_coordinator_that_comes_later_is_found() -> None:
    async def test() -> None:
        coordinator = Coordinator()
        async with serving(coordinator):
            pass  # Now its port is known, and nobody listens there.
        twice = asyncio.Event()

        def watch(_: object, level: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
            logs.append({**entry, "log_level": level})
            if len([1 for line in logs if line["event"] == "the coordinator did not answer"]) == 2:
                twice.set()
            raise structlog.DropEvent

        logs: list[dict[str, Any]] = []
        with logged_to(watch):
            async with running(silo := client(coordinator.port)):
                await twice.wait()
                async with serving(coordinator):
                    await exchange(coordinator, silo, [1])
                    told = list(logs)  # Before this coordinator is lost in its turn.
        (waiting,) = [entry for entry in told if entry["event"].startswith("waiting for the coordinator")]
        assert f"at 127.0.0.1:{coordinator.port} since " in waiting["event"]
        assert "the next try is in 0.2 s" in waiting["event"]
        assert waiting["log_level"] == "warning"
        (connected,) = [entry for entry in told if entry["event"] == "connected"]
        assert connected["after_seconds"] > 0

    run(test)


@pytest.mark.parametrize(
    "welcome",
    [
        Welcome(PROTOCOL, "9.9.9", bytes(16), True, Held()),
        Welcome(PROTOCOL, "9.9.9", bytes(16), True, Held(7, 0)),
        Received(1),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_a_coordinator_that_resumes_what_never_began_is_asked_again(welcome: Welcome | Received) -> None:
    async def test() -> None:
        coordinator = Coordinator(instead=[encode_link(welcome)])
        async with serving(coordinator), running(silo := client(coordinator.port)):
            await exchange(coordinator, silo, [1])
        assert [hello.peer for hello in coordinator.hellos] == [None, None]

    run(test)


def test_a_coordinator_that_lost_count_gets_a_new_line() -> None:
    async def test() -> None:
        async with serving(Coordinator()) as coordinator, running(silo := client(coordinator.port)):
            await exchange(coordinator, silo, [1])
            wrong = Welcome(PROTOCOL, "9.9.9", coordinator.boot, True, Held(99, 0))
            coordinator.instead.append(encode_link(wrong))
            coordinator.garbage.append(b"")
            coordinator.wake.set()
            await coordinator.until(lambda: len(coordinator.hellos) == 3)
            assert [hello.peer for hello in coordinator.hellos] == [None, coordinator.boot, None]

    run(test)


def test_a_silo_that_stops_closes_its_stream() -> None:
    async def test() -> None:
        async with serving(Coordinator()) as coordinator:
            async with running(silo := client(coordinator.port)):
                await exchange(coordinator, silo, [1])
            await coordinator.until(lambda: coordinator.streams == 0)

    run(test)


# --- refusals -----------------------------------------------------------------------------------------------


async def refusal(coordinator: Coordinator) -> SecaggError:
    with pytest.raises(SecaggError) as caught:
        await client(coordinator.port).run()
    return caught.value


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "no silo of this federation", TrustError),
        (grpc.StatusCode.PERMISSION_DENIED, "certificate is revoked", TrustError),
        (grpc.StatusCode.FAILED_PRECONDITION, "roster: pinned 0102, served 0304", TrustError),
        (
            grpc.StatusCode.FAILED_PRECONDITION,
            "version: this coordinator runs secagg 9.9.9",
            EnvironmentFault,
        ),
    ],
)
def test_a_refusal_is_final_and_in_the_coordinators_words(
    code: grpc.StatusCode, text: str, kind: type[SecaggError]
) -> None:
    async def test() -> None:
        async with serving(Coordinator(refuse=(code, text + "\x1b[2J"))) as coordinator:
            error = await refusal(coordinator)
        assert type(error) is kind
        assert text in str(error)
        assert "\x1b" not in str(error)
        if "version" in text:
            assert f"secagg {__version__} (protocol {PROTOCOL})" in str(error)

    run(test)


def test_a_coordinator_of_another_protocol_is_refused_here_too() -> None:
    async def test() -> None:
        other = Welcome(PROTOCOL + 1, "9.9.9", bytes(16), False, Held())
        async with serving(Coordinator(instead=[encode_link(other)])) as coordinator:
            error = await refusal(coordinator)
        assert type(error) is EnvironmentFault
        assert f"9.9.9 (protocol {PROTOCOL + 1})" in str(error)
        assert f"{__version__} (protocol {PROTOCOL})" in str(error)

    run(test)


@pytest.mark.parametrize(("ca", "host"), [("somebody else", "127.0.0.1"), ("authority", "127.0.0.2")])
def test_a_certificate_that_is_not_the_coordinators_is_refused(ca: str, host: str) -> None:
    async def test() -> None:
        async with Coordinator().serving(server_credentials(authority(ca), host)) as coordinator:
            assert type(await refusal(coordinator)) is TrustError
        assert not coordinator.hellos

    run(test)


@pytest.mark.parametrize("code", [grpc.StatusCode.ABORTED, grpc.StatusCode.INTERNAL, grpc.StatusCode.OK])
def test_any_other_end_is_waited_out(code: grpc.StatusCode) -> None:
    async def test() -> None:
        coordinator = Coordinator(refuse=(code, "not now"))
        if code is grpc.StatusCode.OK:
            coordinator.refuse = None
            coordinator.connect = _says_nothing(coordinator)  # type: ignore[method-assign,assignment]
        async with serving(coordinator), running(silo := client(coordinator.port)):
            await coordinator.until(lambda: coordinator.streams == 2)
            coordinator.refuse, coordinator.streams = None, 0
            await exchange(coordinator, silo, [1])

    run(test)


def _says_nothing(coordinator: Coordinator) -> Callable[[object, Any], Coroutine[Any, Any, None]]:
    """Two streams that end at once without an error; later ones are served."""
    serve = coordinator.connect

    async def connect(requests: object, context: Any) -> None:
        if coordinator.streams < 2 and not coordinator.hellos:
            coordinator.streams += 1
            await coordinator.tell()
            return
        await serve(requests, context)

    return connect
