"""Several connections at once: who answers whom, whose silence counts, whose limit it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from curtaild.core.allocation import AllocationReceived, GridMessage, HeartbeatReceived, Issuer
from curtaild.core.events import Ack, AckStage, BreachChanged, BreachId, BreachStage
from curtaild.core.limits import UNLIMITED
from curtaild.core.status import SiteStatus
from curtaild.grid.connection import Connection, GridLink
from curtaild.grid.dialect import Publication, Received
from curtaild.grid.dsx.isv import LoadTarget
from curtaild.grid.maestroos import MaestroOSDialect, Switch
from curtaild.grid.native import Context, NativeDialect, Topics
from curtaild.grid.opening import open_grid
from curtaild.grid.operator import operator_access
from curtaild.grid.outbox import Outbox
from curtaild_config import Site, SiteFileError
from grid.dsx import AGENT, TOPIC, Agent, HandClock, ec_signer, event, jwks
from grid.rig import CLOCK, ROOT, a_feeder, a_status, an_ack, at_work, heard, limit_of, onlooker
from mosquitto import Mosquitto


class Told:
    """A link of a native, a MaestroOS and a DSX connection, and what each would publish."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.delivered: list[GridMessage] = []
        self.link = GridLink(self.clock, self.delivered.append, heartbeat_timeout_s=120.0)
        context = Context(Topics("curtaild/v1", "thar-1"), ROOT, self.clock, 300.0, 16_384)
        switch = Switch(ROOT, UNLIMITED, silence_s=240.0, max_clock_skew_s=300.0)
        self.native = NativeDialect(context, beats=True)
        self.maestro = MaestroOSDialect("maestro", "maestro/site", switch, self.clock)
        self.dsx = Agent().dialect
        for name, dialect in (("native", self.native), ("maestro", self.maestro), ("dsx", self.dsx)):
            self.link.connect(name, dialect, ())

    def beat(self, name: str) -> bool:
        """Whether a sign of life from this connection gets through."""
        before = len(self.delivered)
        self.link._receive(name, HeartbeatReceived())
        return len(self.delivered) > before


def test_a_sign_of_life_counts_while_all_who_promise_them_give_them() -> None:
    told = Told()
    assert not told.beat("native"), "MaestroOS has not been heard yet"
    assert told.beat("maestro"), "now both have; DSX Flex promises none"
    told.clock.moved_s = 119
    assert told.beat("native")
    told.clock.moved_s = 120
    assert not told.beat("native"), "MaestroOS has been silent for 120 s"
    assert told.beat("maestro")


@pytest.mark.parametrize(
    ("issuer", "owner"),
    [
        (None, "native"),
        ("npcc", "native"),
        ("maestroos//maestro", "maestro"),
        ("maestroos//other", None),
        ("//grid/v1/isv/acme", "dsx"),
        ("dsx-flex//dsx", "dsx"),
    ],
)
def test_an_answer_goes_to_whom_it_concerns(issuer: str | None, owner: str | None) -> None:
    told = Told()
    name = None if issuer is None else Issuer(issuer)
    owners = [each for each in ("native", "maestro", "dsx") if getattr(told, each).owns(name)]
    assert owners == ([owner] if owner is not None else [])


def test_the_status_says_whose_limit_it_is() -> None:
    told = Told()
    spoken: list[Issuer | None] = []

    class Listener(NativeDialect):
        def status(self, status: SiteStatus, limit_issuer: Issuer | None) -> Sequence[Publication]:
            spoken.append(limit_issuer)
            return super().status(status, limit_issuer)

    context = Context(Topics("a", "b"), ROOT, told.clock, 300.0, 16_384)
    told.link.connect("listener", Listener(context, beats=False), ())
    told.link.status(a_status())
    told.link.ack(replace(an_ack(1), stage=AckStage.REJECTED))
    told.link.status(a_status())
    told.link.ack(an_ack(1))
    told.link.status(a_status())
    told.link.status(replace(a_status(), feeders=(a_feeder()._replace(limit_source="fail-safe"),)))
    assert spoken == [None, None, "npcc", None]


def test_whose_is_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curtaild.grid.connection.MOST_ISSUERS_KEPT", 10)
    told = Told()
    for number in range(20):
        told.link.ack(an_ack(number))
    assert len(told.link._issuers) == 10


def test_of_states_the_newest_waits_and_answers_keep_their_order() -> None:
    outbox = Outbox()
    old, new = (Publication("state", word, retain=True, is_state=True) for word in (b"old", b"new"))
    answers = [Publication("ack", b"%d" % number) for number in range(2)]
    for each in (old, answers[0], new, answers[1]):
        outbox.add(each)
    assert drained(outbox) == [answers[0], new, answers[1]]
    outbox.add(answers[0])
    outbox.repeat_states()
    assert drained(outbox) == [new, answers[0]], "what the broker keeps is told again first"


