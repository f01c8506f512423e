"""What the site has to say to one broker and has not handed over yet: answers in order, and the newest status."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from curtaild.core.status import SiteStatus

MAX_ANSWERS = 10_000
"""Answers kept for a broker that cannot be reached; past that the oldest goes: the grid has long given up on it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One ack or breach, as it goes out: QoS 1, not retained."""

    topic: str
    payload: bytes


class Outbox:
    """Answers stay here until the broker has acknowledged them; one sent twice is harmless, one lost is not."""

    def __init__(self) -> None:
        self.dropped_total = 0
        self._answers: deque[Answer] = deque()
        self._status: SiteStatus | None = None
        self._is_status_due = False

    def answer(self, answer: Answer) -> None:
        if len(self._answers) == MAX_ANSWERS:
            self._answers.popleft()
            self.dropped_total += 1
        self._answers.append(answer)

    def status(self, status: SiteStatus) -> None:
        self._status = status
        self._is_status_due = True

    def repeat_status(self) -> None:
        """The broker may show something else: tell it again."""
        self._is_status_due = self._status is not None

    @property
    def is_empty(self) -> bool:
        return not self._answers and not self._is_status_due

    def next_status(self) -> SiteStatus | None:
        """The newest status where it is due; it then counts as told, as the next one follows soon."""
        due, self._is_status_due = self._is_status_due, False
        return self._status if due else None

    def next_answer(self) -> Answer | None:
        return self._answers[0] if self._answers else None

    def handed_over(self, answer: Answer) -> None:
        """The broker has acknowledged `answer`; it may have been dropped as the oldest meanwhile."""
        if self._answers and self._answers[0] is answer:
            self._answers.popleft()
