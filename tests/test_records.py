"""Journal entries: silo records come back as they were, coordinator records hold no array."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import MalformedMessage
from secagg.messages import MaskedInput, Ready
from secagg.payload import Payload
from secagg.records import InputAccepted, PhaseClosed, SiloLost, decode_silo_record, encode_record
from tests.federations import Federation
from tests.samples import SILO_RECORDS, of


@pytest.mark.parametrize("kind", SILO_RECORDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_every_silo_record_comes_back(kind: type[Any], data: st.DataObject) -> None:
    record = data.draw(of(kind))
    assert decode_silo_record(encode_record(record)) == record


@given(st.sampled_from(SILO_RECORDS).flatmap(of), st.data())
def test_a_damaged_line_is_malformed_or_a_record(record: Any, data: st.DataObject) -> None:
    line = encode_record(record)
    at = data.draw(st.integers(0, len(line) - 1))
    for damaged in (
        line[:at],
        line[:at] + bytes([line[at] ^ (1 << data.draw(st.integers(0, 7)))]) + line[at + 1 :],
        line + line,
    ):
        try:
            again = decode_silo_record(damaged)
        except MalformedMessage:
            continue
        assert isinstance(again, SILO_RECORDS)
    for cut in (line[:at], line + line):
        with pytest.raises(MalformedMessage):
            decode_silo_record(cut)


@pytest.mark.parametrize(
    "line", [b"", b"\x91" * 10_000, encode_record(SiloLost("a")), encode_record(PhaseClosed(1.0))]
)
def test_only_a_silos_records_are_read_from_its_journal(line: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_silo_record(line)


def test_an_accepted_upload_is_journalled_by_its_digest() -> None:
    """The array is spooled beside the journal: a line stays short, and names what it needs."""
    vector = np.arange(1000, dtype=np.uint32)
    payload = Payload.of(vector)
    line = encode_record(InputAccepted("north", MaskedInput(bytes(32), payload)))
    assert len(line) < 200
    fields = msgspec.msgpack.decode(line)
    assert fields["message"]["vector"] == ["u4", 1000, payload.digest]
    assert (
        msgspec.msgpack.decode(encode_record(InputAccepted("north", Ready(bytes(32)))))["sender"] == "north"
    )


def test_no_record_holds_a_secret_of_a_round() -> None:
    """A silo's journal after a round: nothing of what it drew, nor of its vector."""
    federation = Federation(4)
    drawn: list[bytes] = []
    for silo in federation.roster.silos:
        source = federation.random[silo]

        def remembered(size: int, source: Any = source) -> bytes:
            drawn.append(source(size))
            return drawn[-1]

        federation.random[silo] = remembered
        federation.silos[silo].restart()
    federation.run(federation.coordinator(), {"west": "Unmasking"})
    journal = b"".join(line for silo in federation.silos.values() for line in silo.journal)
    assert len(drawn) > 20
    assert len(journal) > 500
    secrets = [*drawn, *(vector.tobytes() for vector in federation.vectors.values())]
    assert not any(secret in journal for secret in secrets)
    assert federation.terms.base in journal  # the control: what is there is found
