"""What must always hold, whatever grid, devices, meters and crashes do: the ten rules against a plant that lies.

A stateful machine plays the world in virtual time; after every second of it the rules are checked against the
plant's *true* power, which the core never sees.
"""

from __future__ import annotations

import math
import os
from collections import Counter

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from core.plain_tally import plain_tally
from core.virtual_site import VirtualSite
from curtaild.core.allocation import Allocation, Urgency
from curtaild.core.budget import room_of
from curtaild.core.cycle import Command, Decision
from curtaild.core.events import Condition, LinkPhase
from curtaild.core.limits import UNLIMITED, within
from curtaild.core.policy import Policy
from curtaild.core.snapshot import status_of
from curtaild_drivers.contract import DeviceId, FeederId, Seconds, Watts
from curtaild_emulator import MODELS, Fault, MeterFault, Plant, PlantDevice, PlantFeeder

SITE, ROW_A, ROW_B = FeederId("site"), FeederId("row-a"), FeederId("row-b")
RESPONSE_S = 260.0
"""A shed may take: a poll to notice, a minute to see that a device lies, another shed to fall, and their sum again
where the first substitute lies as well."""
NOISE = 0.02
"""Room for meter noise, sensor error of healthy units, and the margin of an unmetered feeder."""

LASTING_LIES = (Fault.DRIFT_BACK, Fault.WAKES_OTHER_MODE)
"""Devices that rise by themselves later: no daemon can know before it happens."""

FAULTS = (
    Fault.HANG,
    Fault.HANG_WRITE_APPLIED,
    Fault.NAN_POWER,
    Fault.ACK_NO_OBEY,
    Fault.HALF_OBEY,
    Fault.DRIFT_BACK,
    Fault.KEYS_VANISH_AFTER_SLEEP,
    Fault.CLOSE_AFTER_POWER_OFF,
    Fault.RESUME_NEVER,
    Fault.WAKES_OTHER_MODE,
    Fault.REBOOT_ON_LIMIT,
    Fault.API_GONE_WHILE_BOOTING,
    Fault.REFUSE_CONNECTION,
    Fault.WRONG_PASSWORD,
    Fault.GARBAGE,
    Fault.OFFLINE_SILENT,
)
steps: Counter[str] = Counter()


