"""`curtaild run` and `curtaild check`."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from pathlib import Path

import uvloop
from rich.console import Console

from curtaild.app import Daemon
from curtaild.fleet import NoSuchAbility
from curtaild.grid.opening import unusable_keys
from curtaild.memory import MemoryDamaged
from curtaild.store import StoreError
from curtaild.telemetry import ListenError
from curtaild_config import Problem, Severity, Site, SiteFileError, check_site, load_site, render_tree

log = logging.getLogger("curtaild")


def run(path: Path) -> int:
    """Run the daemon on the site file at `path`; the exit code."""
    try:
        site = load_site(path)
    except SiteFileError as error:
        _print_problems(error.problems)
        return 1
    set_up_logging(site)
    try:
        uvloop.run(_serve(path, site))
    except SiteFileError as error:
        _print_problems(error.problems)
        return 1
    except (StoreError, MemoryDamaged, ListenError, NoSuchAbility) as error:
        log.error("cannot start: %s", error)
        return 1
    return 0


async def _serve(path: Path, site: Site) -> None:
    asyncio.get_running_loop().slow_callback_duration = 1.0
    async with Daemon(path, site) as daemon:
        await daemon.run()


def check(path: Path) -> int:
    """Print what is wrong with the file and the tree it describes; 1 if it would not run."""
    site, problems = check_site(path)
    if site is not None:
        problems += unusable_keys(site, str(path))
    _print_problems(problems)
    if site is not None:
        Console(soft_wrap=True).print(render_tree(site))
    errors = sum(problem.severity is Severity.ERROR for problem in problems)
    warnings = len(problems) - errors
    verdict = "would not run" if errors else "is good"
    print(f"{path} {verdict}: {errors} error(s), {warnings} warning(s)")
    return 1 if errors else 0


def _print_problems(problems: list[Problem] | tuple[Problem, ...]) -> None:
    for problem in problems:
        print(problem, file=sys.stderr)


# ---- the log ----------------------------------------------------------------------------------------

_SYSLOG_LEVELS = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class TextFormatter(logging.Formatter):
    """A line for people; under systemd the journal keeps time and level, told by the prefix it knows."""

    def __init__(self, is_journal: bool) -> None:
        super().__init__("%(levelname)-7s %(message)s" if not is_journal else "%(message)s")
        self._is_journal = is_journal

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if self._is_journal:
            level = _SYSLOG_LEVELS.get(record.levelno, 6)
            return "\n".join(f"<{level}>{line}" for line in text.splitlines())
        return f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {text}"


class JsonFormatter(logging.Formatter):
    """A line for collectors."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at_unix": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info is not None:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up_logging(site: Site) -> None:
    """One handler on standard error; libraries speak from warning upwards."""
    handler = logging.StreamHandler()
    is_journal = "JOURNAL_STREAM" in os.environ
    handler.setFormatter(JsonFormatter() if site.log.format == "json" else TextFormatter(is_journal))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    level = getattr(logging, site.log.level.upper())
    for name in ("curtaild", "curtaild_drivers", "curtaild_config", "curtaild_emulator"):
        logging.getLogger(name).setLevel(level)
