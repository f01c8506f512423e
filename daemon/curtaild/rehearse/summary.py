"""What a rehearsal came to, in one value: for the table, the page, and machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from curtaild.core.events import ActuationStage
from curtaild.rehearse.optimum import Optimum
from curtaild.rehearse.run import Rehearsal
from curtaild.rehearse.score import SECONDS_PER_HOUR, Response, Score, score
from curtaild.rehearse.solver import NoSolver
from curtaild.rehearse.worth import Worth
from curtaild_drivers.contract import DeviceId, FeederId, Seconds

SLOWEST = 5


@dataclass(frozen=True, slots=True)
class Slow:
    """A kind of device that would hold up a response: how long its sheds took until they were seen (s), and how many of
    its devices misbehaved on purpose."""

    group: str
    model: str
    median_s: Seconds
    worst_s: Seconds
    worst_device: DeviceId
    misbehaving: int


@dataclass(frozen=True, slots=True)
class Summary:
    """`best` is what the solver says could have been earned, `least` how few actuations would have done; both `None`,
    with the reason in `unsolved`, where it was not asked or could not say."""

    rehearsal: Rehearsal
    score: Score
    root: FeederId
    unit: str
    best: float | None
    least: int | None
    unsolved: str
    slow: tuple[Slow, ...]

    @property
    def value_share(self) -> float | None:
        """What was earned ÷ what could have been."""
        return self.score.earned / self.best if self.best is not None and self.best > 0 else None

    @property
    def lost_wh(self) -> dict[str, float]:
        """Energy that was allowed and not drawn, by cause."""
        return {part: energy / SECONDS_PER_HOUR for part, energy in self.rehearsal.losses.parts().items()}

    @property
    def confirmed(self) -> int:
        return self.rehearsal.outcomes.get(ActuationStage.CONFIRMED, 0)

    def slowest_responses(self, count: int) -> list[Response]:
        """The answers to lower limits that took longest, those that never came first."""
        falls = [response for response in self.score.responses if response.lowers]
        never = max((response.within_s or 0.0 for response in falls), default=0.0) + 1.0
        falls.sort(key=lambda response: response.within_s if response.within_s is not None else never, reverse=True)
        return falls[:count]

    def document(self) -> dict[str, Any]:
        """For machines: W, Wh, s."""
        scored, play = self.score, self.rehearsal.play
        return {
            "play": play.name,
            "duration_s": play.duration_s,
            "devices": len(self.rehearsal.emulated.devices),
            "demand_w": round(self.rehearsal.emulated.capacity.demand_w),
            "floor_w": round(self.rehearsal.emulated.capacity.floor_w),
            "grace_s": scored.grace_s,
            "kept": not scored.is_broken,
            "energy": {
                "allowed_wh": round(scored.allowed_wh, 1),
                "used_wh": round(scored.used_wh, 1),
                "utilisation": round(scored.utilisation, 4),
                "lost_wh": {part: round(energy, 1) for part, energy in self.lost_wh.items()},
            },
            "value": {
                "unit": self.unit,
                "earned": round(scored.earned, 3),
                "best": round(self.best, 3) if self.best is not None else None,
                "share": round(self.value_share, 4) if self.value_share is not None else None,
            },
            "actuations": {
                "issued": scored.actuations,
                "least": self.least,
                "devices_moved": scored.devices_moved,
                **{stage.value: number for stage, number in self.rehearsal.outcomes.items() if stage.value != "issued"},
            },
            "overshoot": {
                feeder: {
                    "intervals": over.slots,
                    "intervals_for_certain": over.broken,
                    "worst_w": round(over.worst_w, 1),
                    "energy_wh": round(over.energy_wh, 3),
                }
                for feeder, over in scored.overshoot.items()
            },
            "responses": [
                {
                    "at_s": response.at_s,
                    "from_w": round(response.from_w),
                    "to_w": round(response.to_w),
                    "first_s": response.first_s,
                    "most_s": response.most_s,
                    "within_s": response.within_s,
                }
                for response in scored.responses
            ],
            "slowest": [
                {
                    "group": slow.group,
                    "model": slow.model,
                    "median_s": slow.median_s,
                    "worst_s": slow.worst_s,
                    "worst_device": slow.worst_device,
                    "misbehaving": slow.misbehaving,
                }
                for slow in self.slow
            ],
            "taken_for": {assumed.group: assumed.model for assumed in self.rehearsal.emulated.assumed},
            "misbehaving": {device: fault.value for device, fault in self.rehearsal.misdeeds.items()},
        }


def summarise(rehearsal: Rehearsal, *, solve: bool, progress: Callable[[str], None] = lambda _: None) -> Summary:
    """Judge a rehearsal; with `solve` also by the solver, where it is installed."""
    root = rehearsal.emulated.tree.root
    best: float | None = None
    least: int | None = None
    unsolved = "" if solve else "not asked for"
    if solve:
        try:
            progress("the best that could be earned")
            optimum = Optimum(rehearsal.emulated)
            best = optimum.earned(rehearsal.trace)
            progress("the fewest actuations that would do")
            least = optimum.least_moves(rehearsal.trace)
        except NoSolver as error:
            unsolved = str(error)
    unit = Worth.of(rehearsal.emulated.site).unit
    return Summary(rehearsal, score(rehearsal, root), root, unit, best, least, unsolved, tuple(_slow(rehearsal)))


def _slow(rehearsal: Rehearsal) -> list[Slow]:
    """By group, the slowest first."""
    groups = rehearsal.emulated.group_of
    wrong = Counter(groups[device] for device in rehearsal.misdeeds)
    falls: dict[str, dict[DeviceId, Seconds]] = {}
    for device, fall_s in rehearsal.falls_s.items():
        falls.setdefault(groups[device], {})[device] = fall_s
    found = []
    for group, times in falls.items():
        worst = max(times, key=lambda device: times[device])
        model = rehearsal.emulated.models[worst].name
        found.append(Slow(group, model, median(times.values()), times[worst], worst, wrong[group]))
    return sorted(found, key=lambda slow: -slow.worst_s)[:SLOWEST]
