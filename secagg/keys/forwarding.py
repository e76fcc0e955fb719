"""The coordinator, while one silo gets a key again that it lost: it relays one request and one answer.

The answer is sealed, so that it learns no more than in the ceremony. Whom to ask, and how long to wait, is
the desk's to say.

Source: ``docs/keys.md``.
"""

from __future__ import annotations

from secagg.errors import FaultySilo, UnexpectedMessage
from secagg.keys.coordinator import EstablishedKey, blame, read, taken_fault
from secagg.keys.transcript import request_digest, sealing_fault
from secagg.messages import KeyAsked, KeyForwarded, KeyPassed, KeyTaken, KeyWanted
from secagg.names import SiloId
from secagg.roster import Roster


class KeyForwarding:
    """The coordinator, while one silo gets a key again that it lost; single use.

    Args:
        roster: the pinned roster.
        joiner: the silo that wants the key.
        wanted: its message.
        key: the key, as the ceremony left it.

    Attributes:
        request: what names the request in its messages.
        waiting: who is awaited: a holder, then the joiner; None if nobody is.
        outcome: the joiner's signature over the document that it holds; None before.

    Raises:
        UnexpectedMessage: the request is for another key, or for a share, which cannot be forwarded.
        FaultySilo: it is not signed by the joiner's pinned identity.

    Guarantees:
        It never has what opens a box or a ciphertext.
        A fault names its maker; nobody else is ever named.
    """

    def __init__(self, roster: Roster, *, joiner: SiloId, wanted: KeyWanted, key: EstablishedKey) -> None:
        if wanted.key != key.document.key:
            raise UnexpectedMessage(f"{joiner} wants another key")
        if key.document.threshold is not None:
            raise UnexpectedMessage(
                "a share of a threshold key cannot be forwarded: make a new key that replaces it"
            )
        self._roster = roster
        self._joiner = joiner
        self._wanted = wanted
        self._key = key
        self.request = request_digest(roster, wanted.key, joiner, wanted.sealing.nonce)
        blame(joiner, sealing_fault(roster, self.request, joiner, wanted.sealing))
        self.waiting: SiloId | None = None
        self.outcome: bytes | None = None

    def ask(self, holder: SiloId) -> KeyAsked:
        """Return what asks ``holder``, which alone is awaited from now on."""
        self.waiting = holder
        return KeyAsked(self._joiner, self._wanted.key, self._wanted.sealing)

    def drop(self) -> None:
        """Wait for nobody any more; another holder may be asked."""
        self.waiting = None

    def receive(self, sender: SiloId, message: KeyForwarded | KeyTaken) -> KeyPassed | None:
        """Take the answer of who is awaited; return what the joiner is passed, None once it took the key.

        Raises:
            UnexpectedMessage: ``sender`` is not awaited, with a message of this kind for this request.
            FaultySilo: names the sender.
        """
        match message:
            case KeyForwarded() if sender == self.waiting != self._joiner:
                self._check_request(message.request)
                blame(sender, sealing_fault(self._roster, self.request, sender, message.sealing))
                if read(sender, message.document).digest != self._key.document.digest:
                    raise FaultySilo(sender, "forwards another key than was asked for")
                self.waiting = self._joiner
                # The document as the ceremony left it: a holder's may have another signature of the maker.
                return KeyPassed(
                    sender, self.request, self._key.content, message.sealing, message.sealed, message.box
                )
            case KeyTaken() if sender == self.waiting == self._joiner:
                self._check_request(message.ceremony)
                blame(sender, taken_fault(self._roster, sender, self._key.document, message))
                self.waiting, self.outcome = None, message.signature
                return None
            case _:
                raise UnexpectedMessage(f"{sender} was not asked for a key")

    def _check_request(self, request: bytes) -> None:
        if request != self.request:
            raise UnexpectedMessage("a message of another request")
