"""The node as the daemon sees it: what its BMC says of watts, limit and power state, and the commands to it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from yarl import URL

from curtaild_drivers.contract import (
    OFF,
    AuthFailed,
    BadReply,
    Capabilities,
    DriverError,
    Identity,
    LearnsPoints,
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
from curtaild_drivers.gpu.curve import LIMIT
from curtaild_drivers.gpu.redfish.bmc import Bmc, Failing, Resource, WantsTag
from curtaild_drivers.gpu.redfish.document import Json, watts
from curtaild_drivers.gpu.redfish.layout import Layout, discovered
from curtaild_drivers.gpu.redfish.limits import (
    UNLIMITED,
    LimitState,
    limit_change,
    limit_state,
    power_w,
    supplied_w,
    temperature_c,
)
from curtaild_drivers.gpu.redfish.profiles import Profile
from curtaild_drivers.gpu.redfish.scale import Scale
from curtaild_drivers.gpu.redfish.settings import RedfishSettings
from curtaild_drivers.gpu.redfish.system import HostState
from curtaild_drivers.gpu.redfish.tls import Trust
from curtaild_drivers.gpu.suspended import Suspendable
from curtaild_drivers.registry import DriverSettings, OpenContext

SETTLE_DOWN_S: Seconds = 40.0
"""How long a cap set out of band may take to show (measured by others; a power brake takes 5 s)."""
SETTLE_ON_S: Seconds = 600.0
"""From power-on to work: memory training and a GPU node's start take minutes (assumed)."""

_NEVER: Seconds = float("-inf")


