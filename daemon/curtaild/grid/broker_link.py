"""The link to one broker: connects for as long as it runs, reads, answers, and knows whether it is heard."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter, thread_time

import aiomqtt

from curtaild.clock import Clock
from curtaild.core.allocation import GridMessage, MessageRejected, RejectCode
from curtaild.grid.dialect import Dialect, Publication, Received
from curtaild.grid.outbox import Outbox
from curtaild_drivers.broker.inbox import Inbox, Shelf, WorkBudget
from curtaild_drivers.broker.mqtt import (
    Access,
    Client,
    ConnectionFailed,
    Obstacle,
    connection,
    lost,
    publish,
    subscribe,
)
from curtaild_drivers.contract import Seconds

log = logging.getLogger("curtaild.grid")

FIRST_RETRY_S = 0.2
LONGEST_NETWORK_RETRY_S = 1.5
"""A broker that is away may be back any moment, and the site should hear it within 2 s of that: a knock at a closed
port costs nothing, and a site has few brokers."""
LONGEST_SETUP_RETRY_S = 30.0
"""Wrong credentials do not heal by themselves, and brokers ban those who insist."""
STEADY_AFTER_S = 5.0
"""A connection that held this long starts the back-off anew; a shorter one may be two clients with one id at war."""
GOODBYE_TIMEOUT_S = 1.5
ECHO_TIMEOUT_S = 5.0
WATCH_EVERY_S = 1.0
FLOOD_MESSAGES = 500
"""Messages that count as a flood, however slowly a busy host takes them, as long as it hardly pauses: mosquitto drops
the newest past 1,000 waiting."""
CALM_MESSAGES = 50
"""Fewer between two looks (`WATCH_EVERY_S`) are a pause."""
CLOCK_STEP_S = 1.0
"""A wall clock that moves so far between two looks was set; NTP's slewing moves it by half a millisecond a second."""

READING_SHARE = 0.2
READING_BURST_S = 0.05


@dataclass(frozen=True, slots=True)
class BrokerState:
    """How the link to one broker of `connection` stands. `since` is when `connected` last changed, monotonic seconds.

    `dropped_total` counts messages superseded unread in a flood, and answers given up because the broker was away too
    long. `echo_ok` says whether our own status comes back from the broker (`None`: not known yet); where it does
    not, an access list swallows what we publish or withholds what we read, and MQTT 3.1.1 reports neither.
    """

    connection: str
    url: str
    connected: bool
    since: Seconds
    reconnects_total: int
    received_total: int
    rejected_total: Mapping[RejectCode, int]
    dropped_total: int
    last_error: str | None
    echo_ok: bool | None


