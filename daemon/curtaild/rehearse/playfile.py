"""Plays from files: events in TOML, or a signal in CSV. All that is wrong is said at once, where, and what to do."""

from __future__ import annotations

import csv
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from curtaild.core.allocation import Urgency
from curtaild.rehearse.play import Capacity, Order, Play
from curtaild_config.problems import suggest
from curtaild_drivers.contract import FeederId

LONGEST_S = 31 * 86_400.0
AFTER_LAST_S = 900.0
"""A play whose file does not say how long it lasts goes on so long after its last event."""
_MOST_W = 1e11
_MOST_EVENTS = 200_000

_AtS = Annotated[float, Field(ge=0, le=LONGEST_S, allow_inf_nan=False)]
_LimitW = Annotated[float, Field(ge=0, le=_MOST_W, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class BadPlay(ValueError):
    """A file that cannot be played. The text lists all that is wrong with it."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Event(_Table):
    """One `[[event]]`: a limit in watts, or as a share of what can be shed (0: everything off, 1: nothing held back);
    neither releases the site."""

    at_s: _AtS
    limit_w: _LimitW | None = None
    share: _Share | None = None
    feeder: str | None = None
    lasts_s: Annotated[float, Field(gt=0, le=LONGEST_S)] | None = None
    announced_s: _AtS = 0.0
    reach_by_s: _AtS | None = None
    max_ramp_up_w_per_min: Annotated[float, Field(gt=0, le=_MOST_W)] | None = None
    urgency: Urgency = Field(default=Urgency.NORMAL, alias="class")

    @field_validator("at_s", "limit_w", "share", mode="before")
    @classmethod
    def _is_no_boolean(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError("should be a number, not true or false")
        return value

    @model_validator(mode="after")
    def _says_one_limit(self) -> Self:
        if self.limit_w is not None and self.share is not None:
            raise ValueError("limit_w and share exclude each other")
        if self.share is not None and self.feeder is not None:
            raise ValueError("share is of the whole site: give a feeder its limit in watts")
        return self

    def order(self, capacity: Capacity) -> Order:
        """As an order to a site of this capacity."""
        return Order(
            at_s=self.at_s,
            limit_w=capacity.at(self.share) if self.share is not None else self.limit_w,
            feeder=FeederId(self.feeder) if self.feeder is not None else None,
            lasts_s=self.lasts_s,
            announced_s=self.announced_s,
            reach_by_s=self.reach_by_s,
            max_ramp_up_w_per_min=self.max_ramp_up_w_per_min,
            urgency=self.urgency,
        )


class _EventsFile(_Table):
    name: Annotated[str, Field(min_length=1, max_length=80)] | None = None
    duration_s: Annotated[float, Field(gt=0, le=LONGEST_S, allow_inf_nan=False)] | None = None
    event: Annotated[tuple[Event, ...], Field(min_length=1, max_length=_MOST_EVENTS)]
    models: dict[str, str] = Field(default_factory=dict)
    faults: dict[str, float] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlayFile:
    """What a file says: its events, and the models and faults it asks for."""

    name: str
    events: tuple[Event, ...]
    duration_s: float
    models: Mapping[str, str] = field(default_factory=dict)
    faults: Mapping[str, float] = field(default_factory=dict)

    def play(self, capacity: Capacity, feeders: Mapping[FeederId, Any]) -> Play:
        """The play at a site with these feeders. Raises `BadPlay`."""
        unknown = {event.feeder for event in self.events if event.feeder is not None} - set(feeders)
        if unknown:
            names = "; ".join(f"{name!r}: {suggest(name, feeders)}" for name in sorted(unknown))
            raise BadPlay(f"{self.name}: no such feeder in the site file: {names}")
        orders = sorted((event.order(capacity) for event in self.events), key=lambda order: order.at_s)
        return Play(self.name, f"{len(orders)} event(s) of {self.name}", tuple(orders), self.duration_s)


def read_events(path: Path) -> PlayFile:
    """An events file (TOML). Raises `BadPlay` with all that is wrong with it."""
    try:
        tables = tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError as error:
        raise BadPlay(f"{path}: no TOML: {error}") from None
    try:
        file = _EventsFile.model_validate(tables)
    except ValidationError as error:
        details = [detail for detail in error.errors(include_url=False) if not _only_follows(detail)]
        lines = [f"  {_place(detail['loc'])}{_what(detail)}" for detail in details]
        raise BadPlay("\n".join([f"{path}: {len(lines)} thing(s) to mend", *lines])) from None
    last_s = max(event.at_s + (event.lasts_s or 0.0) for event in file.event)
    duration_s = file.duration_s if file.duration_s is not None else last_s + AFTER_LAST_S
    return PlayFile(file.name or path.name, file.event, duration_s, file.models, file.faults)


def read_signal(path: Path) -> PlayFile:
    """A signal (CSV): a head line `at_s,limit_w` or `at_s,share`, then one line per limit; an empty limit releases, and
    a third column `feeder` may name whose limit it is. Raises `BadPlay`."""
    rows = list(csv.reader(StringIO(_text(path))))
    head = [name.strip().lower() for name in rows[0]] if rows else []
    known = ("at_s", "limit_w", "share", "feeder")
    strange = [name for name in head if name not in known]
    if "at_s" not in head or not {"limit_w", "share"} & set(head) or strange:
        hint = f"; {strange[0]!r}: {suggest(strange[0], known)}" if strange else ""
        raise BadPlay(f"{path}: line 1 should be a head such as at_s,limit_w (W) or at_s,share (0 to 1){hint}")
    events: list[Event] = []
    wrong: list[str] = []
    for number, row in enumerate(rows[1:], start=2):
        cells = {name: cell.strip() for name, cell in zip(head, row, strict=False) if cell.strip()}
        if not cells:
            continue
        try:
            events.append(Event.model_validate(cells))
        except ValidationError as error:
            wrong += [f"  line {number}: {_place(e['loc'])}{_what(e)}" for e in error.errors(include_url=False)]
    if not events and not wrong:
        wrong.append("  it holds no limit")
    if wrong:
        shown = [*wrong[:20], f"  … and {len(wrong) - 20} more"] if len(wrong) > 20 else wrong
        raise BadPlay("\n".join([f"{path}: {len(wrong)} thing(s) to mend", *shown]))
    last_s = max(event.at_s for event in events)
    return PlayFile(path.name, tuple(events), min(LONGEST_S, last_s + AFTER_LAST_S))


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > 64 * 1024 * 1024:
            raise BadPlay(f"{path}: more than 64 MiB is no signal")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadPlay(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise BadPlay(f"{path}: no text: {error}") from None


def _only_follows(detail: Any) -> bool:
    """pydantic counts the valid entries: where every entry is wrong it adds that there are none."""
    return detail["type"] == "too_short" and bool(detail["input"])


def _place(location: tuple[int | str, ...]) -> str:
    """`event[2].limit_w: `, counted from 1 as a person counts."""
    path = ""
    for step in location:
        path += f"[{step + 1}]" if isinstance(step, int) else f".{step}" if path else step
    return f"{path}: " if path else ""


def _what(detail: Any) -> str:
    if detail["type"] == "extra_forbidden":
        keys = Event.model_fields if len(detail["loc"]) > 1 else _EventsFile.model_fields
        names = [str(known.alias or name) for name, known in keys.items()]
        return f"unknown key; {suggest(str(detail['loc'][-1]), names)}"
    if detail["type"] == "missing":
        return "is required"
    text = str(detail["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    value = detail.get("input")
    is_shown = isinstance(value, (str, int, float)) and not (isinstance(value, float) and math.isnan(value))
    return f"{text} (is {value!r})" if is_shown else text
