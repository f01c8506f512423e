"""One child: another curtaild, its status read as a device's, its allocation stated as a device's limit.

A child keeps the last allocation for ever and never rises by itself above it: whatever is lost on the way is harmless.
Heartbeats go out as it is read, so that a daemon which no longer reads does not pass for one that is in command.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from itertools import pairwise
from typing import TypeAlias

from curtaild_drivers.broker.mqtt import Access
from curtaild_drivers.broker.signing import KeyFileError, Signer, load_signer
from curtaild_drivers.contract import (
    OFF,
    AuthFailed,
    Capabilities,
    DriverError,
    Identity,
    OperatingPoint,
    OperatingPoints,
    Outcome,
    OutcomeUnknown,
    Reading,
    Refused,
    RunState,
    Seconds,
    Unreachable,
    Unsupported,
    Watts,
)
from curtaild_drivers.downstream import words
from curtaild_drivers.downstream.line import Line, forget, line_at
from curtaild_drivers.downstream.settings import DownstreamSettings
from curtaild_drivers.registry import DriverSettings, OpenContext

LIMIT = "limit"
RESTATE_S = 5.0
"""How often a child in its fail-safe that hears us is told again what holds."""
STANDS_STILL_S = 2.0
"""A child that has just started learns what its own devices offer: its range is believed once it no longer grows."""
STILL_FRACTION = 0.01
STEP_W = 1.0

_Wanted: TypeAlias = Callable[[words.Status], words.Status | None]


class Child:
    """Another curtaild (`contract.Device`)."""

    def __init__(
        self,
        site: str,
        settings: DownstreamSettings,
        line: Line,
        context: OpenContext,
        signer: Signer | KeyFileError | None = None,
    ) -> None:
        """`signer`: who signs all that is said, or why nobody can."""
        self._site = site
        self._settings = settings
        self._line = line
        self._rated_w = context.rated_w
        self._flex = context.flex
        self._signer = signer
        self._topics = words.Topics.of(settings.prefix, site)
        self._news = asyncio.Event()
        self._status: words.Status | None = None
        self._still_since: Seconds = 0.0
        self._trouble: DriverError | None = None
        self._stated: words.Stated | None = None
        self._last_seq = 0
        self._waiting: dict[str, asyncio.Future[words.Ack]] = {}
        self._beat_at: Seconds = 0.0
        self._said_at: Seconds = 0.0
        line.join(self)

    @property
    def capabilities(self) -> Capabilities:
        settings = self._settings
        return Capabilities(
            measures_power=True,
            throttles=True,
            stops=settings.least_w is not None,
            settle_down_s=settings.settle_down_s,
            settle_up_s=settings.settle_up_s,
            falls_back_w=settings.failsafe_limit_w,
        )

    async def identify(self) -> Identity:
        status = await self._heard(lambda status: status)
        return Identity(
            make="curtaild",
            model=f"site with {status.devices} device{'' if status.devices == 1 else 's'}",
            firmware="native",
            serial=self._site,
            rated_w=self._most_w(status),
        )

    async def read(self) -> Reading:
        """The next status, dated by its arrival. Raises `Unreachable` where none comes in time, and where the child
        is away: its devices then stay as they are."""
        asked_at = time.monotonic()
        await self._line.up(self)
        try:
            await self._show_life()
        except OutcomeUnknown as lost:
            raise Unreachable(str(lost)) from None
        status = await self._heard(lambda status: status if status.heard_at >= asked_at else None, live=True)
        limit_w = status.limit_w
        if status.is_waiting and self._stated is not None:  # it may take that up again at any moment
            limit_w = max(limit_w, self._stated.limit_w if self._stated.limit_w is not None else status.most_w)
        is_off = self._settings.least_w is not None and limit_w == 0.0
        return Reading(
            taken_at=status.heard_at,
            state=RunState.ASLEEP if is_off else RunState.RUNNING,
            power_w=status.power_w,
            point_key=OFF if is_off else LIMIT,
            limit_w=None if is_off else limit_w,
        )

    async def operating_points(self) -> OperatingPoints:
        """Every limit from its least to its most, as it says, or the settings; and off, where the settings end the
        ordinary limits above its floor."""
        status = await self._heard(
            lambda status: status if status.heard_at - self._still_since >= STANDS_STILL_S else None, live=True
        )
        settings = self._settings
        most_w, floor_w = self._most_w(status), status.least_w
        least_w = max(settings.least_w or 0.0, floor_w)
        if least_w >= most_w:
            raise Unsupported(f"it offers no range: {least_w:.0f} W at least, {most_w:.0f} W at most")
        if settings.base_w >= most_w:
            raise Unsupported(f"base_w ({settings.base_w:g} W) is no less than its most, {most_w:.0f} W")
        above_w = most_w - settings.base_w
        corners = sorted(settings.base_w + fraction * above_w for fraction, _ in settings.curve[1:])
        draws = [least_w, *(draw_w for draw_w in corners if least_w + STEP_W <= draw_w <= most_w - STEP_W), most_w]
        points = [
            OperatingPoint(LIMIT, draw_w, self._kept((draw_w - settings.base_w) / above_w), divisible=place > 0)
            for place, draw_w in enumerate(draws)
        ]
        if settings.least_w is not None and floor_w < least_w - STEP_W:
            points.insert(0, OperatingPoint(OFF, floor_w, 0.0))
        return OperatingPoints(tuple(points), STEP_W)

    async def apply(self, point: OperatingPoint) -> Outcome:
        """State an allocation, and wait until the child says that it is taken. The broker keeps it for a child that is
        away: where no answer comes it may yet be followed. What takes more than the group's flex is an emergency here,
        and one below: the child may take more than its own flex, in its own order."""
        if point.key not in (LIMIT, OFF):
            raise Unsupported(f"{point.key} is not among what a site below offers")
        limit_w = 0.0 if point.is_off else round(point.draw_w, 1)
        is_emergency = self._flex is not None and point.rate < (1.0 - self._flex) * (1.0 - 1e-6)
        await self._line.up(self)
        status, stated = self._status, self._stated
        if status is not None and stated is not None and _follows(status, stated, limit_w, is_emergency):
            return Outcome.ALREADY_THERE
        said = self._next(limit_w, is_emergency)
        answer: asyncio.Future[words.Ack] = asyncio.get_running_loop().create_future()
        self._waiting[said.id] = answer
        try:
            async with asyncio.timeout(self._settings.write_deadline_s):
                await self._say(said)
                ack = await answer
        except (Unreachable, AuthFailed):
            self._stated = stated
            raise
        except TimeoutError:
            raise OutcomeUnknown(
                f"{self._site} did not answer in {self._settings.write_deadline_s:g} s; the broker keeps it for it"
            ) from None
        finally:
            del self._waiting[said.id]
        if not ack.is_accepted:
            self._stated = stated
            raise Refused(f"{self._site} says {ack.refusal}")
        return Outcome.ACKNOWLEDGED

    async def close(self) -> None:
        """The child keeps what it was told until its fail-safe takes over."""
        if await self._line.leave(self):
            forget([self._line])

    # ---- what the line calls ------------------------------------------------------------------

    @property
    def hears(self) -> Collection[str]:
        return (self._topics.status, self._topics.ack, self._topics.allocation)

    def hear(self, topic: str, payload: bytes, is_live: bool) -> None:
        """Take a message; what is none changes nothing."""
        if topic == self._topics.status:
            self._hear_status(words.status_of(payload, time.monotonic(), is_live))
        elif topic == self._topics.ack:
            ack = words.ack_of(payload)
            answer = self._waiting.get(ack.id) if ack is not None else None
            if ack is not None and answer is not None and not answer.done():
                answer.set_result(ack)
        else:
            own = self._signer.own(payload) if isinstance(self._signer, Signer) else payload
            stated = words.stated_of(own) if own is not None else None
            before_seq = self._stated.seq if self._stated is not None else -1  # heartbeats have run ahead since
            if stated is not None and stated.issuer == self._settings.issuer and stated.seq >= before_seq:
                self._stated, self._last_seq = stated, max(self._last_seq, stated.seq)

    def line_is_down(self, trouble: DriverError) -> None:
        self._trouble = trouble
        self._news.set()

    def _hear_status(self, status: words.Status | None) -> None:
        if status is None:
            return
        before, self._status = self._status, status
        if before is None or before.is_offline or not _is_alike(before, status):
            self._still_since = status.heard_at
        self._news.set()

    async def _heard(self, wanted: _Wanted, live: bool = False) -> words.Status:
        """The first status that is `wanted`, from now or before. Raises `Unreachable`."""
        await self._line.up(self)
        self._trouble = None
        try:
            async with asyncio.timeout(self._settings.read_deadline_s):
                while True:
                    self._news.clear()
                    status = self._status
                    if status is not None and status.is_offline:
                        raise Unreachable(f"{self._site} is offline: {status.offline_reason}")
                    if status is not None and (status.is_live or not live) and (found := wanted(status)) is not None:
                        return found
                    if self._trouble is not None:
                        raise self._trouble
                    await self._news.wait()
        except TimeoutError:
            never = "" if self._status is not None else ": is that its name, and this its broker and prefix?"
            raise Unreachable(
                f"{self._site} has said nothing for {self._settings.read_deadline_s:g} s{never}"
            ) from None

    # ---- what it is told ----------------------------------------------------------------------

    async def _show_life(self) -> None:
        """A heartbeat where one is due; to a child in its fail-safe also once more what holds, which it asks for. That
        raises nothing: it is counted with that limit all the while."""
        now, status = time.monotonic(), self._status
        must_restate = (
            self._stated is not None
            and status is not None
            and status.is_live
            and status.is_waiting
            and status.heard_at >= self._said_at + RESTATE_S
        )
        if now < self._beat_at + self._settings.heartbeat_s and not must_restate:
            return
        beat = words.heartbeat(self._next_seq(), datetime.now(UTC))
        await self._send(self._topics.heartbeat, beat, 0, False)
        self._beat_at = now
        if must_restate and self._stated is not None:
            await self._say(self._next(self._stated.limit_w, self._stated.is_emergency))

    async def _say(self, said: words.Stated) -> None:
        self._stated, self._said_at = said, time.monotonic()  # before it is sent: it may have been, whatever comes
        await self._send(self._topics.allocation, words.allocation(said, datetime.now(UTC)), 1, True)

    async def _send(self, topic: str, message: bytes, qos: int, retain: bool) -> None:
        """Signed, where we sign. Raises as `Line.send`, and `AuthFailed` where the key is none."""
        if isinstance(self._signer, KeyFileError):
            raise AuthFailed(str(self._signer))
        payload = words.signed(message, topic, self._signer) if self._signer is not None else message
        await self._line.send(topic, payload, qos, retain)

    def _next(self, limit_w: Watts | None, is_emergency: bool) -> words.Stated:
        seq, issuer = self._next_seq(), self._settings.issuer
        return words.Stated(f"{issuer}-{seq}-{secrets.token_hex(4)}", issuer, seq, limit_w, is_emergency)

    def _next_seq(self) -> int:
        """Milliseconds since 1970, above what the broker keeps of us: it rises over restarts and clocks set back."""
        self._last_seq = max(self._last_seq + 1, time.time_ns() // 1_000_000)
        return self._last_seq

    def _most_w(self, status: words.Status) -> Watts:
        return self._settings.most_w or self._rated_w or status.most_w

    def _kept(self, fraction: float) -> float:
        """The throughput kept at a fraction of the watts above base_w; below the curve's end in proportion."""
        curve = self._settings.curve
        for (upper, kept_above), (lower, kept_below) in pairwise(curve):
            if fraction >= lower:
                return kept_below + min((fraction - lower) / (upper - lower), 1.0) * (kept_above - kept_below)
        return curve[-1][1] * max(fraction, 0.0) / curve[-1][0]