def drained(outbox: Outbox) -> list[Publication]:
    found = []
    while (following := outbox.next) is not None:
        outbox.handed_over(following)
        found.append(following)
    return found


@pytest.mark.broker
async def test_what_dsx_says_goes_out_as_published(broker: Mosquitto) -> None:
    """Snapshots at QoS 1, alerts at QoS 2, none of them kept by the broker."""
    agent = Agent()
    (allocation,) = agent.asked(LoadTarget(1e6, ("main-a",)))
    delivered: asyncio.Queue[GridMessage] = asyncio.Queue()
    link = GridLink(CLOCK, delivered.put_nowait, heartbeat_timeout_s=120.0)
    access = operator_access("127.0.0.1", broker.port)
    link.connect("dsx", agent.dialect, [access])
    everything = f"grid/v1/dsx-flex-agent/{AGENT}/#"
    breach = BreachChanged(0.0, BreachId("b"), ROOT, BreachStage.ACTIVE, 1e6, 5e3, 5e3, 0.0)
    async with onlooker(broker, everything) as someone, at_work(link, delivered) as run:
        await run.connected()
        link.ack(Ack(0.0, AckStage.APPLYING, allocation.id, allocation.issuer, allocation.seq, ROOT, 1e6))
        link.status(a_status())
        link.breach(breach)
        live = [await heard(someone) for _ in range(2)]
        assert [(message.topic.value.split("/", 4)[4], message.qos) for message in live] == [
            ("powerstate/status", 1),
            ("powerbreach", 2),
        ]
        async with onlooker(broker, everything) as late:
            await late.publish(f"grid/v1/dsx-flex-agent/{AGENT}/that-is-all", b"{}")
            assert not (await heard(late)).retain
        await someone.publish(TOPIC, event(LoadTarget(5e5, ("main-a",))), qos=1)
        assert limit_of(await run.next(AllocationReceived)) == 5e5


# ---- from the site file -----------------------------------------------------------------------


def site(folder: Path, **changes: Any) -> Site:
    (folder / "acme.jwks").write_text(jwks(ec_signer("acme-1")))
    (folder / "key.pem").write_bytes(ec_signer("agent-1").key.as_pem(private=True))
    dsx: Mapping[str, Any] = {
        "name": "dsx",
        "dialect": "dsx-flex",
        "brokers": ["mqtt://127.0.0.1:1"],
        "agent": "thar-1",
        "signing_key_file": folder / "key.pem",
        "signing_key_id": "agent-1",
        "isvs": {"acme": folder / "acme.jwks"},
        "feeds": {"main-a": ROOT},
        **changes,
    }
    grid = {"brokers": ["mqtt://127.0.0.1:1"], "failsafe_limit_w": 0, "connection": [dsx]}
    return Site.model_validate({"site": {"name": "s"}, "grid": grid, "feeder": [{"id": ROOT, "rating_w": 1e6}]})


def open_from(described: Site) -> GridLink:
    async def build() -> GridLink:
        return open_grid(described, ROOT, CLOCK, lambda message: None, "site.toml", {})

    return asyncio.run(build())


def test_each_connection_of_the_site_file_is_a_client_of_its_own(tmp_path: Path) -> None:
    link = open_from(site(tmp_path))
    assert [(state.connection, state.url) for state in link.links] == [
        ("native", "mqtt://127.0.0.1:1"),
        ("dsx", "mqtt://127.0.0.1:1"),
    ]
    connections = [each for each in link._connections if isinstance(each, Connection)]
    ids = [broker._access.client_id for connection in connections for broker in connection._brokers]
    assert ids == ["curtaild-s", "curtaild-s-dsx"]


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [("key.pem", "hunter2", "neither an EC nor an RSA key"), ("acme.jwks", "{}", "it has no keys")],
)
def test_a_key_that_cannot_be_used_is_named_and_never_shown(tmp_path: Path, file: str, content: str, why: str) -> None:
    described = site(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(SiteFileError) as refused:
        open_from(described)
    assert "grid.connection[dsx]: " in str(refused.value)
    assert why in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_an_allocation_of_one_dialect_cannot_be_named_as_anothers() -> None:
    body = {
        "id": "a",
        "seq": 1,
        "issuer": "//grid/v1/isv/acme-energy",
        "issued_at": "2020-01-01T00:00:00Z",
        "limit_w": None,
        "valid_from": "2020-01-01T00:00:00Z",
        "valid_until": None,
    }
    told = Told()
    topic = next(iter(told.native.subscriptions))
    (refusal,) = told.native.decode(Received(topic, json.dumps(body).encode()))
    assert not isinstance(refusal, AllocationReceived)
