"""What the VTN says of its own accord: notifications at a real mosquitto, and callbacks of subscriptions."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from aiohttp import web

from curtaild.grid.openadr_vtn import MqttNotifier
from grid.authority import Authority
from grid.rig import as_operator, onlooker
from mosquitto import BINARY, Mosquitto
from openadr.token_broker import token_broker
from openadr.vtn_rig import (
    OTHER_VEN,
    VEN,
    Json,
    a_program,
    a_ven,
    an_event,
    capacity_limit,
    made,
    talking,
)

PATIENCE_S = 60.0


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    if BINARY is None:
        pytest.skip("mosquitto is not installed (apt install mosquitto)")
    (tmp_path / "mosquitto").mkdir()
    broker = Mosquitto(tmp_path / "mosquitto")
    broker.start()
    yield broker
    broker.stop()


def notifier(broker: Mosquitto, **changes: Any) -> MqttNotifier:
    anonymous = {"method": "ANONYMOUS"}
    return MqttNotifier(as_operator(broker), [broker.url], **{"authentication": anonymous, **changes})


async def _topics(messages: AsyncIterator[Any], count: int) -> dict[str, Json]:
    async with asyncio.timeout(PATIENCE_S):
        heard = [await anext(messages) for _ in range(count)]
    return {message.topic.value: json.loads(message.payload) for message in heard}


@pytest.mark.broker
async def test_a_ven_is_told_the_broker_and_the_topics_and_hears_each_change(broker: Mosquitto) -> None:
    async with talking(notifier=notifier(broker, prefix="dso-7")) as talk, onlooker(broker) as ear:
        binding = {"URIS": [broker.url], "serialization": "JSON", "authentication": {"method": "ANONYMOUS"}}
        assert (await talk.ven("GET", "/notifiers")).body == {"WEBHOOK": True, "MQTT": binding}
        program_id = await a_program(talk)
        topics = (await talk.ven("GET", f"/notifiers/mqtt/topics/programs/{program_id}/events")).body["topics"]
        stem = f"dso-7/events/programs/{program_id}"
        assert topics == {
            "CREATE": f"{stem}/create",
            "UPDATE": f"{stem}/update",
            "DELETE": f"{stem}/delete",
            "ALL": f"{stem}/+",
        }
        await ear.subscribe(topics["ALL"], qos=1)
        said = {"programID": program_id, **capacity_limit(500)}
        event = await made(talk.bl, "/events", **said)
        changed = (await talk.bl("PUT", f"/events/{event['id']}", {**said, "priority": 0})).body
        await talk.bl("DELETE", f"/events/{event['id']}")
        for operation, subject in (("CREATE", event), ("UPDATE", changed), ("DELETE", changed)):
            assert await _topics(aiter(ear.messages), 1) == {
                topics[operation]: {"objectType": "EVENT", "operation": operation, "object": subject}
            }


@pytest.mark.broker
async def test_targeted_events_reach_their_vens_topics_alone(broker: Mosquitto) -> None:
    async with talking(notifier=notifier(broker)) as talk, onlooker(broker, "openadr/3.1.0/events/#") as ear:
        program_id = await a_program(talk)
        own, others = await a_ven(talk, VEN, "north"), await a_ven(talk, OTHER_VEN, "south")
        path = f"/notifiers/mqtt/topics/vens/{own}"
        topics = (await talk.ven("GET", f"{path}/events")).body["topics"]
        assert topics["CREATE"] == f"openadr/3.1.0/events/vens/{own}/create"
        assert (await talk.ven("GET", path)).body["topics"].keys() == {"UPDATE", "DELETE", "ALL"}, "it exists already"
        assert (await talk.ven("GET", f"/notifiers/mqtt/topics/vens/{others}/events")).status == 404
        event = await an_event(talk, program_id, targets=["north"])
        told = await _topics(aiter(ear.messages), 2)
        assert told.keys() == {topics["CREATE"], "openadr/3.1.0/events/create"}
        assert told[topics["CREATE"]] == {
            "objectType": "EVENT",
            "operation": "CREATE",
            "object": event,
            "targets": ["north"],
        }


@pytest.mark.broker
async def test_topics_of_everything_are_the_operators(broker: Mosquitto) -> None:
    async with talking(notifier=notifier(broker, offers_all=False)) as talk:
        for kind in ("events", "reports", "subscriptions", "vens", "resources"):
            assert (await talk.ven("GET", f"/notifiers/mqtt/topics/{kind}")).status == 403
            topics = (await talk.bl("GET", f"/notifiers/mqtt/topics/{kind}")).body["topics"]
            assert topics.keys() == {"CREATE", "UPDATE", "DELETE"}
        assert (await talk.ven("GET", "/notifiers/mqtt/topics/programs")).status == 200
        assert (await talk.ven("GET", "/notifiers/mqtt/topics/programs/unknown/events")).status == 404


@pytest.mark.broker
async def test_what_is_said_while_the_broker_is_gone_is_told_when_it_is_back(broker: Mosquitto) -> None:
    async with talking(notifier=notifier(broker)) as talk:
        program_id = await a_program(talk)
        assert talk.vtn.notices is not None
        await talk.vtn.notices.told()
        broker.stop()
        ids = [(await an_event(talk, program_id))["id"] for _ in range(3)]
        assert (await talk.ven("GET", "/events")).ids == ids, "who polls waits for nobody"
        broker.start()
        async with (
            asyncio.timeout(PATIENCE_S),
            onlooker(broker, f"openadr/3.1.0/events/programs/{program_id}/+") as ear,
        ):
            await talk.vtn.notices.told()
            message = await anext(aiter(ear.messages))
            assert json.loads(message.payload)["object"]["id"] in ids


async def test_a_broker_that_takes_tokens_admits_who_the_vtn_knows() -> None:
    """As brokers with a plugin for it do; what VENs are told of it is the binding's own object."""
    async with talking() as talk, token_broker(talk.vtn.tokens.owner) as port:
        token = (await talk.ven.ask_token()).body["access_token"]

        def knocking(username: str, password: str, timeout_s: float) -> aiomqtt.Client:
            return aiomqtt.Client("127.0.0.1", port, username=username, password=password, timeout=timeout_s)

        async with knocking(VEN.client_id, token, PATIENCE_S) as client:
            await client.subscribe("openadr/3.1.0/events/programs/x/+")
        with pytest.raises(aiomqtt.MqttError):
            await knocking(OTHER_VEN.client_id, token, 0.5).__aenter__()  # it says nothing to whom it refuses


