"""`curtaild rehearse`: a site's own file against an emulated plant, in virtual time."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from curtaild_config import SiteFileError, load_site

if TYPE_CHECKING:
    from curtaild.rehearse.emulated import Emulated
    from curtaild.rehearse.play import Play
    from curtaild.rehearse.playfile import PlayFile

SIGNALS = "steps, ramps, regulation, base-points, emergency, solar, load-shedding"
WIDTH = 120


def command(
    site: Annotated[Path, typer.Argument(help="The site file.")],
    events: Annotated[
        Path | None, typer.Option("--events", help="A TOML file of [[event]] tables: at_s, limit_w or share, lasts_s …")
    ] = None,
    day: Annotated[
        str | None,
        typer.Option("--day", help="A whole day (2026-08-15): the sun, the evening peak, clouds."),
    ] = None,
    signal: Annotated[
        str | None, typer.Option("--signal", help=f"One of {SIGNALS}; or a CSV file with the head at_s,limit_w.")
    ] = None,
    faults: Annotated[
        str,
        typer.Option(
            "--faults",
            help="What goes wrong in it: devices=10%, bias=3%, meter_noise=0.5%, loss_s=60, loss_every_s=3600.",
        ),
    ] = "",
    model: Annotated[
        list[str] | None, typer.Option("--model", help="What to take a group for: GROUP=MODEL, as often as needed.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write the report with its pictures here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result for machines: W, Wh, s.")] = False,
    solve: Annotated[
        bool,
        typer.Option("--optimum/--no-optimum", help="Compare with the best a solver finds, if it is installed."),
    ] = True,
    speed: Annotated[
        float | None, typer.Option("--speed", min=1.0, help="Virtual seconds per second at most; left out: all it can.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same units, noise and faults.")] = 1,
) -> None:
    """Will this site make it, how fast, and what does it cost? Your own site file, emulated, in virtual time.

    \b
    Every device of the file becomes an emulated miner or GPU node on its feeder; the daemon's own thinking, the very
    same code, polls and commands them while the grid says what you choose. Nothing is sent anywhere.

    \b
    To begin with, and then harder:

    \b
        curtaild rehearse site.toml --signal steps --html report.html
        curtaild rehearse site.toml --day 2026-08-15
        curtaild rehearse site.toml --signal regulation --faults devices=10%,bias=3%,loss_s=60
        curtaild rehearse site.toml --events contract.toml --json

    \b
    The signals: **steps** of all sizes, ten minutes each · **ramps** of a quarter of an hour · **regulation**, a set
    point every 4 s · **base-points** every 5 min that walk and jump, as ERCOT's · **emergency** cuts out of the blue ·
    **solar**, from dawn to dusk on what the sun gives · **load-shedding**, an hour on, an hour at 15 %.

    \b
    An events file says what a contract says:

    \b
        [[event]]
        at_s = 600              # seconds from the start
        share = 0.5             # of what can be shed; or limit_w = 250_000; neither: released
        lasts_s = 900           # left out: until the next event
        announced_s = 300       # how long before it is told
        reach_by_s = 60

    \b
    Exit code 1: a limit would be broken, seen over 4 s and after the response time, by more than a meter's accuracy.
    2: a file or an option is wrong. How the limit is kept: docs/control.md.
    """
    # only here: a daemon that starts again in the middle of a shed shall not load an emulator first
    from curtaild.rehearse.emulated import CannotEmulate, emulate
    from curtaild.rehearse.page import page
    from curtaild.rehearse.playfile import BadPlay
    from curtaild.rehearse.run import rehearse
    from curtaild.rehearse.summary import summarise
    from curtaild.rehearse.table import tables, verdict
    from curtaild.rehearse.troubles import BadTroubles, Troubles

    try:
        file = _play_file(events, day, signal)
        config = load_site(site)
        troubles = Troubles.parse(faults)
        chosen: dict[str, str] = {}
        if file is not None:
            chosen |= file.models
            troubles = Troubles.of({**file.faults, **Troubles.named(faults)})
        emulated = emulate(config, chosen | _models(model or []), troubles, seed)
        play = _play(file, day, signal, emulated)
    except SiteFileError as error:
        _refuse("\n".join(str(problem) for problem in error.problems))
    except (BadPlay, BadTroubles, CannotEmulate) as error:
        _refuse(str(error))
    with _told(play.duration_s, speed) as progress:
        rehearsal = rehearse(emulated, play, troubles, seed, progress=progress)
        summary = summarise(rehearsal, solve=solve)
    if html is not None:
        try:
            html.write_text(page(summary), encoding="utf-8")
        except OSError as error:
            _refuse(f"{html}: {error.strerror or error}")
    if as_json:
        print(json.dumps(summary.document(), indent=2))
    else:
        console = Console(width=None if sys.stdout.isatty() else WIDTH)
        console.print(tables(summary))
        console.print(verdict(summary))
    raise typer.Exit(1 if summary.score.is_broken else 0)


def _refuse(text: str) -> Any:
    typer.echo(text, err=True)
    raise typer.Exit(2) from None


def _models(pairs: list[str]) -> dict[str, str]:
    from curtaild.rehearse.emulated import CannotEmulate

    chosen: dict[str, str] = {}
    for pair in pairs:
        group, separator, name = pair.partition("=")
        if not separator:
            raise CannotEmulate(f"--model {pair}: write --model GROUP=MODEL")
        chosen[group.strip()] = name.strip()
    return chosen


def _play_file(events: Path | None, day: str | None, signal: str | None) -> PlayFile | None:
    """The file to play, `None` where the play is made by code. Raises `BadPlay`."""
    from curtaild.rehearse.playfile import BadPlay, read_events, read_signal
    from curtaild.rehearse.signals import SIGNALS as KNOWN
    from curtaild_config.problems import suggest

    if sum(choice is not None for choice in (events, day, signal)) != 1:
        raise BadPlay(f"say what to play: one of --events FILE, --day DATE, --signal NAME ({SIGNALS})")
    if events is not None:
        return read_events(events)
    if signal is None or signal in KNOWN:
        return None
    path = Path(signal)
    if path.suffix != ".csv" and not path.exists():
        raise BadPlay(f"no signal {signal!r}, and no file of that name; {suggest(signal, KNOWN)}")
    return read_signal(path)


def _play(file: PlayFile | None, day: str | None, signal: str | None, emulated: Emulated) -> Play:
    from curtaild.rehearse.days import day_of
    from curtaild.rehearse.playfile import BadPlay
    from curtaild.rehearse.signals import SIGNALS as KNOWN

    if file is not None:
        return file.play(emulated.capacity, emulated.tree.specs)
    if day is not None:
        try:
            return day_of(date.fromisoformat(day), emulated.capacity)
        except ValueError:
            raise BadPlay(f"--day {day}: no date; write it as 2026-08-15") from None
    assert signal is not None
    return KNOWN[signal](emulated.capacity)


@contextmanager
def _told(duration_s: float, speed: float | None) -> Iterator[Callable[[float], None]]:
    """Shows how far it has come where a person looks, and keeps to `speed`."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[pace]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("rehearsing", total=duration_s, pace="")
        began = time.monotonic()

        def progress(at_s: float) -> None:
            took_s = time.monotonic() - began
            if speed is not None and at_s / speed > took_s:
                time.sleep(at_s / speed - took_s)
            bar.update(task, completed=at_s, pace=f"{at_s / max(took_s, 1e-3):,.0f} × real time")
            if at_s >= duration_s:
                bar.update(task, description="comparing", pace="with the best possible")

        yield progress
