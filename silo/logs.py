"""What a silo's log looks like: lines for people in a terminal, JSON anywhere else; on stderr.

Values are words and numbers. Anything else, which could be a key or data, is replaced by its type.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal

import stamina.instrumentation
import structlog
from structlog.typing import EventDict, WrappedLogger

Level = Literal["debug", "info", "warning", "error"]


def configure(level: Level) -> None:
    """Send logs of ``level`` and above to stderr."""
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=not terminal),
            only_words,
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    stamina.instrumentation.set_on_retry_hooks([])  # The client says itself for whom it waits.


def only_words(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Replace every value that is neither a text nor a number by its type."""
    return {
        key: value if isinstance(value, str | int | float | None) else f"<{type(value).__name__}>"
        for key, value in event.items()
    }
