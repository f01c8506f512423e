"""Tokens as web firmwares hand them out: random words that die after a while."""

from __future__ import annotations

import secrets

from curtaild_drivers.contract import Seconds

_MOST = 16


class Tokens:
    """The tokens of one device; the oldest gives way where there are too many."""

    __slots__ = ("_life_s", "_until")

    def __init__(self, life_s: Seconds) -> None:
        self._life_s = life_s
        self._until: dict[str, Seconds] = {}

    def issue(self, now: Seconds) -> str:
        """A new token, good for its life from `now`."""
        self._until = {token: until for token, until in self._until.items() if until > now}
        if len(self._until) >= _MOST:
            del self._until[next(iter(self._until))]
        token = secrets.token_urlsafe(24)
        self._until[token] = now + self._life_s
        return token

    def is_live(self, token: str, now: Seconds) -> bool:
        """Was it issued here and has not died."""
        return self._until.get(token, now) > now
