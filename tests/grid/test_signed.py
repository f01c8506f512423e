"""Signed native connections: who is believed, what his rights are, how often he may speak; nothing old is new."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from curtaild.core.allocation import (
    AllocationReceived,
    GridMessage,
    HeartbeatReceived,
    Issuer,
    MessageRejected,
    RejectCode,
    ScheduleReceived,
)
from curtaild.core.events import LinkPhase
from curtaild.core.limits import Limit
from curtaild.core.link import Link, LinkPolicy
from curtaild.grid.dialect import Received
from curtaild.grid.keys import KeyFileError, Signer
from curtaild.grid.native import Context, Gate, NativeDialect, Rights, Topics, gate_of, signed
from curtaild.grid.native.pace import REFUSALS_AT_ONCE, REFUSALS_PER_MIN
from curtaild.grid.opening import open_grid, who_is_heard
from curtaild.grid.operator import Operator
from curtaild.memory import LinkKeeper, link_memory
from curtaild_config import Site, SiteFileError
from curtaild_drivers.contract import FeederId
from grid.dsx import HandClock, at_noon, ec_signer, jwks, public, rsa_signer
from grid.rig import CLOCK, as_operator, at_work, limit_of, topics
from mosquitto import Mosquitto

ROOT, ROW = FeederId("main"), FeederId("row-1")
NPCC, BACK_UP = Issuer("npcc"), Issuer("back-up")
TOPICS = Topics("curtaild/v1", "thar-1")
RIGHTS = {NPCC: Rights(), BACK_UP: Rights(frozenset({ROW}), 50_000.0, False, 6.0)}
KEYS = {NPCC: public(ec_signer("npcc-1"), rsa_signer("npcc-2")), BACK_UP: public(ec_signer("back-up-1"))}


class Connection:
    """A signed native connection at noon, and what it is told."""

    def __init__(self, gate: Gate | None = None) -> None:
        self.clock = HandClock()
        self.context = Context(TOPICS, ROOT, self.clock, 60.0, 16_384, gate or gate_of(RIGHTS, KEYS))
        self.dialect = NativeDialect(self.context, beats=True)

    def hears(self, payload: bytes, topic: str = TOPICS.allocation) -> list[GridMessage]:
        return list(self.dialect.decode(Received(topic, payload)))

    def takes(self, payload: bytes, topic: str = TOPICS.allocation) -> GridMessage:
        (message,) = self.hears(payload, topic)
        assert not isinstance(message, MessageRejected), message
        return message

    def refuses(self, payload: bytes, topic: str = TOPICS.allocation) -> MessageRejected:
        (message,) = self.hears(payload, topic)
        assert isinstance(message, MessageRejected), message
        return message


def order(number: int = 1, **changes: Any) -> dict[str, Any]:
    times = {"issued_at": at_noon(), "valid_from": at_noon(), "valid_until": None}
    return {"id": f"order-{number}", "seq": number, "issuer": "npcc", "limit_w": 1e6, **times, **changes}


def by(kid: str, body: Mapping[str, Any], topic: str = TOPICS.allocation) -> bytes:
    return signed(json.dumps(body).encode(), topic, ec_signer(kid))


def by_back_up(**changes: Any) -> bytes:
    return by("back-up-1", order(**{"issuer": "back-up", "feeder": "row-1", **changes}))


# ---- who is believed --------------------------------------------------------------------------


@pytest.mark.parametrize("signer", [ec_signer("npcc-1"), rsa_signer("npcc-2")], ids=["ES256", "RS256"])
def test_what_an_issuer_signs_is_taken(signer: Signer) -> None:
    message = Connection().takes(signed(json.dumps(order(limit_w=5.0)).encode(), TOPICS.allocation, signer))
    assert isinstance(message, AllocationReceived)
    assert (message.allocation.issuer, message.allocation.ceiling) == (NPCC, Limit(5.0))


def test_a_schedule_of_full_length_may_be_signed() -> None:
    """256 allocations of 512 bytes are what an unsigned one may have."""
    items = [order(n, padding="x" * 300) for n in range(256)]
    schedule = {"issuer": "npcc", "seq": 1, "issued_at": at_noon(), "allocations": items}
    token = by("npcc-1", schedule, TOPICS.schedule)
    assert len(token) > 128 * 1024
    message = Connection().takes(token, TOPICS.schedule)
    assert isinstance(message, ScheduleReceived)
    assert len(message.allocations) == 256


def encoded(body: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(body).encode()).decode().rstrip("=")


def forgeries() -> dict[str, bytes]:
    genuine = by("npcc-1", order()).decode()
    head, _, signature = genuine.split(".")
    none = encoded({"alg": "none", "kid": "npcc-1"})
    stranger = Signer(ec_signer("stranger").key, "npcc-1")
    return {
        "nobody's key": by("stranger", order()),
        "another's key under a known kid": signed(json.dumps(order()).encode(), TOPICS.allocation, stranger),
        "another content": f"{head}.{encoded({**order(limit_w=9e9), 'aud': TOPICS.allocation})}.{signature}".encode(),
        "no algorithm": f"{none}.{encoded({**order(), 'aud': TOPICS.allocation})}.".encode(),
        "no signature": json.dumps({**order(), "aud": TOPICS.allocation}).encode(),
        "without aud": ec_signer("npcc-1").sign(json.dumps(order()).encode()).encode(),
        "for the schedule": by("npcc-1", order(), TOPICS.schedule),
        "for another site": by("npcc-1", order(), "curtaild/v1/thar-2/allocation"),
        "in another's name": by("back-up-1", order()),
    }


@pytest.mark.parametrize("what", forgeries())
def test_what_is_forged_or_meant_for_others_is_refused(what: str) -> None:
    assert Connection().refuses(forgeries()[what]).code in (RejectCode.UNAUTHORIZED, RejectCode.MALFORMED)


@pytest.mark.parametrize("junk", [b"a.b.c", b"..", b"\xff\xfe", b"[]", b"e30.e30.e30", b"{", b"x" * 30_000])
def test_junk_is_refused(junk: bytes) -> None:
    assert Connection().refuses(junk).code in (RejectCode.MALFORMED, RejectCode.UNAUTHORIZED, RejectCode.TOO_LARGE)


def test_who_forgot_to_sign_is_told_so_by_name() -> None:
    refused = Connection().refuses(json.dumps(order(7)).encode())
    assert (refused.code, refused.allocation_id, refused.issuer) == (RejectCode.UNAUTHORIZED, "order-7", "npcc")
    assert "not signed" in refused.reason


def test_a_key_belongs_to_one_issuer() -> None:
    with pytest.raises(KeyFileError, match="both have a key 'npcc-1'"):
        gate_of(RIGHTS, {NPCC: KEYS[NPCC], BACK_UP: public(ec_signer("npcc-1"))})


# ---- rights -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"feeder": None}, "speaks for row-1, not for main"),
        ({"feeder": "row-2"}, "speaks for row-1, not for row-2"),
        ({"limit_w": 49_999}, "may not go below 50000 W"),
        ({"limit_w": 0}, "may not go below"),
        ({"class": "emergency"}, "may not state an emergency"),
    ],
)
def test_nobody_goes_beyond_his_rights(changes: dict[str, Any], why: str) -> None:
    connection = Connection()
    refused = connection.refuses(by_back_up(**changes))
    assert (refused.code, refused.allocation_id) == (RejectCode.UNAUTHORIZED, "order-1")
    assert why in refused.reason
    items = [{**order(), "issuer": "back-up", "feeder": "row-1", **changes}]
    schedule = {"issuer": "back-up", "seq": 1, "issued_at": at_noon(), "allocations": items}
    assert why in connection.refuses(by("back-up-1", schedule, TOPICS.schedule), TOPICS.schedule).reason


@pytest.mark.parametrize("changes", [{}, {"limit_w": 50_000}, {"limit_w": None}])
def test_within_his_rights_everybody_is_heard(changes: dict[str, Any]) -> None:
    assert isinstance(Connection().takes(by_back_up(**changes)), AllocationReceived)


# ---- how often --------------------------------------------------------------------------------


def test_who_speaks_too_often_is_heard_with_his_newest_when_his_turn_comes() -> None:
    connection = Connection()
    for number in range(1, 7):
        connection.takes(by_back_up(number=number, limit_w=60_000 + number))
    assert connection.hears(by_back_up(number=7)) == []
    overtaken = connection.refuses(by_back_up(number=8, limit_w=77_000))
    assert (overtaken.code, overtaken.allocation_id) == (RejectCode.TOO_LARGE, "order-7")
    assert connection.dialect.tick(True) == []
    connection.takes(by("npcc-1", order(1)))  # others are not made to wait
    connection.clock.moved_s += 10.0  # six a minute
    (late,) = connection.dialect.tick(True)
    assert isinstance(late, AllocationReceived)
    assert late.allocation.ceiling == Limit(77_000)
    assert connection.dialect.tick(True) == []


def test_what_comes_in_time_replaces_what_waits() -> None:
    connection = Connection()
    for number in range(1, 8):
        connection.hears(by_back_up(number=number))
    connection.clock.moved_s += 10.0
    overtaken, newest = connection.hears(by_back_up(number=8))
    assert isinstance(overtaken, MessageRejected)
    assert isinstance(newest, AllocationReceived)
    assert newest.allocation.seq == 8


def test_a_flood_of_forgeries_is_answered_only_so_far() -> None:
    """Each answer is written down: a stranger's flood must not fill the disk."""
    connection = Connection()
    forged = by("stranger", order())
    answered = sum(len(connection.hears(forged)) for _ in range(int(REFUSALS_AT_ONCE) + 500))
    assert answered == REFUSALS_AT_ONCE
    connection.clock.moved_s += 60.0
    assert sum(len(connection.hears(forged)) for _ in range(500)) == REFUSALS_PER_MIN
    connection.takes(by("npcc-1", order()))


