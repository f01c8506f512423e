"""The report as one HTML file that needs nothing else: pictures inline, light and dark, fit to be printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from curtaild.narrate import watts
from curtaild.rehearse.chart import Line, legend, over_time
from curtaild.rehearse.score import Overshoot, Response
from curtaild.rehearse.summary import Summary
from curtaild.rehearse.table import MOST_RESPONSES, PARTS
from curtaild.rehearse.trace import SLOT_S
from curtaild_drivers.contract import Seconds

SHOWN_BEFORE_S = 15
LEAST_SHOWN_S = 60.0
"""What an answer's picture shows before its limit begins, and after it at least."""

_STYLE = """
:root { --ink:#1d232b; --soft:#5d6875; --line:#e2e6ea; --paper:#fff; --card:#f7f8fa; --good:#1f7a4d; --bad:#c0272d;
  --limit:#d4870b; --true:#1f6fb2; --reserved:#9aa7b4; --metered:#7fb7dd; }
@media (prefers-color-scheme: dark) { :root { --ink:#e8ecf1; --soft:#9aa7b4; --line:#2d353f; --paper:#14181d;
  --card:#1b2128; --good:#4cc38a; --bad:#ff6b6b; --limit:#f0b04a; --true:#63b3f2;
  --reserved:#66727f; --metered:#3c6f94; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1120px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .4rem; }
p.says { color: var(--soft); margin: .2rem 0 1.2rem; } p.note { color: var(--soft); font-size: .9rem; }
.verdict { font-weight: 600; padding: .6rem .9rem; border-left: 4px solid; background: var(--card); }
.kept { border-color: var(--good); color: var(--good); } .broken { border-color: var(--bad); color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: .7rem; margin: 1.2rem 0; }
.tile { background: var(--card); padding: .8rem .9rem; border-radius: 6px; }
.tile b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; } .tile span { color: var(--soft); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; } th { color: var(--soft); font-weight: 600; }
svg { width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 12px; }
.grid { stroke: var(--line); } .mark { fill: var(--bad); opacity: .18; }
polyline { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
polyline.limit { stroke: var(--limit); stroke-width: 2; } polyline.true { stroke: var(--true); }
polyline.reserved { stroke: var(--reserved); stroke-dasharray: 5 4; } polyline.metered { stroke: var(--metered); }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: .6rem 1rem;
  margin-top: 1rem; }
figure { margin: 0; } figcaption { color: var(--soft); font-size: .9rem; text-align: center; }
.legend { margin: .1rem 0 0; } .key { margin-right: 1.3rem; color: var(--soft); font-size: .9rem; }
.swatch { display: inline-block; width: 1.1em; height: .6em; margin-right: .4em; border-radius: 2px; }
.swatch.limit { background: var(--limit); } .swatch.true { background: var(--true); }
.swatch.reserved { background: var(--reserved); } .swatch.metered { background: var(--metered); }
"""


def page(summary: Summary) -> str:
    """The whole page."""
    play, scored = summary.rehearsal.play, summary.score
    name = summary.rehearsal.emulated.site.name
    sections = [
        f"<h1>{escape(name)}: {escape(play.name)} rehearsed</h1>",
        f'<p class="says">{escape(play.says)}; {len(summary.rehearsal.emulated.devices)} devices, '
        f"{watts(summary.rehearsal.emulated.capacity.demand_w)} when nothing limits them</p>",
        _verdict(summary),
        _tiles(summary),
        "<h2>Limit and draw</h2>",
        over_time(_power_lines(summary), 1.0, unit="W", marks=_broken_times(summary), height=340),
        '<p class="note">Held as possible: the most the site could have been drawing as far as the daemon knew. '
        f"What may be judged begins {scored.grace_s:g} s after a limit fell.</p>",
        "<h2>Power by group</h2>",
        over_time(
            [Line(group, values, "") for group, values in summary.rehearsal.trace.groups_w.items()],
            SLOT_S,
            unit="W",
            stacked=True,
        ),
        *_responses(summary),
        "<h2>Where the energy went that was allowed and not used</h2>",
        _table(("", "kWh", "of allowed"), _lost_rows(summary)),
        "<h2>Feeders</h2>",
        _table(("feeder", "intervals over", "for certain", "worst", "energy over"), _feeder_rows(summary)),
        "<h2>What would hold a response up</h2>",
        _table(("group", "model", "shed seen after", "at worst", "device", "misbehaving"), _slow_rows(summary)),
        "<h2>What the site was taken for</h2>",
        _table(
            ("group", "devices", "model", "because"),
            ((a.group, str(a.count), a.model, a.because) for a in summary.rehearsal.emulated.assumed),
        ),
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>{escape(name)}: {escape(play.name)}</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(sections)}</body></html>\n"
    )


def _verdict(summary: Summary) -> str:
    if summary.score.is_broken:
        return '<p class="verdict broken">A limit would be broken.</p>'
    return '<p class="verdict kept">Every limit would be kept.</p>'


