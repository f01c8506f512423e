"""A BMC's sessions: tokens for X-Auth-Token, as many as it has room for, ending when nobody uses them."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from curtaild_drivers.contract import Seconds


@dataclass(slots=True)
class Session:
    """One session; its number is its Id."""

    number: int
    token: str
    used_at: Seconds


class Sessions:
    """The sessions of one BMC. Time is real time, as a client's patience is."""

    def __init__(self, most: int, timeout_s: Seconds, clock: Callable[[], Seconds]) -> None:
        self.most = most
        self.timeout_s = timeout_s
        self._clock = clock
        self._open: dict[str, Session] = {}
        self._count = 0

    def begin(self) -> Session | None:
        """A new session, `None` where there is no room."""
        if len(self.live()) >= self.most:
            return None
        self._count += 1
        session = Session(self._count, secrets.token_hex(16), self._clock())
        self._open[session.token] = session
        return session

    def live(self) -> list[Session]:
        """The sessions that have not ended."""
        ends = self._clock() - self.timeout_s
        self._open = {token: session for token, session in self._open.items() if session.used_at > ends}
        return list(self._open.values())

    def use(self, token: str) -> bool:
        """Is the token one of a live session; using it keeps that alive."""
        session = next((session for session in self.live() if secrets.compare_digest(session.token, token)), None)
        if session is not None:
            session.used_at = self._clock()
        return session is not None

    def end(self, number: int) -> bool:
        """End a session; was there one of that number."""
        found = [session for session in self.live() if session.number == number]
        for session in found:
            del self._open[session.token]
        return bool(found)

    def forget(self) -> None:
        """All of them end, as when the BMC starts anew."""
        self._open.clear()
