"""How a site's status looks in a terminal: shared by `curtaild status` and the demo's live view."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from curtaild.core.events import LinkPhase
from curtaild.core.limits import Limit
from curtaild.core.link import FAILSAFE
from curtaild.core.status import DeviceStatus, FeederStatus, SiteStatus
from curtaild.narrate import watts
from curtaild.telemetry.labels import claim
from curtaild_drivers.contract import FeederId, RunState, Watts

BAR_WIDTH = 28
MOST_TROUBLED = 8
"""So many devices in trouble are named, the others counted."""

PHASE_STYLES = {
    LinkPhase.STARTING: "yellow",
    LinkPhase.LIMITED: "bold cyan",
    LinkPhase.UNLIMITED: "bold green",
    LinkPhase.FAILSAFE: "bold yellow",
}
STATE_STYLES = {
    RunState.RUNNING: "green",
    RunState.STARTING: "cyan",
    RunState.IDLE: "yellow",
    RunState.ASLEEP: "blue",
    RunState.FAULT: "red",
    RunState.UNKNOWN: "magenta",
}
_EIGHTHS = " ▏▎▍▌▋▊▉"


def bar(value_w: Watts | None, limit_w: Watts, full_w: Watts, width: int = BAR_WIDTH) -> Text:
    """What is drawn, on a scale that ends at `full_w`: green under the limit, red above, the limit as a stroke."""
    full_w = max(full_w, 1.0)
    limit_at = round(width * min(1.0, limit_w / full_w))
    text = Text()
    filled = 0.0 if value_w is None else width * max(0.0, min(1.0, value_w / full_w))
    for cell in range(width):
        part = max(0.0, min(1.0, filled - cell))
        style = "red" if cell >= limit_at else "green"
        if cell == limit_at and part < 1.0:
            text.append("│", "bold yellow")
        elif part >= 1.0:
            text.append("█", style)
        elif part > 0.0:
            text.append(_EIGHTHS[int(part * 8)], style)
        else:
            text.append("·", "bright_black")
    text.append("│" if limit_at >= width else " ", "bold yellow")
    return text


def site_line(status: SiteStatus) -> Text:
    """The whole site in one line: link, limit, what is drawn, what is free or missing."""
    site = status.site
    text = Text()
    text.append("link ", "bright_black").append(status.phase.value, PHASE_STYLES[status.phase])
    text.append("   limit ", "bright_black").append(watts(site.limit_w), "bold yellow")
    text.append("   meter ", "bright_black").append_text(_metered(site))
    text.append("   reserved ", "bright_black").append(watts(site.limit_w - site.headroom_w))
    text.append("   headroom ", "bright_black").append(watts(site.headroom_w), "yellow" if site.headroom_w < 0 else "")
    if site.deficit_w:
        text.append("   deficit ", "bright_black").append(watts(site.deficit_w), "bold red")
    return text


def link_line(status: SiteStatus) -> Text:
    """Why the limit is what it is, and when it changes by itself."""
    text = Text(status.phase_reason or "nothing was heard of the grid yet")
    text.append(f"; limit by {_source(status.site)}")
    if status.heartbeat_age_s is not None:
        text.append(f"; last heartbeat {status.heartbeat_age_s:.0f} s ago")
    if status.next_limit_change_at is not None:
        text.append(f"; may change by itself in {max(0.0, status.next_limit_change_at - status.at):.0f} s")
    text.stylize("bright_black")
    return text


def feeders(status: SiteStatus, bar_width: int = BAR_WIDTH) -> Table:
    """The feeder tree with bars."""
    table = Table.grid(padding=(0, 1))
    for justify in ("left", "left", "right", "left", "right"):
        table.add_column(justify=justify, no_wrap=True)
    for feeder, depth in _tree(status.feeders, None, 0):
        drawn_w = feeder.metered_w if feeder.meter_is_fresh else None
        shown_w = drawn_w if drawn_w is not None else feeder.limit_w - feeder.headroom_w
        ceiling = "limit" if isinstance(feeder.ceiling, Limit) else "rating"
        table.add_row(
            Text(f"{'  ' * depth}{feeder.id}", "bold" if depth == 0 else ""),
            bar(shown_w, feeder.limit_w, feeder.rating_w, bar_width),
            _metered(feeder) if feeder.meter_is_fresh else Text(f"≤ {watts(shown_w)}", "bright_black"),
            Text(f"of {watts(feeder.limit_w)} {ceiling}", "bright_black"),
            Text(f"{feeder.devices} devices", "bright_black"),
        )
    return table


def _tree(
    all_feeders: Sequence[FeederStatus], parent: FeederId | None, depth: int
) -> Iterable[tuple[FeederStatus, int]]:
    for feeder in all_feeders:
        if feeder.parent == parent:
            yield feeder, depth
            yield from _tree(all_feeders, feeder.id, depth + 1)


def devices(status: SiteStatus) -> Table:
    """Each group of devices by what they do. A device's id is group/address."""
    groups: dict[str, list[DeviceStatus]] = {}
    for device in status.devices:
        groups.setdefault(device.id.partition("/")[0], []).append(device)
    present = [state for state in RunState if any(device.state is state for device in status.devices)]
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bright_black")
    table.add_column("devices", no_wrap=True)
    for state in present:
        table.add_column(state.value, justify="right", style=STATE_STYLES[state])
    for heading in ("draw", "told to move", "in trouble"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, members in groups.items():
        counts = Counter(device.state for device in members)
        drawn = [device.power_w for device in members if device.power_w is not None]
        moving = sum(device.actuation is not None for device in members)
        troubled = sum(_is_sick(device) for device in members)
        table.add_row(
            name,
            *(str(counts[state]) if counts[state] else Text("·", "bright_black") for state in present),
            watts(sum(drawn)) if drawn else Text("not measured", "bright_black"),
            str(moving) if moving else Text("·", "bright_black"),
            Text(str(troubled), "bold red") if troubled else Text("·", "bright_black"),
        )
    return table


def _is_sick(device: DeviceStatus) -> bool:
    return bool(device.conditions) or device.is_at_fault


def _own_words(device: DeviceStatus) -> list[str]:
    if device.fault is not None:
        return [f"says: {claim(device.fault)}"]
    return ["says it has a fault"] if device.is_at_fault else []


def troubled(status: SiteStatus) -> list[Text]:
    """The devices in trouble, each with its reasons."""
    lines: list[Text] = []
    sick = [device for device in status.devices if _is_sick(device)]
    for device in sick[:MOST_TROUBLED]:
        reasons = ", ".join(
            [*(condition.value.replace("_", " ") for condition in device.conditions), *_own_words(device)]
        )
        age_s = device.age_s(status.at)
        age = f", last read {age_s:.0f} s ago" if age_s is not None else ", never read"
        line = Text("! ", "bold red").append(device.id, "bold").append(f": {reasons}", "red")
        lines.append(line.append(f"; counted at {watts(device.reserved_w)}{age}", "bright_black"))
    if len(sick) > MOST_TROUBLED:
        lines.append(Text(f"  and {len(sick) - MOST_TROUBLED} more in trouble", "red"))
    return lines


def whole(status: SiteStatus) -> Group:
    """Everything `curtaild status` shows."""
    parts: list[RenderableType] = [site_line(status), link_line(status), Text(), feeders(status), Text()]
    if status.devices:
        parts += [devices(status), Text()]
    moving = status.actuations_in_flight
    flexible = f"could go down by {watts(status.flexible_down_w)}, up by {watts(status.flexible_up_w)}"
    parts.append(Text(f"{moving} actuation{'' if moving == 1 else 's'} in flight; the devices {flexible}"))
    return Group(*parts, *troubled(status))


def _metered(feeder: FeederStatus) -> Text:
    if feeder.metered_w is None:
        return Text("none", "bright_black")
    if not feeder.meter_is_fresh:
        return Text("stale", "bold red")
    return Text(watts(feeder.metered_w), "bold red" if feeder.metered_w > feeder.limit_w * 1.01 else "bold green")


def _source(feeder: FeederStatus) -> str:
    if feeder.limit_source == FAILSAFE:
        return "the fail-safe"
    return "the feeder's rating" if feeder.limit_source == "rating" else f"allocation {feeder.limit_source}"