class RedfishNode(LearnsPoints):
    """One GPU node behind its BMC (`contract.Device`)."""

    def __init__(self, address: str, settings: RedfishSettings, context: OpenContext) -> None:
        self._settings = settings
        self._rated_w = context.rated_w
        base = URL.build(scheme=settings.scheme, host=address, port=settings.web_port, path="/")
        trust = Trust(settings.ca_file, settings.fingerprints.get(address))
        self._bmc = Bmc(base, trust, settings.username, context.secrets.get("password"))
        self._fed = settings.fed_curve(address)
        self._layout: Layout | None = None
        self._looking = asyncio.Lock()
        self._applying = asyncio.Lock()
        self._host: HostState | None = None
        self._host_asked_at = _NEVER
        self._limits: dict[str, LimitState] = {}
        self._limits_asked_at = _NEVER
        self._writes = 0
        self._told: object = None
        self._told_at = _NEVER
        self._told_off_at: Seconds | None = None

    @property
    def capabilities(self) -> Capabilities:
        """By the settings alone: switching off takes its operating system's time, and on takes a boot."""
        if self._settings.power_off == "never":
            return Capabilities(True, True, stops=False, settle_down_s=SETTLE_DOWN_S, settle_up_s=SETTLE_DOWN_S)
        down_s = max(SETTLE_DOWN_S, self._settings.force_off_after_s / 2)  # the daemon waits for twice this
        return Capabilities(True, True, stops=True, settle_down_s=down_s, settle_up_s=SETTLE_ON_S)

    @property
    def has_learned(self) -> bool:
        """Whether the site's throughput has shown another curve."""
        return self._fed is not None and self._fed.has_learned

    async def identify(self) -> Identity:
        """Looks through the BMC anew."""
        async with self._looking:
            layout = self._layout = await self._look()
        self._limits, self._limits_asked_at = {}, _NEVER
        try:
            return replace(layout.identity, rated_w=self._scale(layout).most_w)
        except Unsupported:
            return replace(layout.identity, rated_w=self._rated_w)

    async def read(self) -> Reading:
        """One GET where the watts' resource tells the limit as well; further ones where that may be news."""
        layout = await self._known()
        until = self._until_read()
        taken_at = time.monotonic()
        writes = self._writes
        body, draw_w = await self._ask_power(layout, until)
        await self._ask_host(layout, draw_w, writes, until)
        host = self._host
        if host is None or not host.is_off:
            await self._ask_limits(layout, body, writes, until)
        host = host or HostState(power="")  # the reading stands without it
        if host.power == "On" and layout.was_off and not layout.limits:
            self._layout = None  # they may be there now
        limit_w = None if host.is_off else self._limit_w(layout)
        if self._fed is not None:
            works = host.run_state is RunState.RUNNING
            self._fed.note(self._scale(layout).fraction(limit_w) if works and limit_w is not None else None)
        return Reading(
            taken_at,
            host.run_state,
            power_w=draw_w,
            point_key=OFF if host.is_off else LIMIT if limit_w is not None else None,
            limit_w=limit_w,
            temperature_c=temperature_c(body),
            fault=host.fault,
        )

    async def operating_points(self) -> OperatingPoints:
        """Limits from the least to the most that BMC and site file allow, and off where the site opted in."""
        layout = await self._known()
        is_known = self._settings.least_w is not None and self._rated_w is not None
        if not layout.limits and not (layout.profile is not None and self._settings.power_off != "never" and is_known):
            self._layout = None
            host = HostState.told_by((await self._bmc.get(layout.system, self._until_read())).body)
            if host.is_off:
                raise Unreachable("the node is off and its BMC shows no power limit: it is asked again")
            raise Unsupported(
                "its BMC offers no power limit that is known here: is a licence missing? See docs/redfish.md"
            )
        offers_off = self._settings.power_off != "never" and layout.reset is not None
        curve = self._fed.tell() if self._fed is not None else self._settings.curve
        return self._scale(layout).points(self._settings.off_w if offers_off else None, curve)

    async def apply(self, point: OperatingPoint) -> Outcome:
        until = _moment_in(self._settings.write_deadline_s)
        async with self._applying:
            try:
                layout = await self._known(until)
                if point.key == OFF:
                    return await self._switch_off(layout, until)
                if point.key != LIMIT:
                    raise Unsupported(f"a node knows {LIMIT} and {OFF}, not {point.key!r}")
                return await self._hold(layout, point, until)
            except BadReply as error:
                raise Refused(f"nothing was sent, its answer to a question before was unreadable: {error}") from error

    async def close(self) -> None:
        await self._bmc.close()
        if self._fed is not None:
            self._fed.close()

    # ---- what is known ------------------------------------------------------------------------

    async def _known(self, until: Seconds | None = None) -> Layout:
        """Found before, or found now: by `until`, or within its own deadline."""
        if self._layout is not None:
            return self._layout
        async with self._looking:
            if self._layout is None:
                self._layout = await self._look(until)
            return self._layout

    async def _look(self, until: Seconds | None = None) -> Layout:
        return await discovered(self._bmc, self._settings, until or _moment_in(self._settings.identify_deadline_s))

    def _scale(self, layout: Layout) -> Scale:
        of_gpus = layout.profile is not None and layout.profile.of_gpus
        return Scale.of(list(layout.limits.values()), of_gpus, self._settings, self._rated_w)

    def _until_read(self) -> Seconds:
        return _moment_in(self._settings.read_deadline_s)

    async def _ask_power(self, layout: Layout, until: Seconds) -> tuple[Json, Watts | None]:
        """The hot answer and the watts in it; the sum over the power supplies where only they tell any."""
        if not layout.supplies:
            body = (await self._bmc.get(layout.power, until)).body
            return body, power_w(body)
        total_w: Watts = 0.0
        for path in layout.supplies:
            taken_w = supplied_w((await self._bmc.get(path, until)).body)
            if taken_w is None:
                return {}, None
            total_w += taken_w
        return {}, watts(total_w)

    async def _ask_host(self, layout: Layout, draw_w: Watts | None, writes: int, until: Seconds) -> None:
        """On or off, where that is old, unsettled, or contradicted by the watts."""
        host, age_s = self._host, time.monotonic() - self._host_asked_at
        looks_off = draw_w is not None and draw_w < 2 * self._settings.off_w
        contradicts = host is None or (draw_w is not None and host.is_off != looks_off)
        if host is not None and host.is_settled and not contradicts and age_s <= self._settings.recheck_s:
            return
        try:
            told = HostState.told_by((await self._bmc.get(layout.system, until)).body)
        except (Unreachable, BadReply):
            told = None
        if writes == self._writes:
            self._host, self._host_asked_at = told, time.monotonic()

    async def _ask_limits(self, layout: Layout, body: Json, writes: int, until: Seconds) -> None:
        """What the limits are set to: from the hot answer where it tells them, else where that is old."""
        profile = layout.profile
        if profile is None or not layout.limits:
            return
        if layout.power in layout.limits:
            state = limit_state(profile.shape, body)
            self._limits = {layout.power: state} if state is not None else {}
            return
        is_old = time.monotonic() - self._limits_asked_at > self._settings.recheck_s
        if not is_old and not self._awaits_limits():
            return
        told: dict[str, LimitState] = {}
        try:
            for path in layout.limits:
                state = limit_state(profile.shape, (await self._bmc.get(path, until)).body)
                if state is None:
                    break
                told[path] = state
        except (Unreachable, BadReply):
            told = {}
        if writes == self._writes:
            self._limits, self._limits_asked_at = told, time.monotonic()

    def _awaits_limits(self) -> bool:
        """Whether limits that were told a moment ago are not shown yet: a task may still be setting them."""
        if time.monotonic() - self._told_at > 2 * SETTLE_DOWN_S:
            return False
        return any(state.set_w != self._told for state in self._limits.values())

    def _limit_w(self, layout: Layout) -> Watts | None:
        """The node's limit, `None` unless each of its limits is known."""
        if len(self._limits) != len(layout.limits):
            return None
        try:
            return self._scale(layout).node_w(self._limits.values())
        except Unsupported:
            return None

    # ---- commands -----------------------------------------------------------------------------

    async def _hold(self, layout: Layout, point: OperatingPoint, until: Seconds) -> Outcome:
        """Sets the limit; switches the node on where it is off and the site lets it be switched."""
        profile, host = layout.profile, self._host
        if profile is None:
            raise Unsupported("its BMC offers no power limit that is known here")
        if host is None or not host.is_settled or host.is_off:
            host = HostState.told_by((await self._bmc.get(layout.system, until)).body)
        starts = host.is_off and self._settings.power_off != "never"
        try:
            outcome = await self._limit(layout, profile, point, until)
        except (Refused, Failing):
            if not starts or profile.keeps_while_off:
                raise
            outcome = Outcome.ALREADY_THERE  # its limits are there only while it is on: the readings tell
        self._told_off_at = None
        if not starts:
            return outcome
        try:
            await self._reset(layout, "On", until)
        except DriverError as error:
            if outcome is Outcome.ALREADY_THERE:
                raise
            raise OutcomeUnknown(f"given {point.draw_w:.0f} W while off, then not switched on: {error}") from error
        return Outcome.ACKNOWLEDGED

    async def _limit(self, layout: Layout, profile: Profile, point: OperatingPoint, until: Seconds) -> Outcome:
        if not layout.limits:
            raise Refused("it shows no power limit at present")
        scale = self._scale(layout)
        lifts = self._settings.at_full == "lift" and point.draw_w >= scale.most_w - 0.5
        lifted = profile.lifted if lifts else None
        each_w = min(scale.each_w(point.draw_w), scale.most_each_w)
        change = lifted if lifted is not None else limit_change(profile.shape, profile.mode, each_w)
        taken, failed = 0, list[DriverError]()
        for path in layout.limits:
            try:
                taken += await self._set(path, profile, change, UNLIMITED if lifted is not None else each_w, until)
            except (AuthFailed, Unreachable) as error:
                failed.append(error)
                break  # the others would fare no better
            except DriverError as error:
                failed.append(error)  # what can be shed is shed
        if not failed:
            return Outcome.ACKNOWLEDGED if taken else Outcome.ALREADY_THERE
        if taken or any(isinstance(error, OutcomeUnknown) for error in failed):
            raise OutcomeUnknown(f"{taken} of {len(layout.limits)} limits are taken: {failed[0]}") from failed[0]
        if isinstance(failed[0], BadReply):
            raise Refused(f"nothing was sent: {failed[0]}") from failed[0]
        raise failed[0]

    async def _set(self, path: str, profile: Profile, change: Json, wanted: object, until: Seconds) -> bool:
        """One limit, after a look at it: which gives the tag of its state, and spares a change that is none."""
        seen = await self._bmc.get(path, until)
        state = limit_state(profile.shape, seen.body)
        if state is None:
            raise Refused(f"{path} no longer tells a power limit")
        if state.set_w == wanted:
            return False
        self._note_write()
        self._told, self._told_at = wanted, time.monotonic()
        try:
            await self._bmc.change("PATCH", path, change, until, seen.etag)
        except WantsTag:  # it changes faster than it can be asked (live watts count), or compares tags its own way
            seen = await self._bmc.get(path, until)
            await self._set_tagged(path, change, seen, until)
        return True

    async def _set_tagged(self, path: str, change: Json, seen: Resource, until: Seconds) -> None:
        """With the newest tag, its strong form, and any state at all: each time it surely refused the one before."""
        tags = [seen.etag, seen.etag.removeprefix("W/") if seen.etag else None, "*"]
        refusal: WantsTag | None = None
        for tag in dict.fromkeys(tag for tag in tags if tag is not None):
            try:
                return await self._bmc.change("PATCH", path, change, until, tag)
            except WantsTag as error:
                refusal = error
        raise refusal or Refused(f"{path}: it takes no change")

    async def _switch_off(self, layout: Layout, until: Seconds) -> Outcome:
        """Asks the operating system to shut down; forces it only where the site opted in, and only once its time is
        over. While it has time it is not asked twice: a second press of the button may cut the first one short."""
        if self._settings.power_off == "never":
            raise Unsupported('this site does not switch the node off (power_off = "never")')
        host = HostState.told_by((await self._bmc.get(layout.system, until)).body)
        if host.is_off:
            self._told_off_at = None
            return Outcome.ALREADY_THERE
        may_force = self._settings.power_off == "forced"
        is_graceful = not layout.reset_types or "GracefulShutdown" in layout.reset_types
        now = time.monotonic()
        told_s = now - self._told_off_at if self._told_off_at is not None else None
        if told_s is not None and told_s < self._settings.force_off_after_s:
            return Outcome.ACKNOWLEDGED
        if may_force and (told_s is not None or not is_graceful):
            await self._reset(layout, "ForceOff", until)
            return Outcome.ACKNOWLEDGED
        try:
            await self._reset(layout, "GracefulShutdown", until)
        except OutcomeUnknown:
            self._told_off_at = now
            raise
        self._told_off_at = now
        return Outcome.ACKNOWLEDGED

    async def _reset(self, layout: Layout, kind: str, until: Seconds) -> None:
        if layout.reset is None or (layout.reset_types and kind not in layout.reset_types):
            raise Unsupported(f"its BMC offers no {kind}; it offers {', '.join(sorted(layout.reset_types)) or 'none'}")
        self._note_write()
        await self._bmc.change("POST", layout.reset, {"ResetType": kind}, until)

    def _note_write(self) -> None:
        """Whatever was known of it has to be asked."""
        self._writes += 1
        self._host = None
        self._limits, self._limits_asked_at = {}, _NEVER


def open_device(address: str, settings: DriverSettings, context: OpenContext) -> RedfishNode | Suspendable:
    """For the registry. Does no I/O."""
    if not isinstance(settings, RedfishSettings):
        raise TypeError(f"the redfish driver needs RedfishSettings, not {type(settings).__name__}")
    node = RedfishNode(address, settings, context)
    if settings.suspend is None:
        return node
    name = settings.node_names.get(address, address)
    return Suspendable(node, name, settings.suspend, settings.stage_file(address))


def _moment_in(seconds: Seconds) -> Seconds:
    return asyncio.get_running_loop().time() + seconds
