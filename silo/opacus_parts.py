"""What is used of Opacus, which only the extra brings; no other module imports it.

Opacus gives every record's gradient by itself. What is released of them, the sampling, the noise and its
randomness are not Opacus's: see ``dp_training``.
"""

from __future__ import annotations

import logging

from secagg.errors import MissingExtra

_root = logging.getLogger()
_handlers = list(_root.handlers)
try:
    from opacus.grad_sample import GradSampleModule as GradSampleModule  # noqa: PLC0414 - handed on
    from opacus.optimizers import DPOptimizer as DPOptimizer  # noqa: PLC0414 - handed on
    from opacus.validators import ModuleValidator as ModuleValidator  # noqa: PLC0414 - handed on
except ModuleNotFoundError as missing:
    if (missing.name or "").partition(".")[0] != "opacus":
        raise
    raise MissingExtra("opacus", "opacus") from missing
finally:
    # Importing it puts a handler on the root logger, which would print every line of the silo twice.
    _root.handlers[:] = _handlers
