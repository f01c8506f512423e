"""`curtaild probe`: read one device, and where asked step it through its operating points and put it back."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from pydantic import ValidationError
from rich.console import Console

from curtaild.cli import probed
from curtaild.survey.exercise import READ_EVERY_S, CannotExercise, Exercise, Step, chosen, found_at, name_of
from curtaild.survey.transcript import CannotWrite, Transcript
from curtaild_config import SecretSource, SiteFileError, load_site, resolve_secrets
from curtaild_drivers import registry
from curtaild_drivers.contract import Device, DriverError, OperatingPoint, OperatingPoints, Reading, Unsupported
from curtaild_drivers.registry import DriverSettings, OpenContext, UnknownDriver

INTERRUPTED = 130


def command(
    address: Annotated[str, typer.Argument(help="Its IP address or name; ports are --setting's.", show_default=False)],
    driver: Annotated[str, typer.Option(help="The driver that speaks to it, as docs/hardware.md names it.")] = "asic",
    exercise: Annotated[
        bool, typer.Option("--exercise", help="Step it through its operating points, then put it back. It WILL stop.")
    ] = False,
    points: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Exercise only these points, such as off,limit@2000 (W).", show_default=False),
    ] = None,
    stay: Annotated[
        bool, typer.Option("--stay", help="Leave it at the lowest of --points instead of putting it back.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Exercise without asking first.")] = False,
    patience: Annotated[
        float | None,
        typer.Option(
            min=1.0, help="So many seconds each point may take; left out: thrice the usual.", show_default=False
        ),
    ] = None,
    read_every: Annotated[float, typer.Option(min=0.01, help="Seconds between readings.")] = READ_EVERY_S,
    transcript: Annotated[
        Path | None,
        typer.Option(
            help="Write down what happened, masked so that it can be shared, to this new file.", show_default=False
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", help="The site file that says how to reach it, and its password.", show_default=False
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="One of the driver's settings (docs/hardware.md), such as firmware=luxos; may stand many times.",
            show_default=False,
        ),
    ] = None,
    rated_w: Annotated[
        float | None,
        typer.Option(min=1.0, help="The most it draws, in W, where nobody knows its model.", show_default=False),
    ] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(help="A file that holds its password; left out: as it is shipped.", show_default=False),
    ] = None,
    password_credential: Annotated[
        str | None, typer.Option(help="The systemd credential that holds it.", show_default=False)
    ] = None,
) -> None:
    """Show who a device is, what it does, and which operating points it offers; with --exercise try them out.

    Without --exercise nothing is written to it. Exit code 1: it could not be read, a point was not reached, or it could
    not be put back.

    For example: curtaild probe 10.0.1.7, and then curtaild probe 10.0.1.7 --exercise --transcript mine.jsonl
    """
    if points is not None and not exercise:
        raise typer.BadParameter("chooses what --exercise tries: add --exercise", param_hint="--points")
    if stay and points is None:
        raise typer.BadParameter("say where: add --exercise --points", param_hint="--stay")
    if password_file is not None and password_credential is not None:
        raise typer.BadParameter("--password-file and --password-credential exclude each other")
    words = [word.strip() for word in (points or "").split(",") if word.strip()]
    screen = Console()
    try:
        if config is not None:
            subject = _listed(config, address)
        else:
            source = SecretSource("password", "the command line", password_file, password_credential)
            has_password = password_file is not None or password_credential is not None
            subject = _described(address, driver, setting or [], rated_w, (source,) if has_password else ())
        masked = [address, *subject.context.secrets.values()]
        notes = Transcript.create(transcript, masked) if transcript is not None else _no_notes(masked)
        with closing(notes):
            probe = _Probe(subject, screen, notes)
            pace = _Pace(words, stay, yes, patience, read_every)
            code = uvloop.run(probe.run(pace if exercise else None))
    except (UnknownDriver, SiteFileError, CannotWrite) as error:
        _say(screen, str(error.args[0] if isinstance(error, UnknownDriver) else error))
        raise typer.Exit(1) from None
    except (DriverError, CannotExercise) as error:
        _say(screen, f"{address}: {error}")
        raise typer.Exit(1) from None
    if transcript is not None:
        screen.print(f"Transcript: {transcript}. Masked as well as a program can: read it before you share it.")
    if subject.driver == "asic" and not exercise:
        probed.next_steps(screen, address, password_file)
    raise typer.Exit(code)


@dataclass(frozen=True, slots=True)
class _Subject:
    """A device to be opened."""

    address: str
    driver: str
    settings: DriverSettings
    context: OpenContext

    def open(self) -> Device:
        open_device = registry.driver(self.driver).open_device
        if open_device is None:
            raise Unsupported(f"driver {self.driver!r} drives no devices")
        return open_device(self.address, self.settings, self.context)


def _listed(path: Path, address: str) -> _Subject:
    """As the site file lists it. Raises `SiteFileError`, `CannotExercise` where it does not."""
    for spec in load_site(path).expand_devices():
        if spec.address == address:
            return _Subject(address, spec.driver, spec.settings, _context(spec.secret_sources, str(path), spec.rated_w))
    raise CannotExercise(f"{path} lists no device at this address; leave --config out")


def _described(
    address: str, driver: str, words: Sequence[str], rated_w: float | None, sources: tuple[SecretSource, ...]
) -> _Subject:
    """As the command line describes it. Raises `UnknownDriver`, `SiteFileError` for the password."""
    keys: dict[str, Any] = {}
    for word in words:
        key, divider, text = word.partition("=")
        if not divider:
            raise typer.BadParameter(f"{word!r}: write key=value", param_hint="--setting")
        try:
            keys[key] = json.loads(text)
        except ValueError:
            keys[key] = text
    try:
        settings = registry.driver(driver).settings.model_validate(keys)
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise typer.BadParameter(said, param_hint="--setting") from None
    return _Subject(address, driver, settings, _context(sources, "the command line", rated_w))


def _context(sources: tuple[SecretSource, ...], file: str, rated_w: float | None) -> OpenContext:
    secrets = {name: value.get_secret_value() for name, value in resolve_secrets(sources, file).items()}
    return OpenContext(secrets=secrets, rated_w=rated_w)


def _no_notes(masked: Sequence[str]) -> Transcript:
    return Transcript(open(os.devnull, "w", encoding="utf-8"), masked)


def _say(screen: Console, text: str) -> None:
    screen.print(text, style="red", markup=False, highlight=False)


@dataclass(frozen=True, slots=True)
class _Pace:
    """How to exercise: which points, whether it stays at the last, unasked or not, how long each may take, how often it
    is read (s)."""

    words: Sequence[str]
    stays: bool
    is_unasked: bool
    patience_s: float | None
    read_every_s: float


class _Probe:
    """One probing of one device."""

    def __init__(self, subject: _Subject, screen: Console, notes: Transcript) -> None:
        self._subject = subject
        self._screen = screen
        self._notes = notes

    async def run(self, pace: _Pace | None) -> int:
        """The exit code. Raises `DriverError` where it cannot be read, `CannotExercise` where nothing was commanded."""
        device = self._subject.open()
        try:
            identity = await device.identify()
            self._notes.identity(identity)
            self._notes.abilities(device.capabilities)
            reading = await device.read()
            self._notes.reading(reading)
            probed.show_identity(self._screen, self._subject.address, self._subject.driver, identity)
            probed.show_reading(self._screen, reading, device.capabilities)
            try:
                points = await device.operating_points()
            except Unsupported as error:
                self._notes.trouble(str(error))
                self._screen.print(f"No operating points: {error}", style="yellow", markup=False, highlight=False)
                return 1 if pace is not None else 0
            self._notes.points(points)
            probed.show_points(self._screen, points, reading)
            return 0 if pace is None else await self._exercise(device, points, reading, pace)
        except DriverError as error:
            self._notes.trouble(f"{type(error).__name__}: {error}")
            raise
        finally:
            await device.close()

    async def _exercise(self, device: Device, points: OperatingPoints, reading: Reading, pace: _Pace) -> int:
        home = found_at(reading, points)
        steps = chosen(points, pace.words)
        self._confirm(device, steps, points, home, pace)
        live = probed.Live(self._screen, points)

        def watch(point: OperatingPoint, seen: Reading | None) -> None:
            if seen is None:
                self._notes.command(point)
            else:
                self._notes.reading(seen)
            with suppress(OSError):  # a terminal that is gone must not keep the device from being put back
                live.show(point, seen)

        exercise = Exercise(device, points, home, watch, patience_s=pace.patience_s, read_every_s=pace.read_every_s)
        with live:
            code = await self._until_cut_off(exercise, steps)
            stays = pace.stays and code == 0
            restored, is_left = (None, False) if stays else await self._put_back(exercise)
        for step in exercise.steps:
            self._notes.step(step)
        if restored is not None:
            self._notes.step(restored, restores=True)
        with suppress(OSError):
            probed.show_steps(self._screen, exercise.steps, points)
            if stays:
                probed.show_stayed(self._screen, exercise.steps[-1], points)
            elif is_left:
                probed.show_left(self._screen, self._subject.address, home, points)
            else:
                probed.show_restored(self._screen, self._subject.address, restored, home, points)
        is_back = not is_left and (restored is None or restored.confirmed_s is not None)
        return code if is_back and code else int(not is_back or not all(step.went_well for step in exercise.steps))

    async def _until_cut_off(self, exercise: Exercise, steps: Sequence[OperatingPoint]) -> int:
        """Run the steps until they end, or Ctrl-C, a hang-up or SIGTERM ends them: the exit code, 0 if they ran."""
        loop = asyncio.get_running_loop()
        running = asyncio.create_task(exercise.run(steps))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, running.cancel)
        await asyncio.wait([running])
        if running.cancelled():
            exercise.hasten()
            with suppress(OSError):
                _say(self._screen, "Putting it back where it was. Ctrl-C once more leaves it as it is.")
            return INTERRUPTED
        if (error := running.exception()) is not None:
            self._notes.trouble(f"{type(error).__name__}: {error}")
            with suppress(OSError):
                _say(self._screen, f"{type(error).__name__}: {error}")
            return 1
        return 0

    async def _put_back(self, exercise: Exercise) -> tuple[Step | None, bool]:
        """The last step back, and whether a person left it as it is: by a Ctrl-C that was asked to hurry already. A
        terminal that goes sends more signals than one; those only hurry it."""
        loop = asyncio.get_running_loop()
        restoring = asyncio.create_task(exercise.restore())

        def interrupt() -> None:
            if exercise.is_hasty:
                restoring.cancel()
            else:
                exercise.hasten()

        loop.add_signal_handler(signal.SIGINT, interrupt)
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, exercise.hasten)
        await asyncio.wait([restoring])
        return (None, True) if restoring.cancelled() else (restoring.result(), False)

    def _confirm(
        self,
        device: Device,
        steps: Sequence[OperatingPoint],
        points: OperatingPoints,
        home: OperatingPoint,
        pace: _Pace,
    ) -> None:
        """Raises `CannotExercise` unless a person, or --yes, agrees."""
        names = ", ".join(name_of(point, points) for point in steps)
        able = device.capabilities
        expected_s = len(steps) * max(able.settle_down_s, 1.0) + able.settle_up_s
        end = "and there it stays" if pace.stays else f"then back to {name_of(home, points)}"
        self._screen.print(
            f"Exercise: {names}; {end}. About {expected_s / 60:.0f} min or more. The "
            "device changes its draw at each step, and mines less meanwhile. A daemon that drives it must be stopped.",
            style="yellow",
            highlight=False,
            markup=False,
        )
        if pace.is_unasked:
            return
        if not sys.stdin.isatty():
            raise CannotExercise("nobody is there to agree to it: add --yes")
        if not typer.confirm("Go on?"):
            raise CannotExercise("nothing was commanded")
