"""The connection to one VTN: reads it every so often and whenever it hints, registers, listens, reports; knows how it
stands. The site lives on what was read last, and after a silence on the fail-safe limit."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from curtaild.clock import Clock
from curtaild.core.allocation import GridMessage, Issuer, MessageRejected, RejectCode
from curtaild.grid.broker_link import BrokerState
from curtaild.grid.dialect import NAMESPACE_MARK, Publication
from curtaild.grid.fields import Rejection
from curtaild.grid.openadr.dialect import OpenAdrDialect
from curtaild.grid.openadr.notifier import Listening, Notifier
from curtaild.grid.openadr.objects import Ven
from curtaild.grid.openadr.reading import Notifications, Reading, TooMuch
from curtaild.grid.openadr.vtn import Vtn, VtnAccess, VtnFailed
from curtaild_drivers.broker.mqtt import Obstacle
from curtaild_drivers.contract import Seconds, Watts

log = logging.getLogger("curtaild.grid.openadr")

TICK_S = 1.0
READING_TIMEOUT_S = 45.0
"""All pages together."""
LEAST_GAP_S = 1.0
"""Between two readings, however many hints there are."""
JITTER = 0.1
SETTLED_S = 300.0
"""How long our ven object, and where notifications are had, count as known."""
MOST_REPORTS_WAITING = 64
MOST_REPORTS_AT_ONCE = 16
MOST_TOLD = 64
NO_SUCH_EVENT = (404, 409)
"""How VTNs answer a report of an event that was deleted while the report was on its way: nobody's fault."""
FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = {Obstacle.NETWORK: 10.0, Obstacle.SETUP: 30.0}


@dataclass(frozen=True, slots=True)
class Polling:
    """How the VTN is followed, as the site file says. `targets` are asked for; empty: those granted to our ven."""

    access: VtnAccess
    ven_name: str
    rating_w: Watts
    targets: tuple[str, ...]
    poll_s: Seconds
    is_notified: bool
    mqtt_client_id: str


