"""Writes docs/metrics.md, the reference of `/metrics` and `/status`: `python -m curtaild.telemetry.reference`."""

from __future__ import annotations

import sys

from curtaild.telemetry.metrics import SECTIONS, Metric

_HEAD = """# Metrics and status

What `curtaild` exposes at `/metrics`, in the Prometheus text format or, where the scraper asks for it, in OpenMetrics.

This page is generated from `daemon/curtaild/telemetry/metrics.py` (`python -m curtaild.telemetry.reference`).

- Units are SI and stand at the end of the name. A metric without a unit is a count, a share, or 0/1.
- What is unknown has no sample. It is never 0.
- The root of the feeder tree is the feeder whose `curtaild_feeder_info` has an empty `parent`:
  `curtaild_feeder_limit_watts and on (instance, feeder) curtaild_feeder_info{parent=""}` is the site's limit.
- `_info` metrics are always 1 and carry labels to join:
  `curtaild_device_power_watts * on (instance, device) group_left (model) curtaild_device_info` is power by model.
- Which site a series is of is the scraper's to say: see `config/prometheus/prometheus.yml`.
- Beside these, the usual `process_*` metrics say what the daemon's process uses.
"""

_STATUS_HEAD = """
## The status as JSON

`/status` answers one object; with `?devices=0` it leaves out `devices`. Keys carry their unit: `_w` watts,
`_s` seconds, `_c` °C. Unknown is null. Keys may be added; none changes its meaning. Before the first
cycle the answer is 503.
"""

STATUS_KEYS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "The site",
        (
            ("at_s", "when this was so, on the daemon's monotonic clock: to be compared with other such moments only"),
            ("phase", "the grid link: `starting`, `limited`, `unlimited` or `failsafe`"),
            ("phase_reason", "why the link is there"),
            ("root", "the feeder that the grid bills"),
            ("heartbeat_age_s", "since the grid's last heartbeat; null before the first"),
            ("allocation_id", "the allocation in force, or null"),
            ("flexible_up_w", "how far the devices' draw could be raised"),
            ("flexible_down_w", "how far the devices' draw could be lowered"),
            ("actuations_in_flight", "issued and not yet at their end"),
            ("next_limit_change_at_s", "moment of the next known change of a limit, on the clock of `at_s`, or null"),
            ("next_limit_change_in_s", "time from now to that change, or null"),
            ("links", "list, see below"),
            ("feeders", "list, see below"),
            ("devices", "list, see below"),
        ),
    ),
    (
        "A link to one broker of the grid's",
        (
            ("connection", "its name in the site file; `native` is that of `[grid]`"),
            ("broker", "the broker's URL"),
            ("connected", "whether it is connected now"),
            ("for_s", "for how long that has been so"),
            ("last_error", "why it is not, in words; null while it is"),
            ("is_heard", "whether what the site says comes back; false: an access list swallows it; null: not known"),
            ("reconnects", "connections made after the first"),
            ("received", "messages read"),
            ("rejected", "messages not taken"),
            ("dropped", "messages overtaken unread by newer ones, and answers given up"),
        ),
    ),
    (
        "A feeder",
        (
            ("id", "its name in the site file"),
            ("parent", "the feeder above it; null at the root"),
            ("rating_w", "what its copper carries"),
            ("limit_w", "the ceiling in force, the rating counted"),
            ("ceiling_w", "the ceiling as stated; null: nobody limits it. 0 is a limit"),
            ("limit_source", "an allocation's id, `fail-safe` or `rating`"),
            ("metered_w", "the meter's last valid word, fresh or not; null without one"),
            ("meter_is_fresh", "whether `metered_w` may be trusted"),
            ("meter_age_s", "age of `metered_w`"),
            ("measured_w", "sum of what its devices report"),
            ("reserved_w", "the most its devices may be drawing as far as is known"),
            ("planned_w", "what its devices will draw once all actuations have settled"),
            ("auxiliary_w", "estimated draw beside the devices"),
            ("headroom_w", "limit less what is drawn or reserved"),
            ("deficit_w", "what the limit asks to shed and the site cannot"),
            ("curtailed_w", "what the devices would draw unlimited less what they may"),
            ("devices", "how many devices are under it"),
        ),
    ),
    (
        "A device",
        (
            ("id", "its name in the site file"),
            ("feeder", "the feeder it is on"),
            ("state", "`running`, `idle`, `starting`, `asleep`, `fault` or `unknown`"),
            ("power_w", "wall power it reports; null where it reports none"),
            ("reserved_w", "the most it may be drawing as far as is known"),
            ("rated_w", "the most its model draws"),
            ("rate", "H/s of an ASIC miner, fraction of full (0 to 1) of a GPU node"),
            ("temperature_c", "the hottest it reports"),
            ("setpoint", "key of the operating point the daemon wants, or null"),
            ("setpoint_w", "draw of that point"),
            ("confirmed", "key of the last point that telemetry confirmed, or null"),
            ("actuation", "stage of the newest actuation, or null"),
            ("is_stale", "whether its last reading is too old to trust"),
            ("drawn_at_s", "when its last reading was asked, on the clock of `at_s`; null before the first"),
            ("age_s", "age of its last reading; null before the first"),
            ("conditions", "what is the matter with it: list of words, empty if nothing"),
            ("fault", "what it says itself is the matter with it; null if nothing"),
        ),
    ),
)


_WHY_HEAD = """
## One device explained

`/why?device=NAME` answers why a device stands where it stands; `curtaild status --why NAME` shows it. The rules behind
the sentences are in [control.md](control.md). 404: the site has no such device.

| key | meaning |
|---|---|
"""

WHY_KEYS = (
    ("device", "its name in the site file"),
    ("feeder", "the feeder it is on"),
    ("conditions", "what is the matter with it: `condition`, `since` (RFC 3339) and `evidence` of each"),
    ("place", "its place in the order in which the site would be shed, 1 first; null where it is not in it"),
    ("of", "how many are in that order"),
    ("target", "key of the operating point that its next step down leads to, or null"),
    ("target_w", "draw of that point"),
    ("frees_w", "what that step frees"),
    ("ahead", "who goes just before it"),
    ("may_rise", "whether nothing keeps it from rising"),
    ("stands", "sentences: where it stands, what it reports, what is reserved for it"),
    ("sheds", "sentences: when its turn to be shed comes, and by which rule"),
    ("held_by", "sentences: every rule that keeps it from rising"),
    ("deeds", "the newest records of it in the ledger: commands with their rule, and conditions"),
    ("diverged", "commands of late that it acknowledged and did not obey"),
    ("refused", "commands of late that it refused"),
    ("ledger_trouble", "why the ledger could not be read, or null"),
)


def page() -> str:
    """The whole of docs/metrics.md."""
    parts = [_HEAD]
    for title, section in SECTIONS:
        parts.append(f"\n## {title}\n\n| metric | type | labels | unit | meaning |\n|---|---|---|---|---|\n")
        parts.extend(_row(metric) for metric in section)
    parts.append(_STATUS_HEAD)
    for title, keys in STATUS_KEYS:
        parts.append(f"\n### {title}\n\n| key | meaning |\n|---|---|\n")
        parts.extend(f"| `{key}` | {meaning} |\n" for key, meaning in keys)
    parts.append(_WHY_HEAD)
    parts.extend(f"| `{key}` | {meaning} |\n" for key, meaning in WHY_KEYS)
    return "".join(parts)


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    cells = (f"`{metric.name}`", metric.kind.value, labels, metric.unit, metric.help)
    return "| " + " | ".join(cells) + " |\n"


if __name__ == "__main__":
    sys.stdout.write(page())
