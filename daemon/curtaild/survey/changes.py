"""What is not as it was: devices that moved, were replaced, reflashed or are gone, by what earlier scans met and by
what the site file lists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from curtaild.narrate import who
from curtaild.survey.notes import Met
from curtaild.survey.scan import Tally
from curtaild.survey.targets import in_order
from curtaild_config import DeviceSpec
from curtaild_drivers.asic.settings import AsicSettings
from curtaild_drivers.contract import Identity


class Kind(Enum):
    """What changed, in the words a person reads."""

    MOVED = "moved"
    REPLACED = "replaced"
    REFLASHED = "reflashed"
    UPDATED = "updated"
    GONE = "gone"
    OTHER_THAN_LISTED = "other than listed"
    SILENT_BUT_LISTED = "listed, silent"
    SAME_SERIAL = "same serial"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `address` is where the device is now, or was."""

    kind: Kind
    address: str
    detail: str


def changes(
    scanned: Sequence[str], tally: Tally, met: Mapping[str, Met], listed: Mapping[str, DeviceSpec]
) -> list[Change]:
    """Every difference between what `tally` found and what was `met` before, or is `listed` in the site file."""
    found = {address: finding.identity for address, finding in tally.findings.items() if finding.identity is not None}
    return [*_twins(found), *_since_met(set(scanned), found, met), *_against_listed(scanned, found, listed)]


def _twins(found: Mapping[str, Identity]) -> Iterator[Change]:
    """A serial that answers at several addresses: one device with two, or a maker's placeholder."""
    counts = Counter(identity.serial for identity in found.values() if identity.serial)
    for serial, count in counts.items():
        if count > 1:
            addresses = in_order(address for address, identity in found.items() if identity.serial == serial)
            others = ", ".join(addresses[1:4]) + (" and more" if count > 4 else "")
            yield Change(
                Kind.SAME_SERIAL, addresses[0], f"{others} gives the same serial {serial}: one device, or a clone"
            )


def _since_met(scanned: set[str], found: Mapping[str, Identity], met: Mapping[str, Met]) -> Iterator[Change]:
    places = _places(found)
    earlier = _places({address: known.identity for address, known in met.items()})
    moved_away: set[str] = set()
    for serial, address in places.items():
        before = earlier.get(serial)
        if before is not None and before != address and _left(before, serial, scanned, found):
            moved_away.add(before)
            yield Change(Kind.MOVED, address, f"{who(found[address])} (serial {serial}) was at {before}")
    for address in in_order(found):
        if address in met:
            yield from _at_its_place(address, met[address].identity, found[address])
    for address in in_order(set(met) & scanned - set(found) - moved_away):
        yield Change(Kind.GONE, address, f"{who(met[address].identity)} answered there before")


def _left(before: str, serial: str, scanned: set[str], found: Mapping[str, Identity]) -> bool:
    """Whether the device is no longer where it was: a scan that did not look there cannot tell a move from a twin, and
    takes it for a move."""
    return before not in scanned or before not in found or found[before].serial != serial


def _places(found: Mapping[str, Identity]) -> dict[str, str]:
    """The address of each serial that stands at one address only."""
    counts = Counter(identity.serial for identity in found.values())
    return {i.serial: address for address, i in found.items() if i.serial and counts[i.serial] == 1}


def _at_its_place(address: str, before: Identity, now: Identity) -> Iterator[Change]:
    if not now.model:  # it rejects the password: only its firmware is known
        if now.firmware != before.firmware:
            yield Change(Kind.REFLASHED, address, f"was {who(before)}, now answers as {now.firmware}")
        return
    if before.firmware != now.firmware:
        # Firmwares may tell different serials of one machine; an equal one, or the same model, speaks for a reflash.
        is_same = (bool(now.serial) and before.serial == now.serial) or _same_model(before, now)
        yield Change(Kind.REFLASHED if is_same else Kind.REPLACED, address, f"was {who(before)}, now {who(now)}")
    elif before.serial and now.serial and before.serial != now.serial:
        serials = f"serial {before.serial}, now {now.serial}"
        yield Change(Kind.REPLACED, address, f"was {who(before)}, now {who(now)} ({serials})")
    elif not _same_model(before, now):
        yield Change(Kind.REPLACED, address, f"was {who(before)}, now {who(now)}")
    elif before.version != now.version:
        yield Change(Kind.UPDATED, address, f"was {who(before)}, now {who(now)}")


def _same_model(before: Identity, now: Identity) -> bool:
    return before.model.replace(" ", "").lower() == now.model.replace(" ", "").lower()


def _against_listed(
    scanned: Sequence[str], found: Mapping[str, Identity], listed: Mapping[str, DeviceSpec]
) -> Iterator[Change]:
    for address in scanned:
        spec = listed.get(address)
        if spec is None:
            continue
        stated = spec.settings.firmware if isinstance(spec.settings, AsicSettings) else None
        now = found.get(address)
        if now is None:
            yield Change(Kind.SILENT_BUT_LISTED, address, f"stands in group {spec.group}, and no miner answers there")
        elif stated is not None and stated != now.firmware:
            detail = f"group {spec.group} says firmware {stated!r}, it is {who(now)}"
            yield Change(Kind.OTHER_THAN_LISTED, address, detail)