# ---- nothing old is new -----------------------------------------------------------------------


def beat(seq: int, moved_s: float = 0.0, kid: str = "npcc-1") -> bytes:
    return by(kid, {"at": at_noon(moved_s), "seq": seq}, TOPICS.heartbeat)


def test_a_heartbeat_counts_once_and_only_now() -> None:
    connection = Connection()
    assert connection.takes(beat(5), TOPICS.heartbeat) == HeartbeatReceived()
    assert connection.hears(beat(5), TOPICS.heartbeat) == []  # by the second broker, or recorded
    assert connection.hears(beat(4), TOPICS.heartbeat) == []
    assert connection.takes(beat(1, kid="back-up-1"), TOPICS.heartbeat) == HeartbeatReceived()
    connection.clock.moved_s += 61.0
    old = connection.refuses(beat(6), TOPICS.heartbeat)
    assert (old.code, old.reason) == (RejectCode.CLOCK_SKEW, "at is 61 s behind the site's clock")
    assert "ahead of" in connection.refuses(beat(6, 200.0), TOPICS.heartbeat).reason
    assert connection.takes(beat(6, 61.0), TOPICS.heartbeat) == HeartbeatReceived()


def test_a_recorded_message_changes_nothing_after_a_restart_either() -> None:
    """The link's memory is what survives; recorded here: an allocation and a schedule that newer ones replaced."""
    policy = LinkPolicy(ROOT, frozenset({ROOT, ROW}), 100.0)
    connection = Connection()
    link = Link(policy, connection.clock.monotonic())

    def hears(payload: bytes, topic: str = TOPICS.allocation) -> list[tuple[object, object]]:
        events = link.receive(connection.takes(payload, topic), connection.clock.monotonic())
        link.advance(connection.clock.monotonic())
        return [(getattr(event, "stage", None), getattr(event, "code", None)) for event in events]

    def schedule(seq: int, *items: dict[str, Any]) -> bytes:
        body = {"issuer": "npcc", "seq": seq, "issued_at": at_noon(), "allocations": items}
        return by("npcc-1", body, TOPICS.schedule)

    old = by("npcc-1", order(1, limit_w=9e6)), schedule(1, order(2, limit_w=9e6, valid_from=at_noon(600.0)))
    hears(old[0])
    hears(old[1], TOPICS.schedule)
    hears(by("npcc-1", order(3, limit_w=2e6)))
    hears(schedule(4), TOPICS.schedule)
    held = [allocation.id for allocation in link.memory.allocations]

    connection = Connection()
    kept = LinkKeeper({}).documents(link.memory, connection.clock)
    memory = link_memory({key: text for key, text in kept.items() if text is not None}, connection.clock)
    link = Link(policy, connection.clock.monotonic(), memory)
    for payload, topic in zip(old, (TOPICS.allocation, TOPICS.schedule), strict=True):
        hears(payload, topic)
    hears(by("npcc-1", order(1, limit_w=9e6, id="another-name")))
    assert [allocation.id for allocation in link.memory.allocations] == held == ["order-3"]
    assert link.phase is LinkPhase.STARTING


