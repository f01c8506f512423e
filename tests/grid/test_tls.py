"""TLS to a real broker with made-up authorities: what works, and that each mistake is called by its name."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from grid.authority import Authority
from grid.rig import PATIENCE_S, Place, Settings, a_status, at, error_of, running
from mosquitto import Mosquitto

pytestmark = pytest.mark.broker

Start = Callable[..., Mosquitto]
LONG_AGO = {"begins_s": -7_200.0, "ends_s": -3_600.0}
NOT_YET = {"begins_s": 3_600.0}


def tls_lines(authority: Authority, name: str, *more: str, **times: float) -> list[str]:
    cert_file, key_file = authority.issue(name, **times)
    return [
        f"cafile {authority.ca_file}",
        f"certfile {cert_file}",
        f"keyfile {key_file}",
        "allow_anonymous true",
        *more,
    ]


def tls_at(port: int, ca_file: Path | None = None, cert: tuple[Path, Path] | None = None) -> Settings:
    cert_file, key_file = cert or (None, None)
    return Settings((Place("127.0.0.1", port, tls=True),), ca_file=ca_file, cert_file=cert_file, key_file=key_file)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "stranger")


async def test_tls_with_a_private_authority(own_broker: Start, site: str, authority: Authority) -> None:
    broker = own_broker(*tls_lines(authority, "127.0.0.1"))
    async with running(tls_at(broker.port, authority.ca_file), site) as run:
        assert run.link.links[0].url == f"mqtts://127.0.0.1:{broker.port}"
        run.link.status(a_status())
        await run.until(lambda state: state.echo_ok is True)


async def test_mutual_tls(own_broker: Start, site: str, authority: Authority) -> None:
    broker = own_broker(*tls_lines(authority, "127.0.0.1", "require_certificate true"))
    async with running(tls_at(broker.port, authority.ca_file, authority.issue("thar-1")), site) as run:
        assert run.link.links[0].connected


async def test_a_brokers_certificate_that_is_not_believed(
    own_broker: Start, site: str, authority: Authority, stranger: Authority
) -> None:
    ours = authority.ca_file
    other_name = own_broker(*tls_lines(authority, "broker.example"))
    unsigned = own_broker(*tls_lines(stranger, "127.0.0.1"))
    early = own_broker(*tls_lines(authority, "127.0.0.1", **NOT_YET))
    assert "certificate is not for 127.0.0.1" in await error_of(tls_at(other_name.port, ours), site)
    assert f"signed by no authority of ca_file {ours}" in await error_of(tls_at(unsigned.port, ours), site)
    assert "no authority of the host's own store: set ca_file" in await error_of(tls_at(unsigned.port), site)
    assert "not valid yet: is this host's clock right?" in await error_of(tls_at(early.port, ours), site)


async def test_a_brokers_certificate_that_has_expired(site: str, authority: Authority) -> None:
    """mosquitto does not even start with one: so a bare TLS server shows it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("127.0.0.1", **LONG_AGO))
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0, ssl=context)
    async with server:
        settings = tls_at(server.sockets[0].getsockname()[1], authority.ca_file)
        assert "the broker's certificate has expired" in await error_of(settings, site)


async def test_our_certificate_that_the_broker_does_not_take(
    own_broker: Start, site: str, authority: Authority, stranger: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curtaild_drivers.broker.mqtt.ALERT_WAIT_S", PATIENCE_S)  # the alert comes after the handshake
    broker, ours = own_broker(*tls_lines(authority, "127.0.0.1", "require_certificate true")), authority.ca_file
    expired, unknown = authority.issue("old", **LONG_AGO), stranger.issue("unknown")
    early = authority.issue("young", **NOT_YET)
    assert "wants a client certificate: set cert_file and key_file" in await error_of(tls_at(broker.port, ours), site)
    assert f"cert_file {expired[0]}: it has expired" in await error_of(tls_at(broker.port, ours, expired), site)
    assert f"authority that signed cert_file {unknown[0]}" in await error_of(tls_at(broker.port, ours, unknown), site)
    assert "(see cert_file)" in await error_of(tls_at(broker.port, ours, early), site)


async def test_files_that_cannot_be_used(site: str, authority: Authority, tmp_path: Path) -> None:
    missing, junk = tmp_path / "nowhere.pem", tmp_path / "junk.pem"
    junk.write_text("junk")
    one, other = authority.issue("one"), authority.issue("other")
    assert f"cannot use ca_file {missing}" in await error_of(tls_at(1, missing), site)
    assert f"cannot use ca_file {junk}" in await error_of(tls_at(1, junk), site)
    mixed = await error_of(tls_at(1, authority.ca_file, (one[0], other[1])), site)
    assert f"cert_file {one[0]} with key_file {other[1]}: key values mismatch" in mixed
    assert f"cert_file {junk}" in await error_of(tls_at(1, authority.ca_file, (junk, one[1])), site)


async def test_tls_where_there_is_none_and_none_where_there_is(
    own_broker: Start, site: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curtaild_drivers.broker.mqtt.ANSWER_TIMEOUT_S", 0.3)
    plain, tls = own_broker(), own_broker(*tls_lines(authority, "127.0.0.1"))
    assert "without TLS (mqtt://)" in await error_of(tls_at(plain.port, authority.ca_file), site)
    assert "mqtts://" in await error_of(at(tls), site)
