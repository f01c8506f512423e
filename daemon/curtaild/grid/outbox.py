"""What the site has to say to one broker and has not handed over yet: in order, and of a state only the newest."""

from __future__ import annotations

from collections import deque

from curtaild.grid.dialect import Publication

MAX_WAITING = 10_000
"""Publications kept for a broker that is away; past that the oldest goes: the grid has long given up on it."""


class Outbox:
    """Each stays here until the broker has acknowledged it; one sent twice is harmless, one lost is not."""

    def __init__(self) -> None:
        self.dropped_total = 0
        self._waiting: deque[Publication] = deque()
        self._last_states: dict[str, Publication] = {}

    def add(self, publication: Publication) -> None:
        if publication.is_state:
            self._drop_older(publication.topic)
            if publication.retain:
                self._last_states[publication.topic] = publication
        if len(self._waiting) >= MAX_WAITING:
            oldest = self._waiting.popleft()
            if self._last_states.get(oldest.topic) is not oldest:  # that one is repeated on connect
                self.dropped_total += 1
        self._waiting.append(publication)

    def repeat_states(self) -> None:
        """The broker may show something else than our retained states: tell them again, before all else."""
        for publication in self._last_states.values():
            self._drop_older(publication.topic)
            self._waiting.appendleft(publication)

    def _drop_older(self, topic: str) -> None:
        older = next((other for other in self._waiting if other.is_state and other.topic == topic), None)
        if older is not None:
            self._waiting.remove(older)

    @property
    def next(self) -> Publication | None:
        return self._waiting[0] if self._waiting else None

    def handed_over(self, publication: Publication) -> None:
        """The broker has acknowledged `publication`; it may have been dropped as the oldest or replaced meanwhile."""
        if self._waiting and self._waiting[0] is publication:
            self._waiting.popleft()
