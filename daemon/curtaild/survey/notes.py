"""What scans remember between runs, in one JSON file: who was met where, and how far an interrupted scan came."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from curtaild.survey.scan import Tally
from curtaild.survey.touch import Touch
from curtaild_drivers.asic.finding import Finding
from curtaild_drivers.contract import Identity

_MOST_BYTES = 512 * 1024 * 1024


class NotesDamaged(Exception):
    """The file cannot be read or written. One line, for a person."""


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Met(_Kept):
    """Who answered at an address, and when (Unix seconds)."""

    identity: Identity
    seen_at_unix: float


class Unfinished(_Kept):
    """A scan that was interrupted: its targets as typed, and its tally."""

    targets: list[str]
    done: int = Field(ge=0)
    touched: dict[Touch, int] = {}
    findings: dict[str, Finding] = {}

    def tally(self) -> Tally:
        return Tally(self.done, Counter(self.touched), dict(self.findings))


class Notes(_Kept):
    """The whole file."""

    met: dict[str, Met] = {}
    unfinished: Unfinished | None = None

    @classmethod
    def read(cls, path: Path) -> Notes:
        """What stands at `path`; empty where there is no file. Raises `NotesDamaged`."""
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise NotesDamaged(f"{path} is too large to be a scan's notes; name another file with --state")
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except (ValidationError, ValueError):
            raise NotesDamaged(f"{path} is not a scan's notes, or is damaged: move it away, or name another file "
                               "with --state") from None  # fmt: skip
        except OSError as error:
            raise NotesDamaged(f"{path} cannot be read: {error.strerror}") from None

    def write(self, path: Path) -> None:
        """All or nothing. Raises `NotesDamaged`."""
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                fresh.write_text(self.model_dump_json())
                fresh.replace(path)
            finally:
                fresh.unlink(missing_ok=True)
        except OSError as error:
            raise NotesDamaged(f"{path} cannot be written: {error.strerror}") from None

    def interrupt(self, targets: list[str], tally: Tally) -> None:
        """Remember how far a scan has come."""
        self.unfinished = Unfinished(
            targets=targets, done=tally.done, touched=dict(tally.touched), findings=dict(tally.findings)
        )

    def meet(self, tally: Tally, now_unix: float) -> None:
        """Remember who was met. What did not answer this time keeps its place: it may be asleep at the wall."""
        for address, finding in tally.findings.items():
            if finding.identity is not None and finding.identity.model:
                self.met[address] = Met(identity=finding.identity, seen_at_unix=now_unix)


def default_path() -> Path:
    """Where notes are kept if nobody says otherwise: the user's state directory."""
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "curtaild" / "scan.json"