def test_an_unknown_version_is_refused_and_an_unknown_key_is_not() -> None:
    connection = Connection()
    assert "version 2 is not spoken here" in connection.refuses(by("npcc-1", order(version=2))).reason
    assert "version 'x'" in connection.refuses(by("npcc-1", order(version="x"))).reason
    connection.takes(by("npcc-1", order(version=1, colour={"deep": [["er"]]})))
    too_deep: Any = []
    for _ in range(20):
        too_deep = [too_deep]
    assert connection.refuses(by("npcc-1", order(2, colour=too_deep))).reason == "nested too deeply"


# ---- over a real broker, from the site file ---------------------------------------------------


def site_file(broker: Mosquitto, site: str, folder: Path, *more: dict[str, Any]) -> Site:
    issuer = {"name": "npcc", "keys_file": str(folder / "npcc.jwks")}
    return Site.model_validate(
        {
            "site": {"name": site},
            "grid": {"brokers": [broker.url], "failsafe_limit_w": 0, "issuer": [issuer], "connection": more},
            "feeder": [{"id": ROOT, "rating_w": 1e6}],
        }
    )


@pytest.mark.broker
async def test_a_key_is_rotated_by_file_and_reload(broker: Mosquitto, site: str, tmp_path: Path) -> None:
    """The operator signs with a new key while the site still knows both, then with it alone."""
    for known, good, bad in ((("old",), "old", "new"), (("old", "new"), "new", "stranger"), (("new",), "new", "old")):
        (tmp_path / "npcc.jwks").write_text(jwks(*map(ec_signer, known)))
        delivered: asyncio.Queue[GridMessage] = asyncio.Queue()
        link = open_grid(site_file(broker, site, tmp_path), ROOT, CLOCK, delivered.put_nowait, "site.toml", {})
        async with at_work(link, delivered) as run:
            await run.connected()
            async with Operator(as_operator(broker), topics(site), "npcc", signer=ec_signer(bad)) as forger:
                await forger.allocate(1.0)
                refused = await run.next(MessageRejected)
                while refused.retained:
                    refused = await run.next(MessageRejected)
                assert refused.code is RejectCode.UNAUTHORIZED
            async with Operator(as_operator(broker), topics(site), "npcc", signer=ec_signer(good)) as grid:
                await grid.allocate(5.0)
                assert limit_of(await run.next(AllocationReceived)) == 5.0
                await grid.heartbeat()
                await run.next(HeartbeatReceived)


