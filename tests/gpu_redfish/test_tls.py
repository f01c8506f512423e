"""Whom the driver believes to be the BMC, and what it says where it does not: never is a word sent to a stranger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from curtaild_drivers.contract import OperatingPoint, Unreachable
from curtaild_drivers.gpu.curve import LIMIT
from curtaild_drivers.gpu.redfish import RedfishSettings
from gpu_redfish.certificates import Signed, signed
from gpu_redfish.makes import openbmc
from gpu_redfish.tiny_bmc import HOST, opened, tiny_bmc


@pytest.fixture(scope="module")
def authority() -> Signed:
    return signed("Site CA", None)


@pytest.fixture
def ca_file(authority: Signed, tmp_path: Path) -> Path:
    file = tmp_path / "ca.pem"
    file.write_bytes(authority.pem())
    return file


async def test_one_signed_by_the_sites_authority_is_believed(authority: Signed, ca_file: Path, tmp_path: Path) -> None:
    served = signed("bmc-1", HOST, authority).served_from(tmp_path)
    async with tiny_bmc(openbmc(), served) as bmc, opened(bmc, scheme="https", ca_file=ca_file) as node:
        assert (await node.read()).power_w == 8400.5
        assert bmc.most_open == 1


@pytest.mark.parametrize("written", [str.upper, lambda digits: ":".join(digits[i : i + 2] for i in range(0, 64, 2))])
async def test_a_self_signed_one_is_believed_by_its_fingerprint(written: Callable[[str], str], tmp_path: Path) -> None:
    """As BMCs are shipped; neither its name nor its dates count then."""
    shipped = signed("iDRAC-ABC1234", "192.0.2.1", days=(-400, -1))
    pins = {HOST: written(shipped.fingerprint), "10.0.0.9": "ab" * 32}
    served = shipped.served_from(tmp_path)
    async with tiny_bmc(openbmc(), served) as bmc, opened(bmc, scheme="https", fingerprints=pins) as node:
        assert (await node.read()).power_w == 8400.5


def wrong(what: str, authority: Signed) -> Signed:
    match what:
        case "another authority":
            return signed("bmc-1", HOST, signed("Somebody's CA", None))
        case "itself":
            return signed("bmc-1", HOST)
        case "wrong name":
            return signed("bmc-1", "192.0.2.7", authority)
        case "expired":
            return signed("bmc-1", HOST, authority, days=(-100, -3))
        case _:
            return signed("bmc-1", HOST, authority, days=(3, 100))


WORDS = {
    "another authority": "for 'bmc-1', signed by \"Somebody's CA\", .* is signed by nobody in ca_file .*its authority",
    "itself": "for 'bmc-1', signed by itself, .* is signed by nobody in ca_file .*fingerprints: '127.0.41.1' = ",
    "wrong name": "signed by 'Site CA', .* is for 192.0.2.7, not for 127.0.41.1",
    "expired": r"0 days left.* expired on \d{4}-\d\d-\d\d: renew it on the BMC",
    "not yet valid": r"is valid only from \d{4}-\d\d-\d\d: check the clocks",
}


@pytest.mark.parametrize("what", WORDS)
async def test_what_is_wrong_with_a_certificate_is_told_and_nothing_is_sent(
    what: str, authority: Signed, ca_file: Path, tmp_path: Path
) -> None:
    shown = wrong(what, authority)
    async with tiny_bmc(openbmc(), shown.served_from(tmp_path)) as bmc:
        async with opened(bmc, scheme="https", ca_file=ca_file) as node:
            with pytest.raises(Unreachable, match=WORDS[what]) as told:
                await node.read()
            assert shown.fingerprint in str(told.value)
            with pytest.raises(Unreachable):
                await node.apply(OperatingPoint(LIMIT, 6000.0, 0.9, True))
        assert bmc.asked == []


async def test_another_certificate_than_the_pinned_one_is_a_stranger(tmp_path: Path) -> None:
    shown = signed("bmc-1", HOST)
    async with tiny_bmc(openbmc(), shown.served_from(tmp_path)) as bmc:
        async with opened(bmc, scheme="https", fingerprints={HOST: "ab" * 32}) as node:
            with pytest.raises(
                Unreachable, match=f"SHA-256 {shown.fingerprint}.* is not the one in fingerprints .abab"
            ):
                await node.read()
        assert bmc.asked == []


async def test_a_pin_for_another_address_is_no_pin_for_this_one(tmp_path: Path) -> None:
    shown = signed("bmc-1", HOST)
    served, pins = shown.served_from(tmp_path), {"10.0.0.9": shown.fingerprint}
    async with tiny_bmc(openbmc(), served) as bmc, opened(bmc, scheme="https", fingerprints=pins) as node:
        with pytest.raises(Unreachable, match="signed by nobody in this host's store"):
            await node.read()


async def test_a_stranger_who_takes_the_address_later_is_noticed(
    authority: Signed, ca_file: Path, tmp_path: Path
) -> None:
    served = signed("bmc-1", HOST, authority).served_from(tmp_path)
    async with tiny_bmc(openbmc(), served) as bmc, opened(bmc, scheme="https", ca_file=ca_file) as node:
        await node.read()
        served.load_cert_chain(tmp_path / f"{_served(signed('bmc-1', HOST), tmp_path)}.pem")
        bmc.hang_up()
        with pytest.raises(Unreachable, match="signed by itself"):
            await node.read()


def _served(certificate: Signed, folder: Path) -> str:
    certificate.served_from(folder)
    return certificate.fingerprint


async def test_a_ca_file_that_is_none_is_told(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    async with tiny_bmc(openbmc()) as bmc:
        for file in (tmp_path / "absent.pem", empty):
            async with opened(bmc, scheme="https", ca_file=file) as node:
                with pytest.raises(Unreachable, match=f"ca_file {file} is of no use"):
                    await node.read()


async def test_an_authority_put_in_later_is_taken(authority: Signed, tmp_path: Path) -> None:
    """No restart is asked of a daemon that runs."""
    (file := tmp_path / "ca.pem").write_bytes(signed("Yesterday's CA", None).pem())
    served = signed("bmc-1", HOST, authority).served_from(tmp_path)
    async with tiny_bmc(openbmc(), served) as bmc, opened(bmc, scheme="https", ca_file=file) as node:
        with pytest.raises(Unreachable, match="signed by nobody in ca_file"):
            await node.read()
        file.write_bytes(authority.pem())
        assert (await node.read()).power_w == 8400.5


async def test_a_strangers_names_are_told_in_one_line(tmp_path: Path) -> None:
    shown = signed("evil\x1b[2J\nERROR all is well", HOST)
    async with tiny_bmc(openbmc(), shown.served_from(tmp_path)) as bmc, opened(bmc, scheme="https") as node:
        with pytest.raises(Unreachable, match=r"for 'evil \[2J ERROR all is well', signed by itself"):
            await node.read()


async def test_a_server_without_tls_is_told() -> None:
    async with tiny_bmc(openbmc()) as bmc, opened(bmc, scheme="https") as node:
        with pytest.raises(Unreachable, match=f"TLS with {HOST}:{bmc.port} failed"):
            await node.read()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"scheme": "http"}, "allow_plain_http = true"),
    ({"scheme": "http", "allow_plain_http": True, "ca_file": "/ca.pem"}, "have no use"),
    ({"tls": "insecure"}, "Extra inputs"),
    ({"verify": False}, "Extra inputs"),
    ({"fingerprints": {"10.0.0.1": "AB:CD"}}, "SHA-256 fingerprint"),
    ({"password_file": "/a", "password_credential": "b"}, "exclude each other"),
    ({"curve": [[1.0, 1.0], [1.0, 0.9]]}, "must fall"),
    ({"system": "../Managers"}, "pattern"),
    ({"power_path": "/etc/passwd"}, "pattern"),
]


@pytest.mark.parametrize(("keys", "reason"), REFUSED)
def test_settings_that_would_weaken_it_are_refused(keys: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        RedfishSettings.model_validate({"username": "curtaild", **keys})


def test_a_fingerprint_may_be_pasted_as_openssl_prints_it() -> None:
    printed = "sha256 Fingerprint=" + ":".join(["AB"] * 32)
    settings = RedfishSettings.model_validate({"username": "x", "fingerprints": {"h": printed}})
    assert settings.fingerprints == {"h": "ab" * 32}