def _follows(status: words.Status, stated: words.Stated, limit_w: Watts, is_emergency: bool) -> bool:
    """Whether the child itself says that it keeps this very limit, by our last word, which said no more or less."""
    if stated.is_emergency is not is_emergency:
        return False
    is_listening = status.is_live and not status.is_offline and not status.is_waiting
    return is_listening and status.source == stated.id and stated.limit_w == limit_w == status.limit_w


def _is_alike(one: words.Status, other: words.Status) -> bool:
    """Whether they tell the same range."""
    slack_w = STILL_FRACTION * max(one.most_w, 1.0)
    return abs(one.most_w - other.most_w) <= slack_w and abs(one.least_w - other.least_w) <= slack_w


def open_device(address: str, settings: DriverSettings, context: OpenContext) -> Child:
    """For the registry. Does no I/O."""
    if not isinstance(settings, DownstreamSettings):
        raise TypeError(f"the downstream driver needs DownstreamSettings, not {type(settings).__name__}")
    host, port = settings.endpoint
    access = Access(
        host,
        port,
        settings.is_tls,
        f"curtaild-{settings.issuer}-{secrets.token_hex(4)}",
        settings.username,
        context.secrets.get("password"),
        settings.ca_file,
        settings.cert_file,
        settings.key_file,
    )
    return Child(address, settings, line_at(access), context, _signer(settings, context.secrets.get("signing_key")))


def _signer(settings: DownstreamSettings, key: str | None) -> Signer | KeyFileError | None:
    try:
        return load_signer(key, settings.signing_key_id, "the signing key") if key is not None else None
    except KeyFileError as unusable:
        return unusable