def test_a_name_that_signs_is_nobody_elses_on_any_connection(tmp_path: Path) -> None:
    (tmp_path / "npcc.jwks").write_text(jwks(ec_signer("npcc-1")))
    second = {"name": "second", "dialect": "native", "brokers": ["mqtt://127.0.0.1:2"], "prefix": "second"}
    heard: list[GridMessage] = []
    nowhere = Mosquitto(tmp_path, port=1)

    async def build() -> None:
        link = open_grid(site_file(nowhere, "thar-1", tmp_path, second), ROOT, HandClock(), heard.append, "x", {})
        unsigned = link._connections[1].dialect
        for number, issuer in ((1, "npcc"), (2, "ke")):
            payload = json.dumps(order(number, issuer=issuer)).encode()
            heard.extend(unsigned.decode(Received("second/thar-1/allocation", payload)))

    asyncio.run(build())
    refused, taken = heard
    assert isinstance(refused, MessageRejected)
    assert "'npcc' signs" in refused.reason
    assert isinstance(taken, AllocationReceived)


def test_only_who_may_speak_by_the_site_file_counts(tmp_path: Path) -> None:
    maestro = {"name": "m", "dialect": "maestroos", "brokers": ["mqtt://127.0.0.1:2"], "topic": "t"}
    open_one = {"name": "second", "dialect": "native", "brokers": ["mqtt://127.0.0.1:3"]}
    names = [Issuer(name) for name in ("npcc", "ke", "maestroos//m", "maestroos//n", "//grid/v1/isv/acme")]
    nowhere = Mosquitto(tmp_path, port=1)

    def heard(*more: dict[str, Any]) -> list[Issuer]:
        hears = who_is_heard(site_file(nowhere, "thar-1", tmp_path, *more))
        return [name for name in names if hears(name)]

    assert heard() == ["npcc"]
    assert heard(maestro) == ["npcc", "maestroos//m"]
    assert heard(maestro, open_one) == ["npcc", "ke", "maestroos//m"]


@pytest.mark.parametrize(
    ("text", "why"),
    [(None, "cannot be read: No such file"), ("{", "is not JSON"), ('{"keys": []}', "it has no keys")],
)
def test_a_keys_file_that_cannot_be_used_is_named(tmp_path: Path, text: str | None, why: str) -> None:
    if text is not None:
        (tmp_path / "npcc.jwks").write_text(text)
    site = site_file(Mosquitto(tmp_path, port=1), "thar-1", tmp_path)
    with pytest.raises(SiteFileError) as wrong:
        open_grid(site, ROOT, CLOCK, lambda message: None, "site.toml", {})
    assert f"{tmp_path / 'npcc.jwks'}" in str(wrong.value)
    assert why in str(wrong.value)
    assert "docs/grid/native.md" in str(wrong.value)
