"""Synthetic traces: a site's draw, second by second, as the farm would tell it."""

from __future__ import annotations

from collections.abc import Sequence

from curtaild.demo.trace import Sample, StepMark

KW = 1000.0


def trace(powers_kw: Sequence[float], lowered: Sequence[int] = (), raised: Sequence[int] = ()) -> list[Sample]:
    """One sample a second from 0 on; the counts are as given, then stay."""
    return [
        Sample(float(at), {"site": power * KW}, power * KW, _at(lowered, at), _at(raised, at))
        for at, power in enumerate(powers_kw)
    ]


def _at(counts: Sequence[int], place: int) -> int:
    return counts[min(place, len(counts) - 1)] if counts else 0


def mark(
    limit_kw: float,
    from_kw: float,
    *,
    ends_at: float = 10.0,
    due_at: float = 0.0,
    grace_s: float = 3.0,
    ramp_kw_per_min: float | None = None,
) -> StepMark:
    """A step asked at 0 of a site that would draw 100 kW, of which 5 cannot be shed."""
    return StepMark(
        name="the step",
        asked_at=0.0,
        due_at=due_at,
        ends_at=ends_at,
        limit_w=limit_kw * KW,
        from_w=from_kw * KW,
        grace_s=grace_s,
        demand_w=100 * KW,
        floor_w=5 * KW,
        ramp_w_per_min=None if ramp_kw_per_min is None else ramp_kw_per_min * KW,
    )
