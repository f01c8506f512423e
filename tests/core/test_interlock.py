"""Fans before restore: no stopped device starts before what cools it was seen running."""

from __future__ import annotations

from core.rig import PLENTY_W, ROW_A, ROW_B, SITE, SLIDER, SWITCH, PaperSite, spec_of
from curtaild.core.cycle import Decision
from curtaild.core.events import InterlockChanged
from curtaild.core.feeders import FeederSpec, FeederTree, InterlockSpec
from curtaild_drivers.contract import DeviceId, FeederId, Watts


def site_with_fans(
    fans_w: Watts = 500.0, rating_w: Watts = PLENTY_W, more: tuple[str, ...] = (), fans: bool | None = None
) -> PaperSite:
    """Row A has fans, row B has none; a device sleeps in each, and `more` in row B."""
    tree = FeederTree(
        [
            FeederSpec(SITE, None, rating_w),
            FeederSpec(ROW_A, SITE, PLENTY_W, interlock=InterlockSpec(fans_w, stale_after_s=20.0)),
            FeederSpec(ROW_B, SITE, PLENTY_W),
        ]
    )
    specs = [spec_of("a", SWITCH, ROW_A), *(spec_of(name, SWITCH, ROW_B) for name in ("b", *more))]
    site = PaperSite(tree=tree, specs=specs, points={spec.id: SWITCH.lowest for spec in specs})
    if fans is not None:
        site.fans[ROW_A] = fans
    site.tick(site.states(None))
    return site


def ticks(site: PaperSite, seconds: int) -> list[Decision]:
    return [site.tick() for _ in range(seconds)]


def started(decisions: list[Decision]) -> set[FeederId]:
    return {feeder for decision in decisions for feeder in decision.starts}


def test_nobody_starts_before_the_fans_were_seen() -> None:
    site = site_with_fans()
    assert started(ticks(site, 10)) == set()  # unknown is not standing still: they are not switched blindly
    assert [device for _, device, _ in site.told()] == ["b"]
    site.fans[ROW_A] = False
    assert started(ticks(site, 3)) == {ROW_A}
    assert [device for _, device, _ in site.told()] == ["b"]
    site.fans[ROW_A] = True
    site.run(3)
    assert [device for _, device, _ in site.told()] == ["b", "a"]
    told = [event for event in site.events if isinstance(event, InterlockChanged)]
    assert [(event.feeder, event.is_running) for event in told] == [(ROW_A, False), (ROW_A, True)]


def test_old_word_starts_nobody() -> None:
    site = site_with_fans(rating_w=500.0)  # no room for any
    site.fans[ROW_A] = True
    site.run(5)
    del site.fans[ROW_A]
    site.run(25)
    site.site.tree.specs[SITE] = FeederSpec(SITE, None, PLENTY_W)
    site.run(5)
    assert [device for _, device, _ in site.told()] == ["b"]


def test_fans_are_not_started_without_room_for_what_they_draw() -> None:
    site = site_with_fans(fans_w=1_200.0, rating_w=2_100.0)
    site.fans[ROW_A] = False
    decisions = ticks(site, 20)
    assert started(decisions) == set()
    assert [device for _, device, _ in site.told()] == ["b"]


def test_what_fans_will_draw_is_given_to_nobody_while_they_start() -> None:
    """2,850 W less 900 are enough for one device and not for two."""
    site = site_with_fans(fans_w=900.0, rating_w=2_850.0, more=("c",), fans=False)
    site.run(20)
    assert site.site.interlocks[ROW_A].asked_at == site.start + 1.0
    assert [device for _, device, _ in site.told()] == ["b"]


def test_devices_at_work_are_raised_without_asking() -> None:
    """A device that runs is cooled already, or protects itself."""
    tree = FeederTree([FeederSpec(SITE, None, PLENTY_W, interlock=InterlockSpec(500.0, 20.0))])
    site = PaperSite(tree=tree, specs=[spec_of("a", SLIDER)], points={DeviceId("a"): SLIDER.points[1]})
    site.tick(site.states(None))
    site.run(5)
    assert site.watts("a") == 3_000.0


def test_a_reload_keeps_what_was_seen() -> None:
    site = site_with_fans(rating_w=500.0)
    site.fans[ROW_A] = True
    site.tick()
    known = site.site.interlocks[ROW_A]
    site.site.reconfigure(site.tree, [spec_of("a", None, ROW_A)], site.site.link.policy, site.policy)
    assert site.site.interlocks[ROW_A] is known