@asynccontextmanager
async def a_callback(authority: Authority, echoes: bool = True) -> AsyncIterator[tuple[str, asyncio.Queue[Json]]]:
    """A client's own HTTPS endpoint, and what it is told."""
    told: asyncio.Queue[Json] = asyncio.Queue()

    async def take(request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.Response(text=request.query["echo"] if echoes else "hello")
        told.put_nowait({"token": request.headers.get("Authorization"), **await request.json()})
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/hook", take)
    runner = web.AppRunner(app)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("127.0.0.1"))
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}/hook", told
    finally:
        await runner.cleanup()


async def test_a_subscription_is_called_back_with_its_token_once_its_url_has_echoed(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    trusts = ssl.create_default_context(cafile=authority.ca_file)
    async with talking(trusts=trusts) as talk, a_callback(authority) as (url, told):
        wanted = {"objects": ["EVENT"], "operations": ["CREATE", "DELETE"], "callbackUrl": url, "bearerToken": "b"}
        await made(talk.ven, "/subscriptions", clientName="site", objectOperations=[wanted])
        await a_ven(talk, OTHER_VEN, "south")
        program_id = await a_program(talk)
        await an_event(talk, program_id, targets=["south"])
        event = await an_event(talk, program_id)
        await talk.bl("PUT", f"/events/{event['id']}", {"programID": program_id})
        await talk.bl("DELETE", f"/events/{event['id']}")
        async with asyncio.timeout(PATIENCE_S):
            first, second = await told.get(), await told.get()
        assert first == {"token": "Bearer b", "objectType": "EVENT", "operation": "CREATE", "object": event}
        assert (second["operation"], second["object"]["id"]) == ("DELETE", event["id"]), "no update was asked for"
        assert (await talk.other_ven("GET", "/subscriptions")).body == []


async def test_a_callback_that_is_not_the_clients_own_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    trusts = ssl.create_default_context(cafile=authority.ca_file)
    async with talking(trusts=trusts) as talk, a_callback(authority, echoes=False) as (url, _):
        for callback, why in (
            (url, "does not answer 200 with the value of echo"),
            (url.replace("https", "http"), "must be https"),
            ("https://127.0.0.1:1/hook", "does not answer: ClientConnectorError"),
        ):
            wanted = {"objects": ["EVENT"], "operations": ["CREATE"], "callbackUrl": callback}
            body = {"clientName": "site", "objectOperations": [wanted]}
            answer = await talk.ven("POST", "/subscriptions", body)
            assert (answer.status, why in answer.body["detail"]) == (400, True), answer.body
        assert (await talk.bl("GET", "/subscriptions")).body == []
