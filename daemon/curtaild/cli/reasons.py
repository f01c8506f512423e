"""`curtaild status --why DEVICE`: how the explanation of one device looks in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import aiohttp
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from curtaild.cli.look import NoDaemon, NoSuchDevice, fetch_status, fetch_why
from curtaild.telemetry.status_json import Json
from curtaild_config.problems import suggest

WIDTH = 110


async def explain(session: aiohttp.ClientSession, url: str, device: str) -> Json:
    """The daemon's explanation of `device`, which may also be named by its address alone. Raises `NoDaemon` and
    `NoSuchDevice`, the latter with the nearest name."""
    try:
        return await fetch_why(session, url, device)
    except NoSuchDevice as unknown:
        names = [known.id for known in (await fetch_status(session, url)).devices]
        alike = [name for name in names if name.rpartition("/")[2] == device]
        if len(alike) == 1:
            return await fetch_why(session, url, alike[0])
        if alike:
            raise NoSuchDevice(f"{device!r} may be any of {', '.join(alike)}: name one of them") from None
        raise NoSuchDevice(f"{unknown}; {suggest(device, names)}") from None


def shown(why: Json) -> RenderableType:
    """For people. Raises `NoDaemon` where the answer is not that of a daemon of this version."""
    try:
        return Group(*_parts(why))
    except (KeyError, TypeError, AttributeError) as missing:
        raise NoDaemon(f"the daemon does not answer as a curtaild of this version does: {missing}") from None


def _parts(why: Json) -> Iterator[RenderableType]:
    yield Text(f"{why['device']} on {why['feeder']}", "bold")
    yield _section("Where it stands", why["stands"])
    for condition in why["conditions"]:
        yield Text(
            f"  {condition['condition']} since {condition['since'] or '?'}: {condition['evidence'] or '?'}", "yellow"
        )
    yield _section("When it is shed", why["sheds"])
    if why["may_rise"]:
        yield _section("Whether it may rise", ["Nothing holds it: it rises in its turn."])
    else:
        yield _section("What keeps it from rising", [f"{reason[:1].upper()}{reason[1:]}." for reason in why["held_by"]])
    if why["deeds"]:
        yield Text("\nWhat the ledger says of it", "bold cyan")
        yield _deeds(why["deeds"])
    if why["diverged"] or why["refused"]:
        yield Text(f"  Lately it did not obey {why['diverged']} ×, and refused {why['refused']} ×.", "yellow")
    if why["ledger_trouble"]:
        yield Text(f"  {why['ledger_trouble']}", "red")


def _section(title: str, sentences: Iterable[str]) -> Text:
    text = Text(f"\n{title}", "bold cyan")
    for sentence in sentences:
        text.append(f"\n  {sentence}", "default not bold")
    return text


def _deeds(deeds: Iterable[Json]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("at", "what", "to", "stage", "because, or what it did"):
        table.add_column(heading, overflow="fold")
    for deed in deeds:
        to = f"{deed['target']} ({deed['target_w']:.0f} W)" if deed["target"] is not None else ""
        because = deed["detail"] or deed["rule"] or ""
        if deed["allocation_id"] is not None and not deed["detail"]:
            because += f" ({deed['allocation_id']})"
        table.add_row(deed["at"], deed["what"], to, deed["stage"], because)
    return table
