"""Turns what a device group lists (addresses, blocks, ranges, names) into single addresses, within a bound."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator

MOST_ADDRESSES = 65_536
"""More than one process should drive; a slip like 10.0.0.0/8 is caught before memory is."""

_IP = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?")


def expand_addresses(entries: Iterable[str], most: int = MOST_ADDRESSES) -> tuple[str, ...]:
    """All addresses that `entries` name, in their order, each once. Raises ValueError with the entry at fault."""
    found: dict[str, None] = {}
    for entry in entries:
        for address in _expand(entry.strip(), most):
            found[address] = None
        if len(found) > most:
            raise ValueError(f"{entry!r} makes more than {most:,} addresses")
    return tuple(found)


def _expand(entry: str, most: int) -> Iterator[str]:
    if "/" in entry:
        yield from _block(entry, most)
    elif re.match(r"[0-9A-Fa-f.:]+\s*-\s*[0-9A-Fa-f.:]+$", entry) and (":" in entry or "." in entry):
        yield from _range(entry, most)
    elif (address := _ip(entry)) is not None:
        yield str(address)
    elif _NAME.fullmatch(entry):
        yield entry
    else:
        raise ValueError(f"{entry!r} is no address, block (10.0.1.0/24), range (10.0.1.10-250) or host name")


def _ip(text: str) -> _IP | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _block(entry: str, most: int) -> Iterator[str]:
    try:
        block = ipaddress.ip_network(entry, strict=False)
    except ValueError:
        raise ValueError(f"{entry!r} is no block: write 10.0.1.0/24") from None
    if str(block.network_address) != entry.partition("/")[0] and entry != str(block):
        # Whoever writes 10.0.1.5/24 may mean one device or 254.
        raise ValueError(f"{entry!r} is ambiguous: write {block} for the block")
    if block.num_addresses > most + 2:
        raise ValueError(f"{entry!r} makes more than {most:,} addresses")
    yield from (str(address) for address in block.hosts())


def _range(entry: str, most: int) -> Iterator[str]:
    first_text, last_text = (part.strip() for part in entry.split("-"))
    first = _ip(first_text)
    if first is not None and last_text.isdecimal() and first.version == 4:
        last_text = f"{first_text.rpartition('.')[0]}.{last_text}"
    last = _ip(last_text)
    if first is None or last is None or first.version != last.version:
        raise ValueError(f"{entry!r} is no range: write 10.0.1.10-250 or 10.0.1.10-10.0.1.250")
    if int(last) < int(first):
        raise ValueError(f"{entry!r} ends before it begins")
    if int(last) - int(first) >= most:
        raise ValueError(f"{entry!r} makes more than {most:,} addresses")
    yield from (str(first + offset) for offset in range(int(last) - int(first) + 1))