class SiteUnderFire(RuleBasedStateMachine):
    """Rules are what the world may do; `check_*` is what must hold after each second."""

    @initialize(
        models=st.lists(st.sampled_from(sorted(MODELS)), min_size=2, max_size=9),
        metered=st.sampled_from([frozenset(), frozenset({ROW_A}), frozenset({ROW_A, ROW_B}), frozenset({SITE})]),
        failsafe=st.floats(0.0, 0.6),
        flex=st.sampled_from([None, None, 0.0, 0.3]),
        seed=st.integers(0, 2**16),
    )
    def build(
        self, models: list[str], metered: frozenset[FeederId], failsafe: float, flex: float | None, seed: int
    ) -> None:
        self.feeders = [
            PlantFeeder(SITE, None, 800.0, 0.01),
            PlantFeeder(ROW_A, SITE, 200.0),
            PlantFeeder(ROW_B, SITE, 200.0),
        ]
        devices = [
            PlantDevice(DeviceId(f"m{index}"), MODELS[name], ROW_A if index % 2 else ROW_B)
            for index, name in enumerate(models)
        ]
        self.full_w = sum(MODELS[name].rated_w for name in models) * 1.1 + 1500
        self.world = VirtualSite(
            plant=Plant(devices, self.feeders, seed),
            feeders=self.feeders,
            feeder_of={device.id: device.feeder for device in devices},
            failsafe_w=failsafe * self.full_w,
            ratings_w={SITE: self.full_w, ROW_A: self.full_w, ROW_B: self.full_w},
            policy=Policy(response_s=60.0, reading_error_fraction=0.08),
            unmetered=frozenset({SITE, ROW_A, ROW_B}) - metered,
            flex={device.id: flex for device in devices[::2]} if flex is not None else {},
        )
        self.world.observers.append(self.check_decision)
        self.sent: list[Allocation] = []
        self.heartbeat_lost_at: Seconds | None = None
        self.disturbed_at: Seconds = 0.0
        self.limits_w = dict.fromkeys((SITE, ROW_A, ROW_B), self.full_w)
        self.firm_w = dict.fromkeys((SITE, ROW_A, ROW_B), self.full_w)
        self.restarted_at: dict[DeviceId, Seconds] = {}
        self.world.tick()

    # ---- what the world does ------------------------------------------------------------------

    @rule(
        share=st.one_of(st.just(0.0), st.floats(0.0, 1.2), st.none()),
        feeder=st.sampled_from([None, None, ROW_A]),
        starts_in_s=st.sampled_from([0.0, 0.0, 20.0, 200.0]),
        lasts_s=st.sampled_from([None, None, 90.0, 600.0]),
        ramp=st.sampled_from([None, 0.5]),
        urgency=st.sampled_from(Urgency),
    )
    def allocate(
        self,
        share: float | None,
        feeder: FeederId | None,
        starts_in_s: float,
        lasts_s: float | None,
        ramp: float | None,
        urgency: Urgency,
    ) -> None:
        allocation = self.world.allocate(
            share * self.full_w if share is not None else None,
            feeder=feeder,
            starts_in_s=starts_in_s,
            lasts_s=lasts_s,
            ramp_w_per_min=ramp * self.full_w if ramp is not None else None,
            urgency=urgency,
        )
        self.sent.append(allocation)
        self._live(1)

    @rule(index=st.integers(0, 50))
    def repeat_an_old_allocation(self, index: int) -> None:
        """Lost ones are simply not sent; here come the duplicated and the reordered."""
        if self.sent:
            self.world.deliver(self.sent[index % len(self.sent)])
        self._live(1)

    @rule()
    def lose_or_regain_the_heartbeat(self) -> None:
        self.world.heartbeats = not self.world.heartbeats
        self.heartbeat_lost_at = None if self.world.heartbeats else self.world.now
        self._live(1)

    @rule(index=st.integers(0, 8), fault=st.sampled_from(FAULTS))
    def a_device_goes_wrong(self, index: int, fault: Fault) -> None:
        devices = self.world.plant.device_ids
        device = devices[index % len(devices)]
        self.world.plant.set_fault(device, fault, fault not in self.world.plant.faults(device))
        self._disturb()
        self._live(1)

    @rule()
    def all_devices_heal(self) -> None:
        for device in self.world.plant.device_ids:
            for fault in self.world.plant.faults(device) - self.world.plant.miner(device).model.born_with:
                self.world.plant.set_fault(device, fault, False)
        self._disturb()
        self._live(1)

    @rule(feeder=st.sampled_from([SITE, ROW_A, ROW_B]), fault=st.sampled_from([None, None, *MeterFault]))
    def a_meter_dies_or_heals(self, feeder: FeederId, fault: MeterFault | None) -> None:
        self.world.plant.set_meter_fault(feeder, fault)
        self._disturb()
        self._live(1)

    @rule(index=st.integers(0, 8))
    def a_device_restarts_by_itself(self, index: int) -> None:
        devices = self.world.plant.device_ids
        device = devices[index % len(devices)]
        self.world.plant.miner(device).reboot(self.world.plant.now)
        self.restarted_at[device] = self.world.now
        self._disturb()
        self._live(1)

    @rule()
    def the_daemon_is_killed_and_starts_again(self) -> None:
        self.world.boot()
        assert self.world.site.link.phase is LinkPhase.STARTING
        self._disturb()
        self._live(1)

    @rule(seconds=st.integers(1, 40))
    def time_passes(self, seconds: int) -> None:
        self._live(seconds)

    @rule()
    def nothing_happens_for_long(self) -> None:
        self._live(int(RESPONSE_S) + 60)

    def _live(self, seconds: int) -> None:
        steps["rules"] += 1
        for _ in range(seconds):
            self.world.tick()
            steps["cycles"] += 1
            self._note_disturbances()
            self.check_true_power()

    def _disturb(self) -> None:
        self.disturbed_at = self.world.now

    def _note_disturbances(self) -> None:
        """A limit that fell, or a device that rose of its own accord, starts the response time anew."""
        for feeder in self.limits_w:
            limit_w = self.world.site.limit_w(feeder)
            if limit_w < self.limits_w[feeder]:
                self._disturb()
            self.limits_w[feeder] = limit_w
            firm_w = within(self.world.site.link.firm(self.world.now).get(feeder, UNLIMITED), self.full_w)
            if firm_w < self.firm_w[feeder]:
                self._disturb()  # what flex spared so far goes now, under the same limit
            self.firm_w[feeder] = firm_w
        if any(
            self.world.plant.miner(device).has(lie) for device in self.world.plant.device_ids for lie in LASTING_LIES
        ):
            self._disturb()  # may rise at any moment, so that no moment is calm

    # ---- what must hold -----------------------------------------------------------------------

    def check_decision(self, decision: Decision) -> None:
        """Rules 1, 2, 3, 6: no raise unless everything reserved, with it counted, fits every feeder up to the root."""
        self._check_kept()
        if not decision.commands:
            self._check_sums()
        for command in decision.commands:
            self._check_flex(command)
        raises = [command for command in decision.commands if command.is_raise]
        if not raises:
            return
        site = self.world.site
        assert not any(not command.is_raise for command in decision.commands), "raised and shed in one cycle"
        for command in raises:
            device = site.devices[command.device]
            assert device.reading is not None, "raised before it was read"
            assert device.reading.taken_at >= site.started_at, "raised on a reading of an earlier run"
            assert not device.conditions & {Condition.STALE, Condition.UNREACHABLE}
        self._check_reservation(raises)
        self._check_truth(raises)

    def _check_flex(self, command: Command) -> None:
        """No routine limit takes more of a device than its flex."""
        site = self.world.site
        device = site.devices[command.device]
        floor = device.flex_floor()
        if command.is_raise or floor is None or command.target.draw_w >= floor.draw_w:
            return
        link = site.link
        moments = [site.stepped_at, *(moment for moment, _ in link.coming(site.stepped_at, math.inf))]
        assert any(
            site.tallies[feeder].total_planned_w > within(link.firm(moment).get(feeder, UNLIMITED), self.full_w)
            for feeder in site.tree.paths[device.spec.feeder]
            for moment in moments
        ), command

    def _check_kept(self) -> None:
        """What is kept of feeders in which nothing happened is what would be found anew."""
        site, now = self.world.site, self.world.now
        room, shown = room_of(site, now), status_of(site, now).feeders
        site.stirred, site.unshown_feeders = set(site.tree.specs), set(site.tree.specs)
        assert room == room_of(site, now)
        assert shown == status_of(site, now).feeders
        site.stirred = set()

    def _check_sums(self) -> None:
        """The running sums are those of a site added up from nothing."""
        site = self.world.site
        site.stirred |= site.tallies.refresh()
        plain = plain_tally(site)
        for feeder in site.tree.specs:
            told, expected = site.tallies[feeder], plain[feeder]
            for name, value in vars(expected).items():
                assert abs(getattr(told, name) - value) <= 0.01, (feeder, name, getattr(told, name), value)

    def _check_reservation(self, raises: list[Command]) -> None:
        site = self.world.site
        for device in site.devices.values():
            if device.actuation is not None and device.actuation.is_raise:
                device.reserved_w = max(device.reserved_w, device.may_reach_w(device.actuation.target))
                site.roster.count(device, math.inf, is_losing=False)
        site.stirred |= site.tallies.refresh()
        for feeder in site.tree.specs:
            below = [d for d in site.devices.values() if feeder in site.tree.paths[d.spec.feeder]]
            if any(command.device == d.spec.id for command in raises for d in below):
                assert site.tallies[feeder].total_reserved_w <= site.limit_w(feeder) + 1.0, feeder

    def _check_truth(self, raises: list[Command]) -> None:
        """Where the plant is truly heading, everything in flight gone the worst way, is under every limit."""
        plant, site = self.world.plant, self.world.site
        heading: dict[DeviceId, Watts] = {}
        for device in site.devices.values():
            miner = plant.miner(device.spec.id)
            lies = any(miner.has(lie) for lie in LASTING_LIES)
            restarted_at = self.restarted_at.get(device.spec.id, 0.0)
            is_unread_since = device.reading is None or device.reading.taken_at <= restarted_at
            is_unknowable = lies or is_unread_since
            heading[device.spec.id] = miner.power_w if is_unknowable else max(miner.power_w, miner.heading_w)
            if device.actuation is not None and device.actuation.is_raise:
                target_w = device.actuation.target.draw_w
                heading[device.spec.id] = max(heading[device.spec.id], target_w if not lies else 0.0)
        for feeder in site.tree.specs:
            below = [d.spec.id for d in site.devices.values() if feeder in site.tree.paths[d.spec.feeder]]
            if not any(command.device in below for command in raises):
                continue
            auxiliary_w = plant.true_feeder_power_w(feeder) - sum(plant.true_power_w(device) for device in below)
            total_w = sum(heading[device] for device in below) + auxiliary_w
            assert total_w <= site.limit_w(feeder) * (1 + NOISE) + 150, (feeder, total_w, site.limit_w(feeder))

    def check_true_power(self) -> None:
        """Rules 1 and 5: once the response time has passed, true power is under the limit, or the deficit is told."""
        if self.world.now - self.disturbed_at < RESPONSE_S:
            return
        steps["calm"] += 1
        site = self.world.site
        for feeder in site.tree.specs:
            told_w = max(site.deficits[member] for member in site.tree.specs if feeder in site.tree.paths[member])
            true_w = self.world.true_w(feeder)
            allowed_w = site.limit_w(feeder) * (1 + NOISE) + 150 + 1.15 * told_w
            assert true_w <= allowed_w, (feeder, true_w, site.limit_w(feeder), told_w)
            if told_w > 0:
                self._check_all_was_shed(feeder)

    def _check_all_was_shed(self, feeder: FeederId) -> None:
        """Rule 5: a deficit is told only when everything that obeys is at its lowest."""
        site = self.world.site
        if site.deficits[feeder] == 0:
            return
        for device in site.devices.values():
            if feeder in site.tree.paths[device.spec.feeder] and device.is_trusted:
                headed_for, points = device.headed_for(), device.spec.points
                assert points is not None
                floor = device.flex_floor()
                is_spared = floor is not None and headed_for is not None and headed_for.draw_w <= floor.draw_w
                assert headed_for == points.lowest or is_spared, (device.spec.id, headed_for, site.deficits[feeder])

    @invariant()
    def silence_is_safe(self) -> None:
        """Rule 7: without a heartbeat the fail-safe limit holds; it is never left by time alone."""
        world = self.world
        if self.heartbeat_lost_at is not None and world.now > self.heartbeat_lost_at + 125:
            recent = any(world.now - sent.issued_at <= 125 for sent in self.sent)
            if not recent:
                assert world.site.link.phase in (LinkPhase.FAILSAFE, LinkPhase.STARTING)
        if world.site.link.is_failsafe:
            assert world.site.limit_w(SITE) <= world.failsafe_w


SiteUnderFire.TestCase.settings = settings(
    max_examples=int(os.environ.get("CURTAILD_PROPERTY_EXAMPLES", "320")),
    stateful_step_count=45,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
TestSiteUnderFire = SiteUnderFire.TestCase


def test_the_machine_ran_long_enough() -> None:
    """Ten thousand steps at least, or the machine above proved little."""
    assert steps["rules"] >= 10_000, steps
    assert steps["calm"] >= 10_000, steps
