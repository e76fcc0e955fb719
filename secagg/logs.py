"""What the log of a process looks like: lines for people in a terminal, JSON anywhere else; on stderr.

Values are words and numbers. Anything else, which could be a key or data, is replaced by its type.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Literal, TypeAlias

from secagg.errors import MissingExtra

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

Level: TypeAlias = Literal["debug", "info", "warning", "error"]


def configure(level: Level, *, extra: str, tracebacks: bool = False) -> None:
    """Send logs of ``level`` and above to stderr.

    Args:
        level: the least that is shown.
        extra: that brings structlog, for the error if it is missing.
        tracebacks: show where a logged exception was raised; not where its text could quote data.

    Raises:
        MissingExtra: structlog is not installed.
    """
    try:
        import structlog  # noqa: PLC0415 - an extra; the library itself logs nothing
    except ModuleNotFoundError as missing:
        raise MissingExtra(extra, "structlog") from missing
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=not terminal),
            *([structlog.processors.format_exc_info] if tracebacks else []),
            only_words,
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def only_words(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Replace every value that is neither a text nor a number by its type."""
    return {
        key: value if isinstance(value, str | int | float | None) else f"<{type(value).__name__}>"
        for key, value in event.items()
    }