class BrokerLink:
    """One broker's side of one connection; `number` counts its brokers from 0. `run` ends only by cancellation;
    everything else returns at once."""

    def __init__(
        self,
        access: Access,
        dialect: Dialect,
        name: str,
        number: int,
        clock: Clock,
        deliver: Callable[[GridMessage], None],
    ) -> None:
        self._access = access
        self._dialect = dialect
        self._name = name
        self._number = number
        self._clock = clock
        self._deliver = deliver
        self._outbox = Outbox()
        self._has_outgoing = asyncio.Event()
        self._budget = WorkBudget(READING_SHARE, READING_BURST_S)
        self._writing_to: Client | None = None
        self._under_way: tuple[Publication, asyncio.Event] | None = None
        self._echo_topic = dialect.echo_topic

        self._connected = False
        self._since = self._clock.monotonic()
        self._connects_total = 0
        self._received_total = 0
        self._rejected_total: Counter[RejectCode] = Counter()
        self._superseded_before = 0
        self._inbox = Inbox({})
        self._last_error: str | None = None
        self._echo_ok: bool | None = None
        self._echo_expected: bytes | None = None
        self._echo_due_at = 0.0

    @property
    def state(self) -> BrokerState:
        return BrokerState(
            connection=self._name,
            url=self._access.url,
            connected=self._connected,
            since=self._since,
            reconnects_total=max(0, self._connects_total - 1),
            received_total=self._received_total,
            rejected_total=dict(self._rejected_total),
            dropped_total=self._superseded_before + self._inbox.dropped_total + self._outbox.dropped_total,
            last_error=self._last_error,
            echo_ok=self._echo_ok,
        )

    def publish(self, publication: Publication) -> None:
        """Send it as soon as the broker is there: now, if nothing else is under way to it."""
        self._outbox.add(publication)
        if self._writing_to is not None:
            with suppress(Exception):  # the writer meets it too, where it is told
                self._begin_next(self._writing_to)
        self._has_outgoing.set()

    async def run(self) -> None:
        attempt = 0
        while True:
            try:
                await self._session()
            except ConnectionFailed as failure:
                held_s = self._clock.monotonic() - self._since if self._connected else 0.0
                attempt = 1 if held_s >= STEADY_AFTER_S else attempt + 1
                self._note_failure(failure)
                await asyncio.sleep(retry_delay_s(attempt, failure.obstacle))

    async def _session(self) -> None:
        inbox = self._empty_inbox()
        async with connection(self._access, inbox, self._will()) as client:
            subscriptions = self._dialect.subscriptions
            await self._subscribe_state(client)
            other = [(topic, wanted.qos) for topic, wanted in subscriptions.items() if not wanted.is_state]
            if other:
                await subscribe(client, other, self._access)
            self._note_connected()
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._read(client, inbox))
                    tasks.create_task(self._write(client))
                    tasks.create_task(self._watch(client, inbox))
            except ExceptionGroup as errors:
                raise _session_end(errors) from None
            except asyncio.CancelledError:
                await self._say_goodbye(client)
                self._connected, self._since = False, self._clock.monotonic()
                raise

    def _will(self) -> aiomqtt.Will | None:
        will = self._dialect.last_will
        return aiomqtt.Will(will.topic, will.payload, qos=will.qos, retain=will.retain) if will is not None else None

    def _empty_inbox(self) -> Inbox:
        """A new one per connection: a heartbeat left unread from before a loss proves nothing after it."""
        self._superseded_before += self._inbox.dropped_total
        self._inbox = Inbox(
            {
                topic: Shelf(wanted.messages, wanted.max_payload_bytes)
                for topic, wanted in self._dialect.subscriptions.items()
            },
            self._take_at_once,
        )
        return self._inbox

    async def _subscribe_state(self, client: Client) -> None:
        """The broker answers with its retained copies, which are the newest there are."""
        states = [(topic, wanted.qos) for topic, wanted in self._dialect.subscriptions.items() if wanted.is_state]
        if states:
            await subscribe(client, states, self._access)

    # ---- reading ------------------------------------------------------------------------------

    async def _read(self, client: Client, inbox: Inbox) -> None:
        """Reading gets a share of the event loop, not all of it: what a flood brings beyond it, the inbox sorts out."""
        async for message in client.messages:
            pause_s = self._take_timed(message)
            inbox.was_read()
            if pause_s > 0:
                await asyncio.sleep(pause_s)

    def _take_at_once(self, message: aiomqtt.Message) -> bool:
        if self._budget.is_spent(perf_counter()):
            return False
        self._take_timed(message)
        return True

    def _take_timed(self, message: aiomqtt.Message) -> Seconds:
        """How long to pause before the next."""
        begun_s = thread_time()  # of the processor: what others take of it is no work of ours
        self._take(message)
        return self._budget.pause_after(thread_time() - begun_s, perf_counter())

    def _take(self, message: aiomqtt.Message) -> None:
        topic, payload = message.topic.value, message.payload
        if topic == self._echo_topic:
            self._hear_own_status(payload, is_live=not message.retain)
            return
        self._received_total += 1
        for received in self._dialect.decode(Received(topic, payload, message.retain, self._number)):
            if isinstance(received, MessageRejected):
                self._rejected_total[received.code] += 1
            self._deliver(received)

    # ---- writing ------------------------------------------------------------------------------

    async def _write(self, client: Client) -> None:
        self._under_way = None
        self._outbox.repeat_states()
        self._writing_to = client
        try:
            while True:
                await self._flush(client)
                await self._has_outgoing.wait()
        finally:
            self._writing_to = None

    async def _flush(self, client: Client) -> None:
        """Hand over all that waits, one after the other: so order holds, and paho's own unbounded queue stays empty."""
        while True:
            self._begin_next(client)
            if self._under_way is None:
                break
            publication, acknowledged = self._under_way
            await client.acknowledged(acknowledged)
            self._under_way = None
            self._outbox.handed_over(publication)
        self._has_outgoing.clear()

    def _begin_next(self, client: Client) -> None:
        """Send what is next, unless the broker has yet to acknowledge the one before. Raises `ConnectionFailed`."""
        publication = self._outbox.next
        if publication is None or self._under_way is not None:
            return
        if publication.topic == self._echo_topic and self._echo_expected is None:
            self._echo_expected = publication.payload
            self._echo_due_at = self._clock.monotonic() + ECHO_TIMEOUT_S
        topic, payload, qos, retain = publication.topic, publication.payload, publication.qos, publication.retain
        self._under_way = publication, client.begin_publish(topic, payload, qos=qos, retain=retain)

    async def _say_goodbye(self, client: Client) -> None:
        """Stopped on purpose: answer what is open, then say offline ourselves; else the last will says it."""
        try:
            async with asyncio.timeout(GOODBYE_TIMEOUT_S):
                await self._flush(client)
                for word in self._dialect.goodbye():
                    await publish(client, word.topic, word.payload, qos=word.qos, retain=word.retain)
        except (ConnectionFailed, TimeoutError) as error:
            log.warning(
                "grid link to %s: could not say goodbye: %s", self._access.url, str(error) or "no answer in time"
            )

    # ---- watching -----------------------------------------------------------------------------

    async def _watch(self, client: Client, inbox: Inbox) -> None:
        """Now and then: is our status coming back, is a flood over, was our clock set?

        A flood makes the *broker* drop the newest messages for us, unseen. So once it is over, ask for the retained
        copies again; and also once the clock is right by which they may have been refused.
        """
        seen, unpaused, is_flooded, offset_s = 0, 0, False, self._wall_offset_s()
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            stepped_s, offset_s = self._wall_offset_s() - offset_s, self._wall_offset_s()
            if abs(stepped_s) > CLOCK_STEP_S:
                url = self._access.url
                log.warning("grid link to %s: our clock was set by %+.0f s; asking for the state again", url, stepped_s)
                await self._subscribe_state(client)
            arrived, seen = inbox.arrived_total - seen, inbox.arrived_total
            unpaused = unpaused + arrived if arrived >= CALM_MESSAGES else unpaused // 2
            if unpaused > FLOOD_MESSAGES and not is_flooded:
                is_flooded = True
                log.warning("grid link to %s: flooded, %d messages with hardly a pause", self._access.url, unpaused)
            elif is_flooded and arrived < CALM_MESSAGES and inbox.empty():
                is_flooded = False
                log.warning("grid link to %s: the flood is over; asking for the state again", self._access.url)
                await self._subscribe_state(client)
            if is_flooded:
                self._echo_expected = None  # dropped with the rest, most likely; that is no one's access list
            else:
                self._check_echo()

    def _wall_offset_s(self) -> Seconds:
        return self._clock.wall() - self._clock.monotonic()

    def _check_echo(self) -> None:
        if self._echo_expected is None or self._clock.monotonic() < self._echo_due_at:
            return
        self._echo_expected = None
        if self._echo_ok is not False:
            log.error(
                "grid link to %s: our status does not come back. The broker's access list may withhold our topics, "
                "both ways, without a word: let the site's user write ack, status and breach and read the rest",
                self._access.url,
            )
        self._echo_ok = False

    def _hear_own_status(self, payload: bytes, is_live: bool) -> None:
        if payload == self._echo_expected:
            self._echo_expected = None
            if self._echo_ok is False:
                log.warning("grid link to %s: our status comes back again", self._access.url)
            self._echo_ok = True
            return
        will = self._dialect.last_will
        if is_live and will is not None and payload == will.payload:
            # the broker only now gave up an earlier connection of ours, and told the grid that we are offline
            self._outbox.repeat_states()
            self._has_outgoing.set()

    def _note_connected(self) -> None:
        now = self._clock.monotonic()
        if self._last_error is not None:
            log.warning("grid link to %s is up, after %.1f s", self._access.url, now - self._since)
        else:
            log.info("grid link to %s is up", self._access.url)
        self._connected, self._since = True, now
        self._connects_total += 1
        self._last_error = None
        self._echo_expected = None

    def _note_failure(self, failure: ConnectionFailed) -> None:
        if self._connected:
            self._connected, self._since = False, self._clock.monotonic()
            self._echo_ok = None
            log.error("grid link to %s is lost: %s; trying again", self._access.url, failure.reason)
        elif failure.reason != self._last_error:
            log.error("grid link to %s cannot be made: %s; trying again", self._access.url, failure.reason)
        self._last_error = failure.reason


def retry_delay_s(attempt: int, obstacle: Obstacle) -> float:
    """How long to wait after the `attempt`-th failure in a row: doubling, capped, with jitter so that a thousand sites
    do not come back to a broker in the same instant."""
    longest = LONGEST_NETWORK_RETRY_S if obstacle is Obstacle.NETWORK else LONGEST_SETUP_RETRY_S
    return min(longest, FIRST_RETRY_S * 2.0 ** min(attempt - 1, 16)) * random.uniform(0.75, 1.0)


def _session_end(errors: ExceptionGroup[Exception]) -> Exception:
    """The one reason a session ended for. Anything but a broken connection is a fault of ours and goes up as it is."""
    expected, unexpected = errors.split((aiomqtt.MqttError, ConnectionFailed))
    if unexpected is not None or expected is None:
        return errors
    first = expected.exceptions[0]
    return (
        first
        if isinstance(first, ConnectionFailed)
        else lost(first)
        if isinstance(first, aiomqtt.MqttError)
        else errors
    )
