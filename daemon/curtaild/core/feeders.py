"""The site's electrical tree: feeders with ratings, each device on one of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from curtaild_drivers.contract import FeederId, Seconds, Watts


@dataclass(frozen=True, slots=True)
class InterlockSpec:
    """What must run before devices below a feeder may start. `draw_w`: what it draws once it runs (W). What was read
    longer ago than `stale_after_s` allows nothing."""

    draw_w: Watts
    stale_after_s: Seconds


@dataclass(frozen=True, slots=True)
class FeederSpec:
    """One node of the tree. `auxiliary_w` is the site's own estimate of what it draws beside its devices (W), used
    until a meter knows better; `meter_stale_after_s` is `None` where there is no meter."""

    id: FeederId
    parent: FeederId | None
    rating_w: Watts
    auxiliary_w: Watts = 0.0
    meter_stale_after_s: Seconds | None = None
    interlock: InterlockSpec | None = None


class FeederTreeError(ValueError):
    """The feeders are no tree; the text names every feeder at fault."""


class FeederTree:
    """An immutable tree. `bottom_up` lists every feeder after all of its children; `paths` leads from a feeder to the
    root, `below` names a feeder and all under it."""

    __slots__ = ("below", "bottom_up", "children", "paths", "root", "specs")

    def __init__(self, specs: Iterable[FeederSpec]) -> None:
        """Raises `FeederTreeError` on cycles, unknown parents, two definitions of one feeder, and no or two roots."""
        listed = list(specs)
        self.specs = {spec.id: spec for spec in listed}
        problems = [f"feeder {spec.id} is defined twice" for spec in listed if self.specs[spec.id] is not spec]
        problems += [
            f"feeder {spec.id} hangs under {spec.parent}, which is not defined"
            for spec in listed
            if spec.parent is not None and spec.parent not in self.specs
        ]
        roots = [spec.id for spec in listed if spec.parent is None]
        if len(roots) != 1:
            problems.append(f"exactly one feeder has no parent; here: {', '.join(roots) or 'none'}")
        if problems:
            raise FeederTreeError("; ".join(problems))
        self.root = roots[0]
        self.paths = {spec.id: self._path(spec.id) for spec in listed}
        self.below = {spec.id: [member for member, path in self.paths.items() if spec.id in path] for spec in listed}
        self.bottom_up = sorted(self.specs, key=lambda feeder: -len(self.paths[feeder]))
        self.children: dict[FeederId, list[FeederId]] = {feeder: [] for feeder in self.specs}
        for spec in listed:
            if spec.parent is not None:
                self.children[spec.parent].append(spec.id)

    def _path(self, feeder: FeederId) -> tuple[FeederId, ...]:
        """From `feeder` up to the root, both included."""
        path = [feeder]
        while (parent := self.specs[path[-1]].parent) is not None:
            if parent in path:
                raise FeederTreeError(f"feeders form a circle: {' → '.join([*path, parent])}")
            path.append(parent)
        return tuple(path)
