"""Records of one direction of a channel: sealed under one key, numbered, opened once and in order.

The number is the nonce and is not sent: a record that was altered, dropped, repeated or moved does not open.
That nothing is missing at the end, only a message inside of a record can say.

Source: NIST SP 800-38D (GCM), section 8.2.1; RFC 8446, sections 5.2 and 5.3, for records without a number.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secagg import wire
from secagg.channel.messages import MAX_RECORD, Inside
from secagg.errors import FaultySilo, FaultySiloOrCoordinator, MalformedMessage, UsageError
from secagg.names import SiloId

TAG_SIZE = 16
MAX_RECORDS = 1 << 24
"""Records under one key: 2^40 blocks at the most, which leaves an attacker 2^-48."""


class _Numbered:
    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._number = 0

    def _nonce(self) -> bytes:
        if self._number >= MAX_RECORDS:
            raise UsageError(f"a channel carries {MAX_RECORDS} records each way; let the parties meet anew")
        return self._number.to_bytes(12, "big")


class Sealer(_Numbered):
    """Seals records.

    Guarantees:
        No nonce is used twice.
    """

    def seal(self, message: Inside) -> bytes:
        """Return the next record: the ciphertext followed by a tag of 16 bytes.

        Raises:
            UsageError: there were ``MAX_RECORDS``.
        """
        header, _ = wire.encode(message)
        record = self._cipher.encrypt(self._nonce(), header, None)
        self._number += 1
        return record


class Opener(_Numbered):
    """Opens records of ``sender``.

    Guarantees:
        Each comes out once, in the order in which it was sealed, or raises.
    """

    def __init__(self, key: bytes, sender: SiloId) -> None:
        super().__init__(key)
        self._sender = sender

    def open(self, record: bytes) -> Inside:
        """Return what is in the next record.

        Raises:
            FaultySiloOrCoordinator: it is not the next record as it was sealed.
            FaultySilo: the sender sealed what is no message.
            UsageError: there were ``MAX_RECORDS``.
        """
        try:
            if not TAG_SIZE < len(record) <= MAX_RECORD:
                raise InvalidTag
            header = self._cipher.decrypt(self._nonce(), record, None)
        except InvalidTag:
            raise FaultySiloOrCoordinator(
                self._sender, "a record was altered, dropped, repeated or moved on its way"
            ) from None
        self._number += 1
        try:
            message: Inside = wire.decode_as(header, None, Inside)
        except MalformedMessage as fault:
            raise FaultySilo(self._sender, str(fault)) from None
        return message
