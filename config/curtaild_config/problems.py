"""What is wrong with a site file, said so that a person can mend it: where, what, why, and the nearest right word."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """An error stops the daemon from starting; a warning does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `value` is fit to be shown: what might be a secret never gets here."""

    severity: Severity
    file: str
    key_path: str
    value: str | None
    reason: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.key_path}: " if self.key_path else ""
        value = f" (is {self.value})" if self.value is not None else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.severity.value}: {self.file}: {where}{self.reason}{value}{remedy}"


class SiteFileError(Exception):
    """A site file that cannot be used, with everything that is wrong with it."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


def nearest(word: str, right_words: Iterable[str]) -> str | None:
    """The right word most like `word`, if any is like it at all; case does not count."""
    by_lower = {right.lower(): right for right in right_words}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def suggest(word: str, right_words: Iterable[str]) -> str:
    """A remedy for a word that is not one of `right_words`: the nearest one, else all of them."""
    words = sorted(right_words)
    if (close := nearest(word, words)) is not None:
        return f'did you mean "{close}"?'
    return f"known here: {', '.join(words)}" if words else "nothing of that kind is known"


_SECRET_KEY = re.compile(r"pass|secret|token|credential|api_?key|private", re.IGNORECASE)
_REFERENCE_KEY = re.compile(r"_(file|credential)$", re.IGNORECASE)


def may_be_secret(key: str) -> bool:
    """Whether a value under this key must not be shown. A path to a secret may be; a secret put there by mistake
    looks like no path."""
    return _SECRET_KEY.search(key) is not None


def shown(key: str, value: object) -> str | None:
    """`value` as a problem may show it; `None` where it may be a secret, or is no single value."""
    if may_be_secret(key) and not (_REFERENCE_KEY.search(key) and "/" in str(value)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"{value:.15g}"
    if isinstance(value, str):
        safe = re.sub(r"//[^/@]*@", "//…@", value)
        return repr(safe if len(safe) <= 80 else safe[:79] + "…")
    return None