def _tiles(summary: Summary) -> str:
    scored = summary.score
    falls = [each.within_s for each in scored.responses if each.lowers and each.within_s is not None]
    share = summary.value_share
    tiles = [
        (f"{100 * scored.utilisation:.1f} %", "energy used, of what was allowed"),
        (f"{100 * share:.1f} %", "earned, of the most possible")
        if share is not None
        else (f"{scored.earned:,.1f} {summary.unit}", f"earned (most possible: {summary.unsolved})"),
        (f"{max(falls):.0f} s" if falls else "–", "within the limit, at the latest"),
        (
            f"{scored.actuations:,}",
            "actuations" + (f"; {summary.least:,} would have done" if summary.least is not None else ""),
        ),
        (f"{scored.overshoot[summary.root].energy_wh:,.1f} Wh", "over the limit after the grace"),
    ]
    return (
        '<div class="tiles">'
        + "".join(
            f'<div class="tile"><b>{escape(value)}</b><span>{escape(label)}</span></div>' for value, label in tiles
        )
        + "</div>"
    )


def _power_lines(summary: Summary) -> Sequence[Line]:
    trace, demand_w = summary.rehearsal.trace, summary.rehearsal.emulated.capacity.demand_w
    return (
        Line("held as possible", [min(value, 1.2 * demand_w) for value in trace.reserved_w], "reserved"),
        Line("the site's meter", trace.metered_w, "metered"),
        Line("true draw", trace.true_w, "true"),
        Line("limit", [min(value, 1.1 * demand_w) for value in trace.limit_w], "limit"),
    )


def _broken_times(summary: Summary) -> list[tuple[float, float]]:
    return [(at_s, at_s + SLOT_S) for at_s in summary.score.overshoot[summary.root].broken_at_s]


def _responses(summary: Summary) -> Iterable[str]:
    responses = summary.score.responses
    if not responses:
        return
    shown = responses if len(responses) <= MOST_RESPONSES else summary.slowest_responses(MOST_RESPONSES)
    yield "<h2>How fast the site answered</h2>"
    if len(responses) > MOST_RESPONSES:
        falls = sum(each.lowers for each in responses)
        yield f'<p class="note">The {len(shown)} slowest of {falls} lower limits.</p>'
    rows = (
        (_clock(e.at_s), watts(e.from_w), watts(e.to_w), _s(e.first_s), _s(e.most_s), _s(e.within_s)) for e in shown
    )
    yield _table(("at", "from", "to", "begun", "90 %", "within the limit"), rows)
    pictures = [_answer(summary, response) for response in shown]
    yield f'<div class="answers">{"".join(pictures)}</div>{legend(_answer_lines(summary, 0, 0))}'


def _answer(summary: Summary, response: Response) -> str:
    """One answer, close up: seconds count from when the limit began."""
    trace = summary.rehearsal.trace
    times = (response.first_s, response.most_s, response.within_s)
    shown_s = max(LEAST_SHOWN_S, 1.3 * max((each for each in times if each is not None), default=0.0))
    later = (order.at_s for order in summary.rehearsal.play.orders if order.at_s > response.at_s)
    begin = max(0, int(response.at_s) - SHOWN_BEFORE_S)
    end = int(min(response.at_s + shown_s, *later, trace.seconds))
    picture = over_time(
        _answer_lines(summary, begin, end),
        1.0,
        unit="W",
        width=520,
        height=190,
        begins_s=begin - response.at_s,
        has_legend=False,
    )
    said = f"{_clock(response.at_s)}: {watts(response.from_w)} to {watts(response.to_w)}"
    return f"<figure>{picture}<figcaption>{said}</figcaption></figure>"


def _answer_lines(summary: Summary, begin: int, end: int) -> Sequence[Line]:
    trace, demand_w = summary.rehearsal.trace, summary.rehearsal.emulated.capacity.demand_w
    return (
        Line("the site's meter", trace.metered_w[begin:end], "metered"),
        Line("true draw", trace.true_w[begin:end], "true"),
        Line("limit", [min(value, 1.1 * demand_w) for value in trace.limit_w[begin:end]], "limit"),
    )


def _lost_rows(summary: Summary) -> Iterable[Sequence[str]]:
    allowed_wh = summary.score.allowed_wh or 1.0
    for part, energy_wh in sorted(summary.lost_wh.items(), key=lambda item: -item[1]):
        yield PARTS[part], f"{energy_wh / 1e3:,.2f}", f"{100 * energy_wh / allowed_wh:.2f} %"


def _feeder_rows(summary: Summary) -> Iterable[Sequence[str]]:
    for feeder, over in summary.score.overshoot.items():
        yield feeder, *_over(over)


def _over(over: Overshoot) -> tuple[str, str, str, str]:
    return str(over.slots), str(over.broken), watts(over.worst_w), f"{over.energy_wh:.1f} Wh"


def _slow_rows(summary: Summary) -> Iterable[Sequence[str]]:
    for slow in summary.slow:
        times = f"{slow.median_s:.0f} s", f"{slow.worst_s:.0f} s"
        yield slow.group, slow.model, *times, slow.worst_device, str(slow.misbehaving)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _clock(at_s: Seconds) -> str:
    whole = round(at_s)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def _s(value: Seconds | None) -> str:
    return "–" if value is None else f"{value:.0f} s"
