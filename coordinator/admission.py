"""Whose stream is served: who calls, from which software, and with which roster; the same for every service.

What a silo is told when it is not, it shows its operator.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NoReturn, TypeAlias

import structlog

from coordinator.tls import caller  # Before grpc: it sets what grpc reads when it is imported.

import grpc  # isort: skip

from secagg import __version__
from secagg.errors import TrustError
from secagg.link.frames import PROTOCOL
from secagg.names import SiloId
from secagg.roster import Roster

Context: TypeAlias = Any  # grpc.aio.ServicerContext, whose stubs know no generic handlers.

log = structlog.get_logger("coordinator")


class Admission:
    """Lets silos of the roster in.

    Args:
        roster: whose silos may.
        revoked: fingerprints of certificates that are no longer accepted.
    """

    def __init__(self, roster: Roster, *, revoked: Collection[str] = ()) -> None:
        self._roster = roster
        self._revoked = revoked

    async def silo(self, context: Context) -> SiloId:
        """Return who calls, by its certificate; end the call of anybody else."""
        try:
            return caller(context, roles={"silo"}, revoked=self._revoked, roster=self._roster).name
        except TrustError as error:
            log.warning("a caller was refused", why=str(error))
            await refuse(context, grpc.StatusCode.PERMISSION_DENIED, error)

    async def check(
        self, silo: SiloId, context: Context, *, protocol: int, version: str, roster: bytes
    ) -> None:
        """End the call of a silo with another version of the protocol, or another roster.

        Args:
            silo: who calls.
            context: of the call.
            protocol: version of the frames that the silo speaks.
            version: of its software, for people.
            roster: digest of the one that it pinned.
        """
        if protocol != PROTOCOL:
            await refuse(
                context,
                grpc.StatusCode.FAILED_PRECONDITION,
                f"version: this coordinator runs secagg {__version__} (protocol {PROTOCOL}), {silo} runs "
                f"secagg {version} (protocol {protocol}); install versions of one protocol",
            )
        if roster != self._roster.digest:
            await refuse(
                context,
                grpc.StatusCode.FAILED_PRECONDITION,
                f"roster: {silo} has pinned {roster.hex()[:16]}, this coordinator serves "
                f"{self._roster.digest.hex()[:16]}; compare roster.toml with the other silos",
            )


async def refuse(context: Context, code: grpc.StatusCode, why: object) -> NoReturn:
    """End a call."""
    await context.abort(code, str(why))
    raise AssertionError("abort() raises")
