"""What the log says of events, in the words that a person reads at night."""

from __future__ import annotations

import pytest

from curtaild.core.events import LimitChanged
from curtaild.core.limits import UNLIMITED, Ceiling, Limit
from curtaild.narrate import narrate
from curtaild_drivers.contract import FeederId


@pytest.mark.parametrize(
    ("ceiling", "source", "line"),
    [
        (Limit(500_000.0), "01J9Z", "limit at row-1: 500 kW (allocation 01J9Z)"),
        (Limit(0.0), "fail-safe", "limit at row-1: 0 W (fail-safe)"),
        (UNLIMITED, "01J9Z", "limit at row-1: its rating alone (allocation 01J9Z)"),
        (UNLIMITED, "rating", "limit at row-1: its rating alone"),
    ],
)
def test_a_limit_is_told_with_who_set_it(
    caplog: pytest.LogCaptureFixture, ceiling: Ceiling, source: str, line: str
) -> None:
    caplog.set_level("INFO", logger="curtaild")
    narrate([LimitChanged(1.0, FeederId("row-1"), Limit(9.0), ceiling, source)])
    assert caplog.messages == [line]


def test_a_start_says_only_what_somebody_limits(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="curtaild")
    said: list[tuple[Ceiling, str]] = [(UNLIMITED, "rating"), (Limit(0.0), "fail-safe")]
    narrate([LimitChanged(1.0, FeederId(f"row-{n}"), None, *each) for n, each in enumerate(said)])
    assert caplog.messages == ["limit at row-1: 0 W (fail-safe)"]
