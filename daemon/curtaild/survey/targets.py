"""Which addresses a scan asks: blocks, ranges and single addresses, within a bound, and short again for people."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from curtaild_config.addresses import expand_addresses

MOST_ADDRESSES = 262_144
"""Four /16: more is no site but a slip, and hours on the wire."""

_IP = ipaddress.IPv4Address | ipaddress.IPv6Address


def targets(words: Sequence[str]) -> tuple[str, ...]:
    """Every address that `words` name, each once. Raises ValueError naming the word at fault."""
    addresses = expand_addresses(words, MOST_ADDRESSES)
    for address in addresses:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise ValueError(
                f"{address!r} is no address: a scan takes 10.0.0.0/16, 10.0.1.10-250 or 10.0.1.7"
            ) from None
    return addresses


def in_order(addresses: Iterable[str]) -> list[str]:
    """Addresses by their number, not their letters."""
    return [str(address) for address in _sorted(addresses)]


def ranges(addresses: Iterable[str]) -> list[str]:
    """As few words as name these addresses, in the site file's spelling: 10.0.1.10-37, 10.0.1.10-10.0.2.20."""
    words: list[str] = []
    run: list[_IP] = []
    for address in _sorted(addresses):
        if run and (address.version != run[-1].version or int(address) != int(run[-1]) + 1):
            words.append(_word(run))
            run = []
        run.append(address)
    if run:
        words.append(_word(run))
    return words


def _sorted(addresses: Iterable[str]) -> list[_IP]:
    return sorted(map(ipaddress.ip_address, set(addresses)), key=lambda address: (address.version, int(address)))


def _word(run: list[_IP]) -> str:
    first, last = run[0], run[-1]
    if first == last:
        return str(first)
    if first.version == 4 and str(first).rpartition(".")[0] == str(last).rpartition(".")[0]:
        return f"{first}-{str(last).rpartition('.')[2]}"
    return f"{first}-{last}"
