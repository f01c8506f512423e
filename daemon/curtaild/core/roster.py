"""The site's devices, feeder by feeder, and what they add up to: only who was touched is counted anew.

Every sum is exact: a share is a whole number of 1/1024 W, which a double adds and takes away again without rounding up
to 8 TW, so that no error gathers however long the daemon runs.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from curtaild.core.device import RESTLESS, Device, Share
from curtaild.core.feeders import FeederTree
from curtaild_drivers.contract import FeederId, Seconds, Watts

_FOREVER = math.inf


class Members:
    """The devices that hang on one feeder itself, and their sums.

    `flying`: a command is under way. `stale`: not heard for too long. `can_fall`: not yet headed for their lowest
    point. `can_rise`: settled under their highest. `meter_agrees`: what they were last told of the meters above.
    `more_w`, `more_doubt_w`: what `count_draw` has added since the feeders above were last told.
    """

    __slots__ = ("_movers", "_sampled_at", "_seen_until", "_settled_unseen_w", "can_fall", "can_rise", "devices",
                 "flying", "last_move_at", "meter_agrees", "more_doubt_w", "more_w", "stale", "sums")  # fmt: skip

    def __init__(self) -> None:
        self.devices: list[Device] = []
        self.sums = Share()
        self.flying: dict[Device, None] = {}
        self.stale: dict[Device, None] = {}
        self.can_fall: dict[Device, None] = {}
        self.can_rise: dict[Device, None] = {}
        self.meter_agrees = False
        self.last_move_at: Seconds = 0.0
        self.more_w: Watts = 0.0
        self.more_doubt_w: Watts = 0.0
        self._movers: dict[Device, Watts] = {}
        self._settled_unseen_w: Watts = 0.0
        self._seen_until: Seconds = _FOREVER
        self._sampled_at: Seconds = _FOREVER

    def count(self, device: Device) -> None:
        """Replace what `device` was last counted with."""
        before, now, sums = device.share, Share.of(device), self.sums
        sums.reserved_w += now.reserved_w - before.reserved_w
        sums.planned_w += now.planned_w - before.planned_w
        sums.measured_w += now.measured_w - before.measured_w
        sums.in_doubt_w += now.in_doubt_w - before.in_doubt_w
        sums.never_heard_w += now.never_heard_w - before.never_heard_w
        sums.erring_w += now.erring_w - before.erring_w
        sums.flying_w += now.flying_w - before.flying_w
        sums.edge_w += now.edge_w - before.edge_w
        sums.edge_w2 += now.edge_w2 - before.edge_w2
        sums.spared_w += now.spared_w - before.spared_w
        sums.lowest_w += now.lowest_w - before.lowest_w
        sums.highest_w += now.highest_w - before.highest_w
        sums.allowed_w += now.allowed_w - before.allowed_w
        if now.is_flying is not before.is_flying:
            _place(self.flying, device, now.is_flying)
        if now.is_stale is not before.is_stale:
            _place(self.stale, device, now.is_stale)
        if now.can_fall is not before.can_fall:
            _place(self.can_fall, device, now.can_fall)
        if now.can_rise is not before.can_rise:
            _place(self.can_rise, device, now.can_rise)
        if now.settled_at != before.settled_at:
            self._movers.setdefault(device, 0.0)
            self.last_move_at = max(self.last_move_at, now.settled_at)
        if device in self._movers:
            self._count_unseen(device)
        device.share = now

    def count_draw(self, device: Device, draw_w: Watts) -> None:
        """As `count`, where nothing but its draw is another than before."""
        share, sums, measured_w = device.share, self.sums, math.ceil(draw_w * 1024.0) / 1024.0  # `exact`, written out
        more_w = measured_w - share.measured_w
        share.measured_w = measured_w
        sums.measured_w += more_w
        self.more_w += more_w
        if device.actuation is not None:
            in_doubt_w = device.in_doubt_w(draw_w)
            more_w = in_doubt_w - share.in_doubt_w
            share.in_doubt_w = in_doubt_w
            sums.in_doubt_w += more_w
            self.more_doubt_w += more_w

    @property
    def has_movers(self) -> bool:
        """Whether some have moved since a meter last saw them: then its next sample changes what is unseen."""
        return bool(self._movers)

    def unseen_w(self, seen_until: Seconds | None) -> Watts:
        """What is reserved beyond what a meter has seen the devices draw; all of it where none can see them."""
        if seen_until is None:
            return self.sums.reserved_w
        if seen_until != self._seen_until:
            self._look_back(seen_until, self._sampled_at)
        return self.sums.flying_w + self._settled_unseen_w

    def _count_unseen(self, device: Device) -> None:
        """What a mover adds to what settled devices draw unseen."""
        is_unseen = device.actuation is None and device.settled_at > self._seen_until
        unseen_w = device.unseen_w() if is_unseen else 0.0
        self._settled_unseen_w += unseen_w - self._movers[device]
        self._movers[device] = unseen_w

    def just_moved_w(self, sampled_at: Seconds) -> Watts:
        """How much more those may have been drawing at `sampled_at` that have moved since."""
        if self.last_move_at < min(sampled_at, self._sampled_at):
            self._sampled_at = sampled_at
            return 0.0
        self._look_back(self._seen_until, sampled_at)
        return sum(
            max(0.0, device.spec.rated_w - device.reserved_w)
            for device in self._movers
            if device.settled_at >= sampled_at
        )

    def _look_back(self, seen_until: Seconds, sampled_at: Seconds) -> None:
        """Forget the movers that the meters have caught up with; where a meter was lost, look at everybody again."""
        is_lost = seen_until < self._seen_until or sampled_at < self._sampled_at
        is_news = is_lost or seen_until > self._seen_until
        if is_lost:
            self._movers, self._settled_unseen_w = dict.fromkeys(self.devices, 0.0), 0.0
        self._seen_until, self._sampled_at = seen_until, sampled_at
        caught_up = [d for d in self._movers if d.settled_at <= seen_until and d.settled_at < sampled_at]
        for device in caught_up:
            self._settled_unseen_w -= self._movers.pop(device)
            if device.actuation is None and device.draw_w is not None and seen_until < _FOREVER:
                device.seen_w = device.draw_w
        if is_news:
            for device in self._movers:
                self._count_unseen(device)


class Roster:
    """Every device on its feeder. Who is touched is looked at in the next cycle; the others stand as they stood.

    `losing`: run at what earns less than its energy. `unshown`: touched since the last status was read off. `changed`:
    the feeders on which devices were counted anew since they were last added up. `can_fall`: as in `Members`.
    """

    def __init__(self, tree: FeederTree, devices: Iterable[Device]) -> None:
        self.members: dict[FeederId, Members] = {feeder: Members() for feeder in tree.specs}
        self.can_fall: Mapping[FeederId, Iterable[Device]] = {
            feeder: members.can_fall for feeder, members in self.members.items()
        }
        self.losing: dict[Device, None] = {}
        self.unshown: dict[Device, None] = {}
        self.changed: set[FeederId] = set()
        self._touched: dict[Device, None] = {}
        self._redrawn: dict[FeederId, None] = {}
        self._reviews: list[tuple[Seconds, int, Device]] = []
        for order, device in enumerate(devices):
            device.order, device.share, device.review_at = order, Share(), _FOREVER
            self.members[device.spec.feeder].devices.append(device)
            self.touch(device)

    def touch(self, device: Device) -> None:
        """Something about `device` changed, by an input, a command, or from outside."""
        device.quiet_w = RESTLESS
        self._touched[device] = None

    def touch_all(self, devices: Iterable[Device]) -> None:
        for device in devices:
            self.touch(device)

    def heard(self, device: Device) -> None:
        """`device` was read: most say what they said before, and only their draw is to be counted."""
        if device.quiet_w == RESTLESS or device.draw_w is None:
            self.touch(device)
            return
        self.unshown[device] = None
        feeder = device.spec.feeder
        self._redrawn[feeder] = None
        self.members[feeder].count_draw(device, device.draw_w)

    def take_redrawn(self) -> Iterator[tuple[FeederId, Watts, Watts]]:
        """Where the draw of devices was counted: how much more it is, and how much more of it is in doubt."""
        redrawn, self._redrawn = self._redrawn, {}
        for feeder in redrawn:
            members = self.members[feeder]
            yield feeder, members.more_w, members.more_doubt_w
            members.more_w = members.more_doubt_w = 0.0

    @property
    def is_any_touched(self) -> bool:
        return bool(self._touched)

    def take_touched(self, now: Seconds, most: int | None = None) -> Iterator[Device]:
        """Whom to look at, each once: the touched, `most` of them at a time, and those that time alone has changed by
        `now`."""
        reviews = self._reviews
        while reviews and reviews[0][0] <= now:
            due_at, _, device = heapq.heappop(reviews)
            if due_at != device.review_at:
                continue
            device.review_at = device.quiet_until()
            if device.review_at > now:
                heapq.heappush(reviews, (device.review_at, device.order, device))
            else:
                device.review_at = _FOREVER
                self.touch(device)
        if most is None or len(self._touched) <= most:
            touched, self._touched = self._touched, {}
        else:
            touched = dict.fromkeys(islice(self._touched, most))
            for device in touched:
                del self._touched[device]
        self.unshown.update(touched)
        return iter(touched)

    def count(self, device: Device, review_at: Seconds, is_losing: bool) -> None:
        """Take `device` into the sums as it stands, to be looked at again at `review_at` at the latest.

        `is_losing`: what it runs at earns less than its energy.
        """
        feeder = device.spec.feeder
        self.members[feeder].count(device)
        self.changed.add(feeder)
        if is_losing or self.losing:
            _place(self.losing, device, is_losing)
        if review_at < device.review_at:
            device.review_at = review_at
            heapq.heappush(self._reviews, (review_at, device.order, device))

    @property
    def may_any_rise(self) -> bool:
        """Whether one is settled under its highest point."""
        return any(members.can_rise for members in self.members.values())

    def can_rise(self, tree: FeederTree, free_w: Mapping[FeederId, Watts]) -> Iterator[Device]:
        """Those settled under their highest point on feeders that have something free, as all above them do."""
        for feeder, members in self.members.items():
            if members.can_rise and min(free_w[above] for above in tree.paths[feeder]) > 0.0:
                yield from members.can_rise


def _place(group: dict[Device, None], device: Device, belongs: bool) -> None:
    if belongs:
        group[device] = None
    else:
        group.pop(device, None)
