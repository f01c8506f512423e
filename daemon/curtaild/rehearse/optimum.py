"""The best that could have been earned, with perfect foresight and devices that obey in no time: a MILP per limit.

It knows each unit's true draw and hashrate at each of its points, so no dispatch of any kind earns more within the same
limits. Of a hundred devices or more a few, one at each feeder that binds, may be run in part: that bounds the optimum
too, hardly above it, and takes a tenth of the time. Needs the solver HiGHS, which comes with the extra `rehearse`.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from curtaild.rehearse.emulated import LOSSES, Emulated
from curtaild.rehearse.solver import Program
from curtaild.rehearse.trace import SLOT_S, Trace
from curtaild.rehearse.ways import Way, find_ways
from curtaild.rehearse.worth import SECONDS_PER_HOUR
from curtaild_drivers.contract import DeviceId, FeederId, Watts

MOST_LEVELS = 60
"""Limits of the root that are solved one by one; of more, so many are solved and the rest read off between them."""
MOST_CHANGES = 60
"""Changes of limit up to which the least moves are searched: each is a harder program than the optimum's."""
MANY = 100
"""Devices from which on a few of them may be run in part."""
WORTH_KEPT = 0.99
"""The least moves are counted among the dispatches that earn at least this share of the best."""

Limits: TypeAlias = tuple[tuple[FeederId, Watts], ...]
"""One limit per feeder, the root's last."""

_WHOLE = 1e-6


