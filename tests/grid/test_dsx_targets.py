"""DSX Flex on paper, what the agent hears: which load targets it takes, and as which allocations; whom it believes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OctKey, RSAKey

from curtaild.core.allocation import AllocationReceived, MessageRejected, RejectCode
from curtaild.core.events import Ack, AckStage
from curtaild.core.limits import UNLIMITED, Limit
from curtaild.grid.dsx import TargetBook
from curtaild.grid.dsx.isv import LoadTarget
from curtaild.grid.keys import KeyFileError, Signer, load_public_keys, load_signer
from grid.dsx import (
    AGENT,
    ISV,
    NOON,
    ROOT,
    ROW,
    UPTIME,
    Agent,
    at_noon,
    data_of,
    ec_signer,
    event,
    fits,
    jwks,
    remade,
    rsa_signer,
)

ACME = f"//grid/v1/isv/{ISV}"

# ---- what is taken ----------------------------------------------------------------------------


def test_what_the_isv_side_writes_fits_the_published_schema() -> None:
    target = LoadTarget(5e5, ("main-a",), NOON, NOON + 60, True)
    fits(json.loads(event(target, LoadTarget(None))), "LoadTargetSetEvent")
    payload = json.loads(event(target))["data"].split(".")[1]
    fits(json.loads(base64.urlsafe_b64decode(payload + "==")), "SetLoadTargetData")


def test_a_target_becomes_an_allocation_of_its_feeder() -> None:
    (allocation,) = Agent().asked(LoadTarget(5e5, ("main-b",), NOON + 60, NOON + 3_600))
    assert (allocation.feeder, allocation.ceiling, allocation.issuer) == (ROW, Limit(5e5), ACME)
    assert (allocation.issued_at, allocation.valid_from, allocation.valid_until) == (
        UPTIME,
        UPTIME + 60,
        UPTIME + 3_600,
    )


@pytest.mark.parametrize("tags", [{}, {"feed_tags": []}])
def test_without_tags_it_is_every_feed_and_without_an_interval_from_now_without_end(tags: dict[str, Any]) -> None:
    data = {"targets": [{"interval": {}, "load_constraint": {"value": 2, "unit": "megawatt"}, **tags}]}
    messages = Agent().hear(data_of(ec_signer("acme-1"), data))
    assert [m.allocation.feeder for m in messages if isinstance(m, AllocationReceived)] == [ROOT, ROW]
    for message in messages:
        assert isinstance(message, AllocationReceived)
        assert message.allocation.ceiling == Limit(2e6)
        assert (message.allocation.valid_from, message.allocation.valid_until) == (UPTIME, None)


@pytest.mark.parametrize(("unit", "watts"), [("watt", 3.0), ("kilowatt", 3e3), ("megawatt", 3e6)])
def test_units(unit: str, watts: float) -> None:
    data = {"targets": [{"interval": {}, "load_constraint": {"value": 3, "unit": unit}, "feed_tags": ["main-a"]}]}
    (message,) = Agent().hear(data_of(ec_signer("acme-1"), data))
    assert isinstance(message, AllocationReceived)
    assert message.allocation.ceiling == Limit(watts)


def test_zero_is_a_limit_and_null_lifts() -> None:
    agent = Agent()
    zero, lifted = (agent.asked(LoadTarget(limit_w, ("main-a",)))[0] for limit_w in (0.0, None))
    assert (zero.ceiling, lifted.ceiling) == (Limit(0.0), UNLIMITED)
    assert lifted.seq > zero.seq


def test_the_events_own_time_orders_them_and_arrival_where_it_is_the_same() -> None:
    agent = Agent()
    late, early = event(LoadTarget(1.0, ("main-a",)), at=NOON), event(LoadTarget(2.0, ("main-a",)), at=NOON - 1)
    same = event(LoadTarget(3.0, ("main-a",)), at=NOON)
    seqs = []
    for payload in (late, early, same):
        (message,) = agent.hear(payload)
        assert isinstance(message, AllocationReceived)
        seqs.append(message.allocation.seq)
    assert seqs[1] < seqs[0] < seqs[2]


def test_two_brokers_that_bring_the_same_say_it_once() -> None:
    agent, payload = Agent(), event(LoadTarget(1.0, ("main-a",)))
    assert len(agent.hear(payload, broker=0)) == 1
    assert agent.hear(payload, broker=1) == []


def test_rs256_is_taken_as_well() -> None:
    assert isinstance(
        Agent().hear(event(LoadTarget(1.0, ("main-a",)), signer=rsa_signer("acme-2")))[0], AllocationReceived
    )


def test_an_open_ended_target_leaves_a_stricter_announced_one_alone() -> None:
    """18:00 to 20:00 was announced; "500 kW until replaced" at noon does not strike it out, nor does a null."""
    agent = Agent()
    agent.asked(LoadTarget(1e5, ("main-a",), NOON + 3_600, NOON + 7_200))
    for limit_w in (5e5, None):
        before, after = agent.asked(LoadTarget(limit_w, ("main-a",)))
        assert (before.valid_from, before.valid_until) == (UPTIME, UPTIME + 3_600)
        assert (after.valid_from, after.valid_until) == (UPTIME + 7_200, None)
    assert len(agent.asked(LoadTarget(5e4, ("main-a",)))) == 1, "a stricter one covers it whole"
    assert len(agent.asked(LoadTarget(None, ("main-a",), NOON + 3_600, NOON + 7_200))) == 1, (
        "its own interval: cancelled"
    )


def test_tags_of_others_are_left_to_others() -> None:
    messages = Agent().hear(event(LoadTarget(1.0, ("main-a", "elsewhere")), LoadTarget(2.0, ("elsewhere",))))
    assert isinstance(messages[0], AllocationReceived)
    assert isinstance(messages[1], MessageRejected)
    assert (messages[1].code, messages[1].issuer) == (RejectCode.UNKNOWN_FEEDER, ACME)


# ---- what is refused --------------------------------------------------------------------------


def target(**changes: Any) -> dict[str, Any]:
    item = {"interval": {}, "load_constraint": {"value": 1, "unit": "watt"}, **changes}
    return {"targets": [{key: value for key, value in item.items() if value is not ...}]}


def constraint(**words: Any) -> dict[str, Any]:
    return target(load_constraint=words)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({}, RejectCode.MALFORMED),
        ({"targets": []}, RejectCode.MALFORMED),
        ({"targets": ["x"]}, RejectCode.MALFORMED),
        (target(interval=...), RejectCode.MALFORMED),
        (target(interval=None), RejectCode.MALFORMED),
        (target(interval={"start_time": "soon"}), RejectCode.MALFORMED),
        (target(interval={"end_time": None}), RejectCode.MALFORMED),
        (target(interval={"start_time": at_noon(2), "end_time": at_noon(2)}), RejectCode.MALFORMED),
        (target(load_constraint=...), RejectCode.MALFORMED),
        (target(load_constraint=5), RejectCode.MALFORMED),
        (constraint(value=1), RejectCode.MALFORMED),
        (constraint(value=1, unit="W"), RejectCode.MALFORMED),
        (constraint(value=-1, unit="watt"), RejectCode.NOT_A_LIMIT),
        (constraint(value="1", unit="watt"), RejectCode.NOT_A_LIMIT),
        (constraint(value=True, unit="watt"), RejectCode.NOT_A_LIMIT),
        (constraint(value=None, unit="watt"), RejectCode.NOT_A_LIMIT),
        (constraint(value=1e308, unit="megawatt"), RejectCode.NOT_A_LIMIT),
        (target(feed_tags="main-a"), RejectCode.MALFORMED),
        (target(feed_tags=[1]), RejectCode.MALFORMED),
        (target(strategy=[]), RejectCode.MALFORMED),
        (target(strategy={"best_effort": "no"}), RejectCode.MALFORMED),
        ({"targets": target()["targets"] * 65}, RejectCode.TOO_LARGE),
        ({"targets": target()["targets"] + [{}]}, RejectCode.MALFORMED),
    ],
)
def test_signed_nonsense_is_refused_whole(data: object, code: RejectCode) -> None:
    refusal = Agent().refuses(data_of(ec_signer("acme-1"), data))
    assert (refusal.code, refusal.issuer) == (code, ACME), refusal.reason


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"specversion": "1.1"}, RejectCode.MALFORMED),
        ({"id": "one"}, RejectCode.MALFORMED),
        ({"id": ...}, RejectCode.MALFORMED),
        ({"type": "grid.loadtarget.set.v2"}, RejectCode.MALFORMED),
        ({"source": "acme"}, RejectCode.MALFORMED),
        ({"source": "//grid/v1/isv/other"}, RejectCode.UNAUTHORIZED),
        ({"time": "noon"}, RejectCode.MALFORMED),
        ({"time": at_noon(301)}, RejectCode.CLOCK_SKEW),
        ({"datacontenttype": "text/plain"}, RejectCode.MALFORMED),
        ({"subject": ...}, RejectCode.MALFORMED),
        ({"traceparent": ...}, RejectCode.MALFORMED),
        ({"traceparent": "00-1-2-3"}, RejectCode.MALFORMED),
        ({"tracestate": "x" * 513}, RejectCode.MALFORMED),
        ({"correlationid": "x"}, RejectCode.MALFORMED),
        ({"data": ...}, RejectCode.MALFORMED),
        ({"data": "a.b"}, RejectCode.MALFORMED),
        ({"data": "a.b.c"}, RejectCode.MALFORMED),
        ({"data": target()}, RejectCode.UNAUTHORIZED),
    ],
)
def test_an_envelope_that_is_not_right_is_refused(changes: dict[str, Any], code: RejectCode) -> None:
    refusal = Agent().refuses(remade(event(LoadTarget(1.0)), **changes))
    assert refusal.code is code, refusal.reason


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def forged(header: dict[str, Any], secret: bytes | None = None) -> bytes:
    """A load target signed by nobody, or by HMAC."""
    signed = f"{encoded(header)}.{encoded(target())}"
    mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest() if secret is not None else b"none"
    signature = base64.urlsafe_b64encode(mac).rstrip(b"=").decode()
    return remade(event(LoadTarget(1.0)), data=f"{signed}.{signature}")


ACME_PEM = rsa_signer("acme-2").key.as_pem(private=False)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(event(LoadTarget(1.0), signer=ec_signer("acme-9")), id="a key nobody knows"),
        pytest.param(event(LoadTarget(1.0), signer=ec_signer("ima-1")), id="somebody else's key"),
        pytest.param(event(LoadTarget(1.0), signer=Signer(ec_signer("other").key, "acme-1")), id="a borrowed kid"),
        pytest.param(forged({"alg": "none", "kid": "acme-1"}), id="no algorithm"),
        pytest.param(forged({"alg": "HS256", "kid": "acme-2"}, ACME_PEM), id="HMAC with the public key"),
        pytest.param(forged({"alg": "RS256", "kid": "acme-1"}), id="another algorithm than the key's"),
        pytest.param(forged({"alg": "ES256", "kid": "acme-1"}), id="a made-up signature"),
        pytest.param(forged({"alg": "ES256"}), id="no kid"),
        pytest.param(forged({"alg": "ES256", "kid": ["acme-1"]}), id="a kid that is no text"),
        pytest.param(
            forged({"alg": "ES256", "kid": "acme-1", "crit": ["b64"], "b64": False}), id="a critical extension"
        ),
    ],
)
def test_who_has_not_signed_is_not_believed(payload: bytes) -> None:
    refusal = Agent().refuses(payload)
    assert refusal.code is RejectCode.UNAUTHORIZED, refusal.reason


def test_a_changed_word_breaks_the_signature() -> None:
    body = json.loads(event(LoadTarget(1.0)))
    header, _, signature = body["data"].split(".")
    assert Agent().refuses(
        remade(json.dumps(body).encode(), data=f"{header}.{encoded(target())}.{signature}")
    ).code is (RejectCode.UNAUTHORIZED)


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"exp": NOON}, RejectCode.EXPIRED),
        ({"nbf": NOON + 1}, RejectCode.CLOCK_SKEW),
        ({"aud": "somebody-else"}, RejectCode.UNAUTHORIZED),
        ({"aud": []}, RejectCode.UNAUTHORIZED),
        ({"exp": "tomorrow"}, RejectCode.MALFORMED),
    ],
)
def test_what_was_signed_for_another_time_or_agent_is_refused(claims: dict[str, Any], code: RejectCode) -> None:
    assert Agent().refuses(event(LoadTarget(1.0), claims=claims)).code is code


def test_what_was_signed_for_us_and_now_is_taken() -> None:
    claims = {"aud": ["x", AGENT], "exp": NOON + 1, "nbf": NOON, "iat": NOON}
    assert len(Agent(signature_max_age_s=60).asked(LoadTarget(1.0), claims=claims)) == 2


def test_a_signed_time_can_be_asked_for() -> None:
    agent = Agent(signature_max_age_s=60)
    assert agent.refuses(event(LoadTarget(1.0))).code is RejectCode.UNAUTHORIZED
    assert agent.refuses(event(LoadTarget(1.0), claims={"iat": NOON - 61})).code is RejectCode.EXPIRED
    assert agent.refuses(event(LoadTarget(1.0), claims={"iat": NOON + 61})).code is RejectCode.CLOCK_SKEW


def test_a_replay_is_refused() -> None:
    agent = Agent()
    first = event(LoadTarget(1.0), claims={"iat": NOON})
    again = remade(event(LoadTarget(2.0)), data=json.loads(first)["data"])
    other = remade(event(LoadTarget(2.0)), id=json.loads(first)["id"])
    assert len(agent.hear(first)) == 2
    assert agent.hear(first) == [], "the same once more says nothing new"
    assert agent.refuses(again).code is RejectCode.UNAUTHORIZED, "an old signature in a new envelope"
    assert agent.refuses(other).code is RejectCode.UNAUTHORIZED, "an id that has been used"


def test_too_long_is_refused_unread() -> None:
    assert Agent().refuses(b"x" * 16_385).code is RejectCode.TOO_LARGE


def test_foreign_topics_and_cleared_messages_say_nothing() -> None:
    assert Agent().hear(event(LoadTarget(1.0)), topic="grid/v1/isv/other/loadtarget/set") == []
    assert Agent().hear(b"") == []


def test_an_enforcement_outcome_is_told_to_people(caplog: pytest.LogCaptureFixture) -> None:
    topic, signer = "grid/v1/infra/ima/powerbreach/enforcement", ec_signer("ima-1")
    words = {"type": "grid.powerbreach.enforcement.v1", "source": "//grid/v1/infra/ima", "subject": "powerbreach"}
    outcome = {"breach_id": "b", "feed_tag": "main-a", "action": "applied", "code": "partial\n", "results": []}
    assert Agent().hear(data_of(signer, outcome, **words), topic) == []
    assert r"enforcement 'applied' ('partial\n') at feed 'main-a'" in caplog.text
    assert Agent().refuses(data_of(ec_signer("acme-1"), outcome, **words), topic).code is RejectCode.UNAUTHORIZED


# ---- nothing that arrives raises --------------------------------------------------------------

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
TARGET_KEYS = st.sampled_from(["interval", "feed_tags", "load_constraint", "strategy", "start_time", "value", "unit"])
HOSTILE = Agent()


def is_answer(messages: object) -> bool:
    return isinstance(messages, list) and all(isinstance(m, AllocationReceived | MessageRejected) for m in messages)


@settings(deadline=None)
@given(st.binary(max_size=600))
def test_arbitrary_bytes_never_raise(payload: bytes) -> None:
    assert is_answer(HOSTILE.hear(payload))


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from(list(json.loads(event(LoadTarget(1.0))))), ANY_JSON))
def test_wrong_attributes_never_raise(changes: dict[str, Any]) -> None:
    assert is_answer(HOSTILE.hear(remade(event(LoadTarget(1.0)), **changes)))


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(TARGET_KEYS, ANY_JSON) | ANY_JSON)
def test_signed_nonsense_never_raises(item: Any) -> None:
    assert is_answer(HOSTILE.hear(data_of(ec_signer("acme-1"), {"targets": [item]})))


@settings(deadline=None)
@given(st.text(max_size=60), ANY_JSON)
def test_made_up_tokens_never_raise(kid: str, header: Any) -> None:
    words = {**header, "kid": kid} if isinstance(header, dict) else {"alg": header, "kid": "acme-1"}
    assert is_answer(HOSTILE.hear(forged(words)))


# ---- keys -------------------------------------------------------------------------------------


def test_a_key_set_is_read_and_a_new_key_counts_after_the_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "acme.jwks"
    path.write_text(jwks(ec_signer("acme-1")))
    assert Agent(isvs={ISV: load_public_keys(path)}).refuses(
        event(LoadTarget(1.0), signer=ec_signer("acme-new"))
    ).code is (RejectCode.UNAUTHORIZED)
    path.write_text(jwks(ec_signer("acme-1"), ec_signer("acme-new")))
    agent = Agent(isvs={ISV: load_public_keys(path)})
    for kid in ("acme-1", "acme-new"):
        assert len(agent.hear(event(LoadTarget(1.0), signer=ec_signer(kid)))) == 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("{}", "no keys"),
        ('{"keys": [5]}', "no key"),
        ('{"keys": [{"kty": "EC"}]}', "neither an EC nor an RSA key"),
        (json.dumps({"keys": [OctKey.generate_key(256, {"kid": "a"}).as_dict()]}), "neither an EC nor an RSA"),
        (json.dumps({"keys": [ECKey.generate_key("P-384", {"kid": "a"}).as_dict(private=False)]}), "P-256"),
        (jwks(ec_signer("a"), Signer(ec_signer("b").key, "a")), "a second 'a'"),
        (json.dumps({"keys": [ECKey.generate_key("P-256").as_dict(private=False)]}), "has no kid"),
    ],
    ids=["empty", "no keys", "a number", "half a key", "a secret", "P-384", "twice one kid", "no kid"],
)
def test_a_key_file_that_cannot_be_used_says_why(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(KeyFileError, match=why):
        load_public_keys(path)


@pytest.mark.filterwarnings("ignore:Key size")
def test_a_weak_key_is_refused() -> None:
    weak = RSAKey.generate_key(1024, {"kid": "a"}).as_pem(private=True).decode()
    with pytest.raises(KeyFileError, match="1024 bits"):
        load_signer(weak, "k", "here")


def test_our_key_is_pem_or_jwk() -> None:
    for key in (ec_signer("x").key, rsa_signer("acme-2").key):
        assert load_signer(key.as_pem(private=True).decode(), "k", "here").kid == "k"
        assert load_signer(json.dumps(key.as_dict(private=True)), None, "here").kid == key.kid
    with pytest.raises(KeyFileError, match="public key"):
        load_signer(ec_signer("x").key.as_pem(private=False).decode(), "k", "here")
    with pytest.raises(KeyFileError, match="set signing_key_id"):
        load_signer(ec_signer("x").key.as_pem(private=True).decode(), None, "here")
    with pytest.raises(KeyFileError, match="neither"):
        load_signer("hunter2", "k", "here")


def test_the_book_is_bounded_and_follows_the_cores_answers() -> None:
    book = TargetBook()
    agent = Agent(book)
    (allocation,) = agent.asked(LoadTarget(1.0, ("main-a",)))
    assert (len(book.at("main-a")), book.enforced("main-a")) == (1, [])
    agent.dialect.ack(Ack(UPTIME, AckStage.APPLYING, allocation.id, allocation.issuer, allocation.seq, ROOT, 1.0))
    assert len(book.enforced("main-a")) == 1
    agent.dialect.ack(Ack(UPTIME, AckStage.ENDED, allocation.id, allocation.issuer, allocation.seq, ROOT, 1.0))
    assert book.at("main-a") == []
    for _ in range(1_100):
        agent.asked(LoadTarget(1.0, ("main-a",)))
    assert len(book.at("main-a")) == 1_024
