"""Imports pyasic when it is first needed: it takes two seconds, resets the root logger as it goes, and from then on
speaks through the root logger at every poll.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import threading
import warnings
from functools import cache
from pathlib import Path
from typing import Any

_lock = threading.Lock()


@cache
def _import() -> Any:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        module = importlib.import_module("pyasic")
        _silence(root, Path(str(module.__file__)).parent)
        return module
    finally:
        # pyasic/logger/__init__.py calls basicConfig and sets the root logger to WARNING
        root.setLevel(level)
        for handler in list(root.handlers):
            if handler not in handlers:
                root.removeHandler(handler)


def _silence(root: logging.Logger, folder: Path) -> None:
    """What pyasic has to say of a poll, the driver says by its errors. A filter on the root logger touches only what
    is logged on it directly, as pyasic does."""
    prefix = str(folder)
    root.addFilter(lambda record: not record.pathname.startswith(prefix))
    warnings.filterwarnings("ignore", module=r"pyasic\.")


def _import_once() -> Any:
    with _lock:
        return _import()


async def pyasic() -> Any:
    """The module, without the event loop waiting for its import."""
    if _import.cache_info().currsize:
        return _import()
    return await asyncio.to_thread(_import_once)
