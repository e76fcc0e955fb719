"""Cases for a whole silo in a round with noise: the script, and heads of ledgers that it does not take."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from secagg.messages import FromCoordinator, RoundOpened, TrainingOpened
from secagg.names import SiloId
from secagg.privacy.heads import LedgerHead
from secagg.records import HeadHeld, LedgerTrusted, LedgerWentBack, SiloRecord, encode_record
from secagg.terms import PlainParameters
from tests.vectors import noised_world, world
from tests.vectors.noised_world import ENTRIES, HELD, TERMS, chain_of, head, run
from tests.vectors.notation import Json, fixed, write, write_frame
from tests.vectors.scripts import Script
from tests.vectors.world import IDENTITIES, ROSTER

FAULT, REFUSED = "FaultyCoordinator", "PolicyRefused"


def frame(message: FromCoordinator) -> Json:
    return {"receive": write_frame(message)}


def noised_silo() -> Json:
    """Return the content of ``noised_silo.json``."""
    honest = run()
    setup = {
        "silo": "b",
        "identity": IDENTITIES["b"].private_bytes(),
        "roster": ROSTER.members,
        "opened": write_frame(noised_world.OPENED),
        "vector": noised_world.VECTORS["b"].tobytes(),
        "data_set": world.DATA_SET,
        "ledger": {"entries": ENTRIES["b"], "chain": chain_of("b", ENTRIES["b"])},
        "journal": [encode_record(record) for record in HELD],
        "random": honest.random.drawn,
    }
    script = Script(
        "noised_silo",
        "A whole silo in one round with noise in the terms, from TrainingOpened on; its vector is cached, "
        "noise in it, and charged. Each step: a frame of the coordinator, the reply, what it syncs before.",
        write(setup),
        map(frame, honest.received),
    )
    _leave_before(script)
    _leave_at_heads(script)
    return script.content


def _leave_before(script: Script) -> None:
    def opens(name: str, expected: str, *, setup: Json | None = None, **changed: Any) -> None:
        opened = TrainingOpened(replace(TERMS, **changed), world.SECONDS)
        script.leave(name, 0, frame(opened), expected=expected, setup=setup)

    opens("a silo that keeps no ledger", REFUSED, setup={"ledger": None})
    opens("shares of noise under Plain", REFUSED, scheme=PlainParameters())
    opens("a second release without noise", REFUSED, release=2, privacy=None)
    training = run().received[1]
    assert isinstance(training, RoundOpened)
    other = fixed("terms with other noise")
    script.leave(
        "other noise than that of the vector", 1, frame(replace(training, training=other)), expected=FAULT
    )


def _leave_at_heads(script: Script) -> None:
    announced = run().announced
    round_id, heads = announced.round_id, dict(announced.heads)

    def says(name: str, expected: str, *pairs: tuple[SiloId, LedgerHead], setup: Json | None = None) -> None:
        script.leave(name, 4, frame(replace(announced, heads=pairs)), expected=expected, setup=setup)

    def says_with(name: str, expected: str, **changed: LedgerHead) -> None:
        says(name, expected, *(heads | changed).items())

    def journal(*records: SiloRecord) -> Json:
        return {"journal": write([encode_record(record) for record in records])}

    def held(**entries: int) -> Json:
        before = fixed("round before")
        return journal(*(HeadHeld(silo, head(silo, count, before)) for silo, count in entries.items()))

    a, b, c = heads.items()
    says_with("a ledger that was put back", REFUSED, a=head("a", ENTRIES["a"] - 2, round_id))
    same = head("a", ENTRIES["a"] - 1, round_id, chain=fixed("another chain"))
    says_with("as many entries, and other ones", REFUSED, a=same)
    says_with("its own ledger, put back", REFUSED, b=head("b", ENTRIES["b"] - 2, round_id))
    says("a head that is behind what the journal says", REFUSED, a, b, c, setup=held(c=ENTRIES["c"] + 1))
    says("all heads are kept back", FAULT)
    says("one head is kept back", FAULT, a, b)
    says("its own head is kept back", FAULT, a, c)
    says("one head twice", FAULT, a, a, b, c)
    says("two heads exchanged", FAULT, ("a", c[1]), b, ("c", a[1]))
    says_with("a changed number of entries", FAULT, a=replace(heads["a"], entries=ENTRIES["a"] + 1))
    says_with("a changed data set", FAULT, a=replace(heads["a"], data_set=fixed("another data set")))
    says_with("a head that another silo signed", FAULT, a=head("a", ENTRIES["a"], round_id, by="c"))
    before = head("a", ENTRIES["a"] - 2, fixed("round before"))
    says_with("the head of an earlier round, which is behind", FAULT, a=before)
    says("the head of a stranger", FAULT, a, b, c, ("stranger", head("stranger", 1, round_id)))
    old = tuple((record.silo, record.head) for record in HELD[:3])
    whole = replace(announced, round_id=fixed("round before"), heads=old)
    script.leave("the set of an earlier round", 4, frame(whole), expected=FAULT)
    says_with("a ledger that stands still", "accepted", a=head("a", ENTRIES["a"] - 1, round_id))
    says_with("another data set", "accepted", a=head("a", 1, round_id, data_set="other"))
    says("a first head", "accepted", a, b, c, setup=held(b=1))
    back = LedgerWentBack("a", heads["a"].data_set)
    says("a ledger that was behind and went on", REFUSED, a, b, c, setup=journal(*HELD, back))
    trusted = journal(*HELD, back, LedgerTrusted("a"))
    says("a ledger that was behind and is trusted", "accepted", a, b, c, setup=trusted)
    elsewhere = journal(*HELD, back, LedgerTrusted("c"))
    says("a ledger that was behind, and another one is trusted", REFUSED, a, b, c, setup=elsewhere)
    script.leave("the set is announced again", 5, frame(announced), expected="UnexpectedMessage")
    script.leave(
        "again, with old heads", 5, frame(replace(announced, heads=old)), expected="UnexpectedMessage"
    )
