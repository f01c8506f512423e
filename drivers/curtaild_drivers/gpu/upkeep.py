"""What a person does with this host's GPUs by hand: look at them, and put back the limits that were there before.

For the command line: every call blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from curtaild_drivers.contract import DriverError
from curtaild_drivers.gpu.card import Card, CardActivity, CardFacts, CardPower, Host, Milliwatts
from curtaild_drivers.gpu.memory import NodeMemory
from curtaild_drivers.gpu.slot import set_and_read_back


@dataclass(frozen=True, slots=True)
class Seen:
    """One GPU as it is now, or why it could not be asked."""

    index: int
    facts: CardFacts | None = None
    power: CardPower | None = None
    activity: CardActivity | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class PutBack:
    """What became of one remembered limit; `error` is `None` where it holds again."""

    uuid: str
    index: int | None
    limit_mw: Milliwatts
    error: str | None = None


@contextmanager
def _opened(host: Host) -> Iterator[tuple[str, list[tuple[int, Card | DriverError]]]]:
    version, count = host.open()
    cards: list[tuple[int, Card | DriverError]] = []
    try:
        for index in range(count):
            try:
                cards.append((index, host.card(index)))
            except DriverError as error:
                cards.append((index, error))
        yield version, cards
    finally:
        for _, card in cards:
            if not isinstance(card, DriverError):
                card.close()
        host.close()


def look(host: Host) -> tuple[str, list[Seen]]:
    """The driver's version, and every GPU. Reads only. Raises `DriverError` where there is no driver."""
    seen: list[Seen] = []
    with _opened(host) as (version, cards):
        for index, card in cards:
            if isinstance(card, DriverError):
                seen.append(Seen(index, error=str(card)))
                continue
            try:
                seen.append(Seen(index, card.facts, card.power(), card.activity()))
            except DriverError as error:
                seen.append(Seen(index, card.facts, error=str(error)))
    return version, seen


def restore(host: Host, memory: NodeMemory) -> list[PutBack]:
    """Put the remembered limits back, let clocks go that were locked, and forget what is done.

    Raises `DriverError` where there is no driver or a daemon holds the GPUs, `OSError` where the file cannot be read.
    """
    memory.load()
    memory.claim()
    done: list[PutBack] = []
    try:
        with _opened(host) as (_, cards):
            present = {card.facts.uuid: card for _, card in cards if not isinstance(card, DriverError)}
            for uuid, limit_mw in sorted(memory.limits_mw.items()):
                done.append(_put_back(present.get(uuid), uuid, limit_mw, are_clocks_locked="clocks" in memory.stages))
        for each in done:
            if each.error is None:
                del memory.limits_mw[each.uuid]
        if all(each.error is None for each in done):
            memory.stages.discard("clocks")
        memory.keep()
    finally:
        memory.release()
    return done


def _put_back(card: Card | None, uuid: str, limit_mw: Milliwatts, are_clocks_locked: bool) -> PutBack:
    if card is None:
        return PutBack(uuid, None, limit_mw, "no such GPU answers on this host")
    try:
        set_and_read_back(card, limit_mw)
        if are_clocks_locked:
            card.release_clocks()
    except DriverError as error:
        return PutBack(uuid, card.facts.index, limit_mw, str(error))
    return PutBack(uuid, card.facts.index, limit_mw)