class Optimum:
    """The plant as a program: one way per device, one sum per feeder. Raises `NoSolver` when asked."""

    def __init__(self, emulated: Emulated) -> None:
        self._root = emulated.tree.root
        self._demand_w = emulated.capacity.demand_w
        self._ways = find_ways(emulated)
        self._paths = {device.id: emulated.tree.paths[device.feeder] for device in emulated.devices}
        self._carried = {feeder: 1 + LOSSES if feeder == self._root else 1.0 for feeder in emulated.tree.specs}
        self._auxiliary_w = dict.fromkeys(emulated.tree.specs, 0.0)
        for feeder in emulated.tree.bottom_up:
            spec = emulated.tree.specs[feeder]
            self._auxiliary_w[feeder] = self._auxiliary_w[feeder] * self._carried[feeder] + spec.auxiliary_w
            if spec.parent is not None:
                self._auxiliary_w[spec.parent] += self._auxiliary_w[feeder]
        self._in_parts = len(self._ways) >= MANY
        self._earning: _Built | None = None
        self._known: dict[Limits, float] = {}

    # ---- what can be earned -------------------------------------------------------------------

    def earned(self, trace: Trace) -> float:
        """What the whole trace could have earned: slot by slot the best within its limits."""
        slots = self._slots(trace)
        levels: dict[Limits, set[Watts]] = {}
        for *others, (_, root_w) in slots:
            levels.setdefault(tuple(others), set()).add(root_w)
        solved = {others: sorted(_spread(sorted(roots_w))) for others, roots_w in levels.items()}
        per_h = 0.0
        for *others, (_, root_w) in slots:
            known_w = solved[tuple(others)]
            place = bisect.bisect_left(known_w, root_w)
            above = self.per_h((*others, (self._root, known_w[place])))
            if known_w[place] == root_w:
                per_h += above
            else:
                below = self.per_h((*others, (self._root, known_w[place - 1])))
                per_h += below + (above - below) * (root_w - known_w[place - 1]) / (known_w[place] - known_w[place - 1])
        return per_h * SLOT_S / SECONDS_PER_HOUR

    def per_h(self, limits: Limits) -> float:
        """The most that an hour within these limits can earn; what all that is off does where that is too much."""
        if limits not in self._known:
            if self._earning is None:
                self._earning = self._build()
            self._earning.limit(limits)
            solved = self._earning.program.maximise()
            off = sum(min(ways, key=lambda way: way.draw_w).earns_per_h for ways in self._ways.values())
            self._known[limits] = solved.bound if solved is not None else off
        return self._known[limits]

    def _slots(self, trace: Trace) -> list[Limits]:
        """The limits of every slot; what is more than the demand counts as a little more than it."""
        order = [*(feeder for feeder in trace.feeders if feeder != self._root), self._root]
        columns = [[min(w, 1.01 * self._demand_w) for w in trace.feeders[feeder].limit_w] for feeder in order]
        return [tuple(zip(order, row, strict=True)) for row in zip(*columns, strict=True)]

    # ---- how few moves would do ---------------------------------------------------------------

    def least_moves(self, trace: Trace) -> int | None:
        """How few commands keep every limit of the trace, one after another, and earn 99 % of the best at each; `None`
        where the limits change too often to search for it."""
        slots = self._slots(trace)
        changes = [slots[0], *(after for before, after in itertools.pairwise(slots) if after != before)]
        if len(changes) > MOST_CHANGES:
            return None
        held = {device: max(ways, key=lambda way: way.draw_w) for device, ways in self._ways.items()}
        moves = 0
        for limits in changes:
            moved, count = self._move_least(limits, held)
            moves += count
            held |= moved
        return moves

    def _move_least(self, limits: Limits, held: dict[DeviceId, Way]) -> tuple[dict[DeviceId, Way], int]:
        """Who does not stay as it is, and how many they are at least."""
        built = self._build(held)
        built.limit(limits)
        program = built.program
        best = self.per_h(limits)
        program.require(best - (1 - WORTH_KEPT) * abs(best))
        for column in built.stays.values():
            program.gain(column, 1.0)
        solved = program.maximise()
        if solved is None or not solved.values:
            lowest = {device: min(ways, key=lambda way: way.draw_w) for device, ways in self._ways.items()}
            return lowest, len(lowest)
        shares = solved.values
        moved: dict[DeviceId, Way] = {}
        for device, stay in built.stays.items():
            if shares[stay] < 1 - _WHOLE:
                ways = [*self._ways[device], held[device]]
                moved[device] = _mixed(ways, [*(shares[column] for column in built.columns[device]), shares[stay]])
        return moved, math.ceil(sum(1 - shares[stay] for stay in built.stays.values()) - _WHOLE)

    # ---- the program --------------------------------------------------------------------------

    def _build(self, held: dict[DeviceId, Way] | None = None) -> _Built:
        """One column per way of every device, and where it is `held` one more for staying so."""
        program = Program(self._in_parts)
        built = _Built(program, {feeder: program.row() for feeder in self._auxiliary_w}, self._auxiliary_w)
        for device, ways in self._ways.items():
            chosen = program.row(lower=1.0, upper=1.0)
            ranges: dict[int, int] = {}
            columns = built.columns[device] = []
            for way in ways:
                if way.range not in ranges:
                    ranges[way.range] = program.row(lower=0.0, upper=0.0)
                    program.column(0.0, {chosen: 1.0, ranges[way.range]: -1.0}, is_integer=True)
                entries = {ranges[way.range]: 1.0, **dict(self._loads(device, way, built.sums))}
                columns.append(program.column(way.earns_per_h, entries))
            if held is not None:
                entries = {chosen: 1.0, **dict(self._loads(device, held[device], built.sums))}
                built.stays[device] = program.column(held[device].earns_per_h, entries, is_integer=True)
        return built

    def _loads(self, device: DeviceId, way: Way, sums: dict[FeederId, int]) -> Iterator[tuple[int, float]]:
        """What the way puts on every feeder above, losses counted."""
        through_w = way.draw_w
        for feeder in self._paths[device]:
            through_w *= self._carried[feeder]
            yield sums[feeder], through_w


@dataclass(frozen=True, slots=True)
class _Built:
    """A program, and what of the plant its rows and columns are."""

    program: Program
    sums: dict[FeederId, int]
    auxiliary_w: dict[FeederId, Watts]
    columns: dict[DeviceId, list[int]] = field(default_factory=dict)
    stays: dict[DeviceId, int] = field(default_factory=dict)

    def limit(self, limits: Limits) -> None:
        """Hold every feeder to its limit."""
        for feeder, limit_w in limits:
            self.program.limit(self.sums[feeder], limit_w - self.auxiliary_w[feeder])


def _spread(levels: Sequence[Watts]) -> Sequence[Watts]:
    if len(levels) <= MOST_LEVELS:
        return levels
    return list({levels[round(n * (len(levels) - 1) / (MOST_LEVELS - 1))] for n in range(MOST_LEVELS)})


def _mixed(ways: Sequence[Way], shares: Sequence[float]) -> Way:
    """What a mixture draws and earns."""
    range_ = max(zip(shares, ways, strict=True), key=lambda pair: pair[0])[1].range
    draw_w = sum(share * way.draw_w for share, way in zip(shares, ways, strict=True))
    return Way(draw_w, sum(share * way.earns_per_h for share, way in zip(shares, ways, strict=True)), range_)