class OpenAdrConnection:
    """One VEN at one VTN. `run` ends only by cancellation. `deliver` is called on the event loop."""

    def __init__(
        self,
        name: str,
        dialect: OpenAdrDialect,
        polling: Polling,
        clock: Clock,
        deliver: Callable[[GridMessage], None],
    ) -> None:
        self.name = name
        self.dialect = dialect
        self._polling = polling
        self._clock = clock
        self._deliver = deliver
        self._notifier = Notifier(
            name, polling.mqtt_client_id, polling.access.ca_file, dialect, clock, deliver, self._hint
        )
        self._is_hinted = False
        self._awake = asyncio.Event()
        self._reports: deque[Mapping[str, object]] = deque(maxlen=MOST_REPORTS_WAITING)
        self._ven: Ven | None = None
        self._notifications: Notifications | None = None
        self._told: set[str] = set()
        self._is_active_only = False
        self._settled_at: Seconds | None = None
        self._connected = False
        self._since = clock.monotonic()
        self._connects_total = 0
        self._readings_total = 0
        self._rejected_total: Counter[RejectCode] = Counter()
        self._dropped_total = 0
        self._last_error: str | None = None

    @property
    def states(self) -> Sequence[BrokerState]:
        vtn = BrokerState(
            connection=self.name,
            url=self._polling.access.url,
            connected=self._connected,
            since=self._since,
            reconnects_total=max(0, self._connects_total - 1),
            received_total=self._readings_total,
            rejected_total=dict(self._rejected_total),
            dropped_total=self._dropped_total,
            last_error=self._last_error,
            echo_ok=None,
        )
        return [vtn, *self._notifier.states]

    def publish(self, publications: Sequence[Publication]) -> None:
        """OpenADR knows no answers but reports, which are due when they are due."""

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._notifier.run())
            tasks.create_task(self._keep_time())

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            for message in self.dialect.tick(self._connected):
                self._deliver(message)
            self._notifier.look()
            for report in islice(self.dialect.reporter.due(self._clock.monotonic()), MOST_REPORTS_AT_ONCE):
                self._dropped_total += len(self._reports) == MOST_REPORTS_WAITING
                self._reports.append(report)
                self._awake.set()

    def _hint(self) -> None:
        self._is_hinted = True
        self._awake.set()

    # ---- reading ------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """A new session after each failure, so that renewed certificates and secrets' lives begin anew."""
        attempt = 0
        while True:
            try:
                async with Vtn(self._polling.access, self._clock) as vtn:
                    while True:
                        begun_at = self._clock.monotonic()
                        await self._read_within_time(vtn)
                        attempt = 0
                        await self._wait(vtn, begun_at)
            except VtnFailed as failure:
                attempt += 1
                self._note_failure(failure)
                await asyncio.sleep(self._retry_delay_s(attempt, failure))

    def _retry_delay_s(self, attempt: int, failure: VtnFailed) -> float:
        """Doubling, capped, with jitter; a network that is back is noticed no later than by polling."""
        longest_s = min(LONGEST_RETRY_S[failure.obstacle], self._polling.poll_s)
        delay_s = min(longest_s, FIRST_RETRY_S * 2.0 ** min(attempt - 1, 16)) * random.uniform(0.75, 1.0)
        return max(delay_s, failure.retry_after_s or 0.0)

    async def _wait(self, vtn: Vtn, begun_at: Seconds) -> None:
        """Until the next reading is due, by time or by a hint; reports go out meanwhile."""
        until = begun_at + self._polling.poll_s * random.uniform(1 - JITTER, 1 + JITTER)
        while True:
            await self._send_reports(vtn)
            if self._is_hinted:
                until = min(until, begun_at + LEAST_GAP_S)
            left_s = until - self._clock.monotonic()
            if left_s <= 0:
                return
            self._awake.clear()
            try:
                async with asyncio.timeout(left_s):
                    await self._awake.wait()
            except TimeoutError:
                return

    async def _read_within_time(self, vtn: Vtn) -> None:
        self._is_hinted = False
        try:
            async with asyncio.timeout(READING_TIMEOUT_S):
                await self._read(vtn)
        except TimeoutError:
            reason = f"programs and events could not be read within {READING_TIMEOUT_S:g} s"
            raise VtnFailed(Obstacle.NETWORK, reason) from None

    async def _read(self, vtn: Vtn) -> None:
        reading, polling = Reading(vtn, self._clock, self._tell), self._polling
        is_settled = self._settled_at is not None and self._clock.monotonic() < self._settled_at + SETTLED_S
        if not is_settled:
            self._ven = await reading.ven(polling.ven_name, polling.rating_w, self._ven)
        granted = self._ven.targets if self._ven is not None else ()
        try:
            snapshot = await reading.snapshot(polling.targets or granted, self._is_active_only)
            book = await asyncio.to_thread(self.dialect.digest, snapshot)
        except Rejection as refusal:
            self._is_active_only |= refusal.code is RejectCode.TOO_LARGE
            raise self._refused(refusal) from None
        except TooMuch:
            self._is_active_only = True  # what is over need not be shown: perhaps that helps
            raise
        messages = self.dialect.take(book)
        self._readings_total += 1
        for message in messages:
            if isinstance(message, MessageRejected):
                self._rejected_total[message.code] += 1
            self._deliver(message)
        self._note_connected()
        if not is_settled:
            if polling.is_notified:
                self._notifications = await reading.notifications(self._ven, self.dialect.programs)
            self._settled_at = self._clock.monotonic()
        self._listen(vtn.token)

    def _listen(self, token: str | None) -> None:
        if self._notifications is None:
            self._notifier.listen(None)
        else:
            self._notifier.listen(Listening(*self._notifications, self._polling.access.client_id, token))

    def _refused(self, refusal: Rejection) -> VtnFailed:
        """A reading that cannot be taken as a whole: told once, and no sign of life."""
        if refusal.reason != self._last_error:
            self._rejected_total[refusal.code] += 1
            issuer = Issuer(f"openadr{NAMESPACE_MARK}{self.name}")
            self._deliver(MessageRejected(refusal.code, refusal.reason, issuer=issuer, retained=True))
        return VtnFailed(Obstacle.SETUP, refusal.reason)

    # ---- reporting ----------------------------------------------------------------------------

    async def _send_reports(self, vtn: Vtn) -> None:
        while self._reports:
            report = self._reports[0]
            try:
                await vtn.post("/reports", report)
            except VtnFailed as failure:
                if not failure.is_refusal:
                    raise  # it stays, and goes with the next session
                level = logging.INFO if failure.status in NO_SUCH_EVENT else logging.ERROR
                words = "report %s of event %s is refused: %s"
                log.log(level, words, report["reportName"], report["eventID"], failure.reason)
                self._dropped_total += 1
            if self._reports and self._reports[0] is report:
                self._reports.popleft()

    def _tell(self, words: str) -> None:
        """What people should know of the VTN, each once."""
        if words not in self._told and len(self._told) < MOST_TOLD:
            self._told.add(words)
            log.warning("%s: %s", self._polling.access.url, words)

    # ---- how it stands ------------------------------------------------------------------------

    def _note_connected(self) -> None:
        if self._connected:
            return
        now, url = self._clock.monotonic(), self._polling.access.url
        if self._last_error is not None:
            log.warning("grid link to %s is up, after %.1f s", url, now - self._since)
        else:
            log.info("grid link to %s is up", url)
        self._connected, self._since = True, now
        self._connects_total += 1
        self._last_error = None

    def _note_failure(self, failure: VtnFailed) -> None:
        url = self._polling.access.url
        self._settled_at = None  # what comes back may be another, and know nothing of us
        if self._connected:
            self._connected, self._since = False, self._clock.monotonic()
            log.error("grid link to %s is lost: %s; trying again", url, failure.reason)
        elif failure.reason != self._last_error:
            log.error("grid link to %s cannot be made: %s; trying again", url, failure.reason)
        self._last_error = failure.reason
