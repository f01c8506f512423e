"""Imports pyasic when it is first needed: it takes two seconds, and resets the root logger as it goes."""

from __future__ import annotations

import asyncio
import importlib
import logging
import threading
from functools import cache
from typing import Any

_lock = threading.Lock()


@cache
def _import() -> Any:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        return importlib.import_module("pyasic")
    finally:
        # pyasic/logger/__init__.py calls basicConfig and sets the root logger to WARNING
        root.setLevel(level)
        for handler in list(root.handlers):
            if handler not in handlers:
                root.removeHandler(handler)


def _import_once() -> Any:
    with _lock:
        return _import()


async def pyasic() -> Any:
    """The module, without the event loop waiting for its import."""
    if _import.cache_info().currsize:
        return _import()
    return await asyncio.to_thread(_import_once)
