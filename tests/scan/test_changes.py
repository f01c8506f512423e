"""What a scan tells of devices that are not where, or what, they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from curtaild.narrate import exchange
from curtaild.survey.changes import Kind, changes
from curtaild.survey.notes import Met, Notes, NotesDamaged
from curtaild.survey.scan import Tally
from curtaild_config import load_site
from curtaild_drivers.asic.finding import Finding
from curtaild_drivers.contract import Identity
from scan.site_files import SITE

S21 = Identity("Antminer", "S21", "antminer", "2024-01", serial="A1")
AT = "10.0.1.7"
SCANNED = [AT, "10.0.1.8", "10.0.1.9"]


def told(before: dict[str, Identity], now: dict[str, Identity]) -> list[tuple[Kind, str]]:
    tally = Tally(findings={address: Finding(identity) for address, identity in now.items()})
    met = {address: Met(identity=identity, seen_at_unix=0.0) for address, identity in before.items()}
    return [(change.kind, change.address) for change in changes(SCANNED, tally, met, {})]


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ({AT: S21}, {AT: S21}, []),
        ({}, {AT: S21}, []),
        ({AT: S21}, {AT: replace(S21, version="2025-03")}, [(Kind.UPDATED, AT)]),
        ({AT: S21}, {AT: replace(S21, firmware="luxos", serial="L1")}, [(Kind.REFLASHED, AT)]),
        ({AT: S21}, {AT: Identity("", "", "vnish")}, [(Kind.REFLASHED, AT)]),
        ({AT: S21}, {AT: replace(S21, serial="A2")}, [(Kind.REPLACED, AT)]),
        ({AT: S21}, {AT: Identity("WhatsMiner", "M50", "whatsminer-v2")}, [(Kind.REPLACED, AT)]),
        ({AT: S21}, {"10.0.1.8": S21}, [(Kind.MOVED, "10.0.1.8")]),
        ({"10.9.9.9": S21}, {AT: S21}, [(Kind.MOVED, AT)]),
        ({AT: S21}, {}, [(Kind.GONE, AT)]),
        ({"10.9.9.9": S21}, {}, []),
        ({}, {AT: S21, "10.0.1.8": S21}, [(Kind.SAME_SERIAL, AT)]),
    ],
)
def test_what_is_told(before: dict[str, Identity], now: dict[str, Identity], expected: list[tuple[Kind, str]]) -> None:
    assert told(before, now) == expected


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (S21, None),
        (replace(S21, version="2025-03"), None),
        (replace(S21, serial=""), None),
        (replace(S21, serial="A2"), "another Antminer S21 under antminer 2024-01 stands there now"),
        (replace(S21, model="S19", serial="A2"), "was Antminer S21 under antminer 2024-01, is now Antminer S19"),
        (replace(S21, firmware="luxos", serial="L1"), "is now Antminer S21 under luxos"),
    ],
)
def test_the_running_daemon_tells_an_exchange_and_no_update(now: Identity, told: str | None) -> None:
    said = exchange(S21, now)
    assert said is None if told is None else said is not None and told in said


def test_two_that_swapped_places_are_both_told() -> None:
    other = replace(S21, serial="A2")
    kinds = told({AT: S21, "10.0.1.8": other}, {AT: other, "10.0.1.8": S21})
    assert {(Kind.MOVED, AT), (Kind.MOVED, "10.0.1.8")} <= set(kinds)


def test_the_site_file_is_held_against_the_network(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text(SITE + '[[devices]]\nname = "hall"\ndriver = "asic"\nfeeder = "row-1"\n'
                    'addresses = ["10.0.1.7-8"]\nsettings = { firmware = "luxos" }\n')  # fmt: skip
    listed = {spec.address: spec for spec in load_site(path).expand_devices()}
    differences = changes(SCANNED, Tally(findings={AT: Finding(S21)}), {}, listed)
    assert [(change.kind, change.address) for change in differences] == [
        (Kind.OTHER_THAN_LISTED, AT),
        (Kind.SILENT_BUT_LISTED, "10.0.1.8"),
    ]
    assert "hall" in differences[0].detail


def test_notes_survive_the_disk_and_damaged_ones_are_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "state" / "scan.json"
    notes, tally = Notes(), Tally(done=2, findings={AT: Finding(S21), "10.0.1.8": Finding(None, "says nothing")})
    notes.meet(tally, now_unix=1.0)
    notes.interrupt(["10.0.1.0/24"], tally)
    notes.write(path)
    again = Notes.read(path)
    assert again == notes
    assert again.unfinished is not None
    assert again.unfinished.tally() == tally
    path.write_text('{"met": 7}')
    with pytest.raises(NotesDamaged, match="move it away"):
        Notes.read(path)
