"""One GPU's place in a node: its threads, what it last said, and whether it took what it was told.

What it is doing takes several calls. They have a thread beside, so that no reading and no limit waits for them: NVML
may be called from many threads at once, and AMD's library locks each GPU by itself.
"""

from __future__ import annotations

import time
from enum import Enum
from functools import partial

from curtaild_drivers.contract import BadReply, DriverError, OutcomeUnknown, Refused, Seconds
from curtaild_drivers.gpu.card import Card, CardActivity, CardFacts, CardPower, Host, Milliwatts
from curtaild_drivers.gpu.lane import Hung, Lane

SAME_MW = 1_000
"""Limits this close are the same: drivers round to what the board can hold."""

XID_COUNTS_FOR_S = 600.0
"""How long an XID is a fault: NVML tells of the error, never of its end."""


class Written(Enum):
    """What a GPU did with a limit, as its own read-back proves."""

    SET = "set"
    ALREADY_THERE = "already there"


class Slot:
    """One GPU. `held_mw` is the limit it was last seen to keep, `wanted_mw` the one it took from this daemon, `error`
    why it did not tell its draw when it was last asked."""

    def __init__(self, index: int, host: Host) -> None:
        self.index = index
        self.lane = Lane(f"GPU {index}")
        self._aside = Lane(f"GPU {index}, aside")
        self.card: Card | None = None
        self.power = CardPower()
        self.activity = CardActivity()
        self.held_mw: Milliwatts | None = None
        self.wanted_mw: Milliwatts | None = None
        self.error: DriverError | None = None
        self._host = host
        self._xid_at: Seconds = 0.0
        self._xid: int | None = None

    @property
    def facts(self) -> CardFacts | None:
        return self.card.facts if self.card is not None else None

    @property
    def is_idle(self) -> bool:
        """Whether no call about it is under way or waiting."""
        return self.lane.is_idle and self._aside.is_idle

    @property
    def is_hung(self) -> bool:
        """Whether a call that somebody gave up on has still not come back."""
        return self.lane.is_hung or self._aside.is_hung

    @property
    def xid(self) -> int | None:
        """The last XID that counts as a fault still."""
        return self._xid if self._xid is not None and time.monotonic() - self._xid_at < XID_COUNTS_FOR_S else None

    async def open(self, until: Seconds) -> None:
        """Find out what it is and can do, and what it does, unless that is known. Raises `DriverError`."""
        if self.card is not None:
            return
        try:
            self.card = await self.lane.call(partial(self._host.card, self.index), until)
            await self.lane.call(self._refresh, until)
        except DriverError as error:
            self.error = error
            raise

    async def renew(self, until: Seconds) -> None:
        """Take hold of a lost GPU anew, if it is there again. Raises `DriverError`, and then it stays as it was."""
        fresh = await self.lane.call(partial(self._host.card, self.index), until)
        lost, self.card = self.card, fresh
        if lost is not None:
            await self._aside.call(lost.close, until)  # after what was asked of it there

    async def look(self, until: Seconds) -> CardPower:
        """Ask for its draw and limits. What it is doing is asked afterwards, while nobody waits. Raises
        `DriverError`."""
        if self.card is None:
            raise self.error or DriverError(f"GPU {self.index} has not been opened")
        try:
            self.power = await self.lane.call(self.card.power, until)
        except DriverError as error:
            self.error = error
            raise
        self.error = None
        if self.power.enforced_mw is not None:
            self.held_mw = self.power.enforced_mw
        self._aside.post(self._refresh)
        return self.power

    async def set_limit(self, limit_mw: Milliwatts, until: Seconds) -> Written:
        """Ask for a limit and read it back. Raises `OutcomeUnknown` if it may keep it now, else other errors."""
        assert self.card is not None, "only an opened GPU is told anything"
        self.wanted_mw = None
        if self.held_mw is not None:
            self.held_mw = max(self.held_mw, limit_mw)  # until it says so itself, it may keep either
        try:
            written = await self.lane.call(partial(set_and_read_back, self.card, limit_mw), until)
        except Hung as error:
            raise OutcomeUnknown(str(error)) from None
        self.wanted_mw = limit_mw
        return written

    async def lock_clocks(self, mhz: int | None, until: Seconds) -> Written:
        """Hold the clocks under `mhz`; let them go with `None`. Raises as `set_limit` does."""
        assert self.card is not None, "only an opened GPU is told anything"
        try:
            if mhz is None:
                await self.lane.call(self.card.release_clocks, until)
            else:
                await self.lane.call(partial(self.card.lock_clocks, mhz), until)
        except Hung as error:
            raise OutcomeUnknown(str(error)) from None
        return Written.SET

    async def close(self, until: Seconds) -> None:
        """Let it go; a GPU whose call hangs keeps its thread until that comes back."""
        card, self.card = self.card, None
        try:
            if card is not None:
                await self.lane.call(_nothing, until)  # what is under way ends first
                await self._aside.call(card.close, until)
        except DriverError:
            return
        finally:
            self.lane.close()
            self._aside.close()

    def _refresh(self) -> None:
        """In a thread of its own."""
        card = self.card
        if card is not None:
            activity = card.activity()
            if activity.xid is not None:
                self._xid, self._xid_at = activity.xid, time.monotonic()
            self.activity = activity


def _nothing() -> None:
    """For whoever only waits for his turn."""


def set_and_read_back(card: Card, limit_mw: Milliwatts) -> Written:
    """Ask for a limit and see whether it was taken; blocks. Nothing is written where it is there already. Raises the
    GPU's refusal, `Refused` where it says yes and keeps another, `OutcomeUnknown` where it cannot be read back."""
    try:
        before = card.power()
    except BadReply as error:
        raise Refused(f"nothing was sent, its answer to a question before was unreadable: {error}") from None
    if _is_at(before, limit_mw):
        return Written.ALREADY_THERE
    refusal: DriverError | None = None
    try:
        card.set_limit(limit_mw)
    except DriverError as error:
        refusal = error
    try:
        after = card.power()
    except DriverError as error:
        raise OutcomeUnknown(f"asked for {limit_mw / 1000:g} W, and cannot be read back: {error}") from None
    if _is_at(after, limit_mw):
        return Written.SET
    if refusal is not None:
        raise Refused(str(refusal)) if isinstance(refusal, BadReply) else refusal
    if after.requested_mw is None:
        raise OutcomeUnknown(f"asked for {limit_mw / 1000:g} W, and does not say what it keeps")
    raise Refused(f"said yes to {limit_mw / 1000:g} W and kept {after.requested_mw / 1000:g} W")


def _is_at(power: CardPower, limit_mw: Milliwatts) -> bool:
    return power.requested_mw is not None and abs(power.requested_mw - limit_mw) <= SAME_MW
