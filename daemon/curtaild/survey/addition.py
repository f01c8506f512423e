"""Adds what a scan found to a site file: new groups at its end, as text. Nothing that stands in the file is touched, so
nothing a person wrote can be lost; the whole is checked as the daemon would before it takes the old one's place.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from curtaild.survey.targets import in_order, ranges
from curtaild_config import Problem, Severity, Site, check_site, load_site
from curtaild_drivers.contract import Identity


class CannotAdd(Exception):
    """The site file stays as it is. The text says why and what a person can do."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Where the found devices' password lies, as the site file says it; both `None`: as each firmware ships."""

    password_file: Path | None = None
    password_credential: str | None = None


@dataclass(frozen=True, slots=True)
class Addition:
    """The text to append, and how many devices each of its groups names. Empty where the file lists all of them."""

    text: str
    groups: Mapping[str, int]


def listed_addresses(site: Site) -> frozenset[str]:
    """Every address that a device group of the file names."""
    return frozenset(spec.address for spec in site.expand_devices())


def feeder_for(site: Site, wanted: str | None) -> str:
    """The feeder the found devices hang on: the one wanted, or the only one. Raises `CannotAdd`."""
    names = [feeder.id for feeder in site.feeder]
    if wanted is not None and wanted not in names:
        raise CannotAdd(f"the site file has no feeder {wanted!r}; it has {', '.join(names)}")
    if wanted is None and len(names) > 1:
        raise CannotAdd(
            f"say which feeder the found devices hang on: --feeder {names[-1]} (known: {', '.join(names)}). "
            "Ratings are kept per feeder, so scan row by row."
        )
    return wanted or names[0]


def addition(site: Site, found: Mapping[str, Identity], feeder: str, credentials: Credentials, today: date) -> Addition:
    """The groups that the file lacks: one per firmware, as firmwares have passwords of their own."""
    listed = listed_addresses(site)
    fresh = {address: identity for address, identity in found.items() if address not in listed}
    if not fresh:
        return Addition("", {})
    taken = {group.name for group in site.devices}
    lines = [
        "",
        f"# ---- found by `curtaild scan` on {today.isoformat()}: {len(fresh)} device{'s' * (len(fresh) > 1)}. "
        "Yours to edit; a later scan adds below and changes nothing. ----",
    ]
    groups: dict[str, int] = {}
    for firmware in sorted({identity.firmware for identity in fresh.values()}):
        members = {address: identity for address, identity in fresh.items() if identity.firmware == firmware}
        name = _free_name(f"{feeder}-{firmware}", taken)
        taken.add(name)
        groups[name] = len(members)
        lines += _group(name, feeder, members, credentials)
    return Addition("\n".join(lines) + "\n", groups)


def _free_name(wanted: str, taken: Iterable[str]) -> str:
    base = re.sub(r"[^A-Za-z0-9_-]", "-", wanted)[:56]
    numbers = [base, *(f"{base}-{number}" for number in range(2, 10_000))]
    return next(name for name in numbers if name not in set(taken))


def _group(name: str, feeder: str, members: Mapping[str, Identity], credentials: Credentials) -> list[str]:
    lines = ["", "[[devices]]", f"name = {_text(name)}", 'driver = "asic"', "addresses = ["]
    models: dict[str, list[str]] = {}
    for address in in_order(members):
        identity = members[address]
        model = _comment(" ".join(filter(None, (identity.make, identity.model))))
        models.setdefault(model, []).append(address)
    for model, addresses in models.items():
        lines += [f"    {_text(word)},  # {model}" for word in ranges(addresses)]
    lines += ["]", f"feeder = {_text(feeder)}"]
    unrated = [model for model, addresses in models.items() if members[addresses[0]].rated_w is None]
    if unrated:
        lines.append(f"#rated_w = 3_500  # nobody knows what {', '.join(unrated)} draws: say it here")
    if credentials.password_file is not None:
        lines.append(f"password_file = {_text(str(credentials.password_file.absolute()))}")
    if credentials.password_credential is not None:
        lines.append(f"password_credential = {_text(credentials.password_credential)}")
    return lines


def _comment(said_by_device: str) -> str:
    """A device names itself: nothing of it may end the comment and begin a key."""
    return re.sub(r"[^ -~]", "?", said_by_device)[:60] or "of unknown model"


def _text(value: str) -> str:
    """A TOML basic string: JSON's escapes are TOML's, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def write(path: Path, addition: Addition) -> list[Problem]:
    """Append it; the file's mode and owner stay. The warnings of the new file. Raises `CannotAdd`."""
    path = path.resolve()  # what a link points to is what gets written
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        before = path.read_bytes()
        joint = b"" if before.endswith(b"\n") or not before else b"\n"
        try:
            shutil.copy2(path, fresh)
            status = path.stat()
            if os.geteuid() == 0:
                os.chown(fresh, status.st_uid, status.st_gid)
            with fresh.open("wb") as stream:
                stream.write(before + joint + addition.text.encode())
                stream.flush()
                os.fsync(stream.fileno())
            warnings = _checked(fresh, path)
            if path.read_bytes() != before:
                raise CannotAdd(f"{path} was changed by somebody else meanwhile; nothing was written")
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        raise CannotAdd(f"{path} cannot be written: {error.strerror}") from None
    return warnings


def _checked(fresh: Path, path: Path) -> list[Problem]:
    """What the daemon would say of the new file. Secrets that cannot be read from here are no reason not to write."""
    site, problems = check_site(fresh)
    if site is None:
        errors = "\n".join(str(p).replace(str(fresh), str(path)) for p in problems if p.severity is Severity.ERROR)
        raise CannotAdd(f"{path} with the devices added would not run, so it was left as it is:\n{errors}")
    load_site(fresh)
    return [problem for problem in problems if problem.severity is Severity.WARNING]
