"""How a probed device looks in a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from curtaild.narrate import watts
from curtaild.survey.exercise import IN_A_ROW, TOLERANCE, Step, found_at, name_of
from curtaild.survey.exercise import CannotExercise as NotSaid
from curtaild_drivers import registry
from curtaild_drivers.contract import Capabilities, Identity, OperatingPoint, OperatingPoints, Reading, Seconds
from curtaild_drivers.maturity import Maturity

_LABEL_WIDTH = 10
_SCALES = ((1e12, "TH/s"), (1e9, "GH/s"), (1e6, "MH/s"))


def show_identity(screen: Console, address: str, driver: str, identity: Identity) -> None:
    """Who it is, and how far the code that speaks to it has been proven."""
    name = " ".join(filter(None, (identity.make, identity.model))) or "A device of unknown model"
    screen.print(Text(name, "bold").append(f" at {address}", "default"))
    _line(screen, "firmware", f"{identity.firmware} {identity.version}".strip())
    if identity.serial:
        _line(screen, "serial", identity.serial)
    _line(screen, "rated", watts(identity.rated_w) if identity.rated_w is not None else "nobody knows: say rated_w")
    for support in registry.driver(driver).support:
        if support.firmware in (identity.firmware, ""):
            style = "green" if support.maturity is Maturity.HARDWARE else "yellow"
            text = Text(support.maturity.value, style).append(f": {support.proven}", "bright_black")
            _line(screen, "proven", text)
            return


def show_reading(screen: Console, reading: Reading, able: Capabilities) -> None:
    """What it does now, and what it can do."""
    parts = [reading.state.value]
    parts.append(watts(reading.power_w) if reading.power_w is not None else "watts not measured")
    if reading.rate is not None:
        parts.append(rate_words(reading.rate))
    if reading.point_key is not None:
        limit = f" of {watts(reading.limit_w)}" if reading.limit_w is not None else ""
        parts.append(f"set to {reading.point_key}{limit}")
    if reading.temperature_c is not None:
        parts.append(f"{reading.temperature_c:.0f} °C")
    _line(screen, "now", ", ".join(parts))
    if reading.fault:
        _line(screen, "fault", Text(reading.fault, "red"))
    can = [
        "measures watts" if able.measures_power else "does not measure watts",
        "throttles" if able.throttles else "does not throttle",
        "stops" if able.stops else "does not stop",
        f"settles in about {able.settle_down_s:.0f} s down, {able.settle_up_s:.0f} s up",
    ]
    _line(screen, "can", ", ".join(can))


def show_points(screen: Console, points: OperatingPoints, reading: Reading) -> None:
    """Its operating points, from off up, and which of them it is at."""
    try:
        home: OperatingPoint | None = found_at(reading, points)
    except NotSaid:
        home = None
    table = _table("point", "draw", "rate", "", "", "")
    for point in points.points:
        efficiency = f"{point.draw_w / point.rate * 1e12:.1f} J/TH" if point.rate > 1.0 else ""
        is_here = home is not None and home.key == point.key and abs(home.draw_w - point.draw_w) < 0.5
        steps = f"and every {points.step_w:,.0f} W below" if point.divisible else ""
        mark = Text("◀ now" if is_here else "", "bold cyan")
        row = (Text(point.key), f"{point.draw_w:,.0f} W", rate_words(point.rate), efficiency)
        table.add_row(*row, Text(steps, "bright_black"), mark)
    screen.print()
    screen.print(table)


def show_steps(screen: Console, steps: Sequence[Step], points: OperatingPoints) -> None:
    """How each point went."""
    table = _table("point", "wanted", "drew", "answered", "confirmed", "settled", "")
    for step in steps:
        drew = rate_words(step.rate) if step.rate is not None else "–"
        if step.power_w is not None:
            drew = f"{step.power_w:,.0f} W"
        table.add_row(
            Text(name_of(step.point, points)),
            f"{step.point.draw_w:,.0f} W",
            drew,
            seconds(step.answered_s),
            seconds(step.confirmed_s),
            seconds(step.settled_s),
            _verdict(step),
        )
    screen.print()
    screen.print(table)
    screen.print(
        f"confirmed: its own reading said so; settled: {IN_A_ROW} readings running within {TOLERANCE:.0%} of full draw",
        style="bright_black",
        highlight=False,
    )


def show_stayed(screen: Console, last: Step, points: OperatingPoints) -> None:
    """Whether it is where it was to be left."""
    name = name_of(last.point, points)
    if last.confirmed_s is not None:
        screen.print(f"Left at {name}, as asked.", style="green", highlight=False, markup=False)
    else:
        screen.print(f"NOT at {name} ({last.answer}).", style="bold red", highlight=False, markup=False)


def show_left(screen: Console, address: str, home: OperatingPoint, points: OperatingPoints) -> None:
    """That a person did not let it be put back."""
    name = name_of(home, points)
    _put_it_back_yourself(screen, f"NOT put back to {name}: it was left as it is.", address, name)


def _put_it_back_yourself(screen: Console, what: str, address: str, name: str) -> None:
    screen.print(
        f"{what} Set it there yourself, on its own page or with: "
        f"curtaild probe {address} --exercise --points '{name}' --stay",
        style="bold red",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def show_restored(
    screen: Console, address: str, restored: Step | None, home: OperatingPoint, points: OperatingPoints
) -> None:
    """Whether it is where it was found."""
    name = name_of(home, points)
    if restored is None:
        screen.print(f"It was not moved from {name}.", highlight=False)
    elif restored.confirmed_s is not None:
        drawn = f" and draws {watts(restored.power_w)}" if restored.power_w is not None else ""
        told = f"it said so after {seconds(restored.confirmed_s)}"
        if restored.settled_s is not None:
            screen.print(f"Put back to {name}: {told}{drawn}.", style="green", highlight=False)
        else:
            screen.print(f"Put back to {name}: {told}; its draw has not settled yet.", style="yellow", highlight=False)
    else:
        _put_it_back_yourself(screen, f"NOT put back to {name} ({restored.answer}).", address, name)


def next_steps(screen: Console, address: str, password_file: Path | None) -> None:
    """What else can be tried, in a line each."""
    secret = f" --device-password-file {password_file}" if password_file is not None else ""
    screen.print()
    screen.print(
        f"Try its points:  curtaild probe {address} --exercise --transcript transcript.jsonl\n"
        f"The contract suite, from a checkout:  "
        f'make test ARGS="tests/drivers/test_contract.py --device {address}{secret}"',
        style="bright_black",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


class Live:
    """What is going on while a device is exercised: a line that moves where somebody watches."""

    def __init__(self, screen: Console, points: OperatingPoints) -> None:
        self._points = points
        self._status = Status("", console=screen) if screen.is_terminal else None
        self._began = time.monotonic()

    def show(self, point: OperatingPoint, reading: Reading | None) -> None:
        if reading is None:
            self._began = time.monotonic()
        if self._status is None:
            return
        text = Text(name_of(point, self._points), "bold").append(f"  {time.monotonic() - self._began:.0f} s", "default")
        if reading is not None:
            drawn = watts(reading.power_w) if reading.power_w is not None else rate_words(reading.rate or 0.0)
            text.append(f"  {reading.state.value}, {drawn} of {watts(point.draw_w)}", "bright_black")
        self._status.update(text)

    def __enter__(self) -> Live:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._status is not None:
            self._status.stop()


def rate_words(rate: float) -> str:
    """A hashrate, or for what computes otherwise a fraction of full."""
    for size, unit in _SCALES:
        if rate >= size:
            return f"{rate / size:,.1f} {unit}"
    return "–" if rate == 0 else f"{rate:.0%} of full" if rate <= 1.0 else f"{rate:,.0f} H/s"


def seconds(value: Seconds | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f} s" if value < 10 else f"{value:,.0f} s"


def _verdict(step: Step) -> Text:
    if step.went_well:
        return Text("reached", "green")
    if step.confirmed_s is not None:
        return Text("says so, draws otherwise", "yellow")
    return Text(step.answer if ":" in step.answer else "not reached", "red")


def _line(screen: Console, label: str, value: str | Text) -> None:
    line = Table.grid()
    line.add_column(width=_LABEL_WIDTH + 2)
    line.add_column()
    line.add_row(Text(f"  {label}", "bright_black"), Text(value) if isinstance(value, str) else value)
    screen.print(line)


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bright_black")
    for number, heading in enumerate(headings):
        is_text = number == 0 or heading == ""
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=not is_text or number == 0)
    return table
