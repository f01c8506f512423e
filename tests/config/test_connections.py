"""The site's grid connections: one written plainly in [grid], others in tables of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.site_files import DEVICES, FEEDERS, GRID, SITE, WHOLE, errors, written
from curtaild_config import (
    MaestroOSConnection,
    NativeConnection,
    OpenAdrConnection,
    connection_secret_sources,
    load_site,
)

MAESTRO = """
[[grid.connection]]
name = "maestro"
dialect = "maestroos"
brokers = ["mqtt://127.0.0.2", "mqtt://127.0.0.3"]
topic = "site/target"
"""


def test_brokers_of_the_grid_table_make_a_native_connection(tmp_path: Path) -> None:
    text = WHOLE.replace("[grid]\n", '[grid]\nusername = "u"\npassword_credential = "p"\nkeepalive_s = 7\n')
    (own,) = load_site(written(tmp_path, text), {}).grid.connections
    assert isinstance(own, NativeConnection)
    assert (own.name, own.prefix, own.username, own.keepalive_s) == ("native", "curtaild/v1", "u", 7)
    assert [source.key_path for source in connection_secret_sources(own)] == ["grid.password_credential"]


def test_further_connections_stand_beside_it(tmp_path: Path) -> None:
    text = SITE + GRID + MAESTRO + 'username = "m"\npassword_file = "/run/m"\n' + FEEDERS + DEVICES
    native, maestro = load_site(written(tmp_path, text), {}).grid.connections
    assert isinstance(native, NativeConnection)
    assert isinstance(maestro, MaestroOSConnection)
    assert (maestro.topic, maestro.feeder, maestro.on_limit_w, maestro.silence_s) == ("site/target", None, None, 240)
    paths = [source.key_path for source in connection_secret_sources(maestro)]
    assert paths == ["grid.connection[maestro].password_file"]


def test_they_may_be_the_only_ones(tmp_path: Path) -> None:
    text = SITE + "[grid]\nfailsafe_limit_w = 0\n" + MAESTRO + FEEDERS
    assert [each.name for each in load_site(written(tmp_path, text), {}).grid.connections] == ["maestro"]


ONE = "grid.connection[maestro]"


@pytest.mark.parametrize(
    ("old", "new", "path", "reason", "remedy"),
    [
        ('"maestroos"', '"maestro"', f"{ONE}.dialect", "should be one of", 'did you mean "maestroos"?'),
        ('dialect = "maestroos"\n', "", f"{ONE}.dialect", "is required", "which of its keys"),
        ("topic", "topics", f"{ONE}.topics", "unknown key", 'did you mean "topic"?'),
        ("topic =", "prefix =", f"{ONE}.prefix", "unknown key", "topic"),
        ('topic = "site/target"', "", f"{ONE}.topic", "is required", "carries ON and OFF"),
        ("site/target", "site/#", f"{ONE}.topic", "without wildcards", ""),
        ("topic =", 'feeder = "rout"\ntopic =', f"{ONE}.feeder", "no feeder has this id", 'did you mean "root"?'),
        ('"mqtt://127.0.0.2", "mqtt://127.0.0.3"', "", f"{ONE}.brokers", "should not be empty", ""),
        ("[[grid.connection]]", "[grid.connection]", "grid.connection", "stands many times", "[[grid.connection]]"),
        ('name = "maestro"', 'name = "native"', "grid", "a name of its own", ""),
        ("topic =", 'ca_file = "/x"\ntopic =', ONE, "no broker is mqtts://", ""),
    ],
)
def test_what_is_wrong_with_a_connection_is_said(
    tmp_path: Path, old: str, new: str, path: str, reason: str, remedy: str
) -> None:
    assert old in MAESTRO
    found = errors(tmp_path, SITE + GRID + MAESTRO.replace(old, new) + FEEDERS + DEVICES)
    assert path in found, found
    assert reason in found[path].reason
    assert remedy in found[path].remedy


def test_nobody_to_listen_to_is_said(tmp_path: Path) -> None:
    found = errors(tmp_path, WHOLE.replace('brokers = ["mqtt://127.0.0.1"]\n', ""))
    assert "brokers is missing" in found["grid"].reason
    found = errors(tmp_path, SITE + '[grid]\nfailsafe_limit_w = 0\nusername = "u"\n' + MAESTRO + FEEDERS)
    assert "username have no use without brokers" in found["grid"].reason


DSX = """
[[grid.connection]]
name = "dsx"
dialect = "dsx-flex"
brokers = ["mqtt://127.0.0.4"]
agent = "korangi"
signing_key_credential = "dsx-key"
isvs = { acme = "/etc/acme.jwks" }
feeds = { main-a = "root" }
"""


def test_a_dsx_connection_signs_with_a_secret(tmp_path: Path) -> None:
    site = load_site(written(tmp_path, SITE + GRID + DSX + FEEDERS), {})
    (source,) = connection_secret_sources(site.grid.connection[0])
    assert (source.name, source.credential) == ("signing_key", "dsx-key")
    assert source.key_path == "grid.connection[dsx].signing_key_credential"


@pytest.mark.parametrize(
    ("old", "new", "path", "reason"),
    [
        ('signing_key_credential = "dsx-key"', "", "", "needs one of signing_key_file and signing_key_credential"),
        ('main-a = "root"', 'main-a = "rot"', ".feeds.main-a", "no feeder has this id"),
        ('main-a = "root"', 'main-a = "root", main-b = "root"', "", "two tags for one feeder"),
        ('main-a = "root"', "", ".feeds", "should not be empty"),
        ('"korangi"', '"a/b"', ".agent", "one level of an MQTT topic"),
        ('acme = "/etc/acme.jwks"', '"a/+" = "/x"', ".isvs.a/+.[key]", ""),
        ("isvs =", 'infrastructure_actions = ["SHOUT"]\nisvs =', ".infrastructure_actions[#1]", "should be one of"),
    ],
)
def test_what_is_wrong_with_a_dsx_connection_is_said(
    tmp_path: Path, old: str, new: str, path: str, reason: str
) -> None:
    assert old in DSX
    found = errors(tmp_path, SITE + GRID + DSX.replace(old, new) + FEEDERS)
    place = f"grid.connection[dsx]{path}"
    assert place in found, found
    assert reason in found[place].reason


ISSUERS = """
[[grid.issuer]]
name = "npcc"
keys_file = "/etc/npcc.jwks"
[[grid.issuer]]
name = "back-up"
keys_file = "/etc/back-up.jwks"
feeders = ["root"]
lowest_limit_w = 5000
emergency = false
"""


def test_issuers_of_the_grid_table_are_those_of_its_connection(tmp_path: Path) -> None:
    (own,) = load_site(written(tmp_path, SITE + GRID + ISSUERS + FEEDERS), {}).grid.connections
    assert isinstance(own, NativeConnection)
    first, second = own.issuer
    assert (first.name, first.feeders, first.lowest_limit_w, first.emergency) == ("npcc", None, 0, True)
    assert (second.feeders, second.lowest_limit_w, second.emergency) == (("root",), 5_000, False)


@pytest.mark.parametrize(
    ("old", "new", "path", "reason"),
    [
        ('keys_file = "/etc/npcc.jwks"\n', "", ".issuer[npcc].keys_file", "is required"),
        ("lowest_limit_w", "lowest_w", ".issuer[back-up].lowest_w", "unknown key"),
        ("lowest_limit_w = 5000", "lowest_limit_w = -1", ".issuer[back-up].lowest_limit_w", "greater than or equal"),
        ('["root"]', '["rout"]', ".issuer[back-up].feeders[#1]", "no feeder has this id"),
        ('["root"]', "[]", ".issuer[back-up].feeders", "should not be empty"),
        ('"back-up"', '"npcc"', ".issuer", "two of one name"),
        ('"npcc"', '"maestroos//x"', ".issuer[maestroos//x].name", "without //"),
        ("[[grid.issuer]]", "[grid.issuer]", ".issuer", "stands many times"),
    ],
)
def test_what_is_wrong_with_an_issuer_is_said(tmp_path: Path, old: str, new: str, path: str, reason: str) -> None:
    text = ISSUERS if "[[grid" not in old else ISSUERS.rpartition("[[grid.issuer]]")[0]  # a plain table stands once
    assert old in text
    found = errors(tmp_path, SITE + GRID + text.replace(old, new) + FEEDERS)
    assert f"grid{path}" in found, found
    assert reason in found[f"grid{path}"].reason


def test_somebody_must_be_able_to_show_that_he_is_alive(tmp_path: Path) -> None:
    alone = SITE + "[grid]\nfailsafe_limit_w = 0\n" + DSX
    assert "no connection brings signs of life" in errors(tmp_path, alone + FEEDERS)["grid"].reason
    load_site(written(tmp_path, alone + 'without_target = "released"\n' + FEEDERS), {})
    load_site(written(tmp_path, alone.replace("[grid]\n", '[grid]\nheartbeat = "none"\n') + FEEDERS), {})


VTN = """
[[grid.connection]]
name = "utility"
dialect = "openadr"
vtn = "https://vtn.example/openadr3/3.1.0/"
client_id = "korangi"
client_secret_credential = "vtn-secret"
targets = { group-1 = "root" }
simple_levels = { 1 = "75 %", 2 = "12.5%", 3 = 250_000 }
"""


def test_an_openadr_connection_has_a_vtn_and_a_secret(tmp_path: Path) -> None:
    site = load_site(written(tmp_path, SITE + "[grid]\nfailsafe_limit_w = 0\n" + VTN + FEEDERS), {})
    (vtn,) = site.grid.connections
    assert isinstance(vtn, OpenAdrConnection)
    assert (vtn.vtn, vtn.poll_s, vtn.without_event) == ("https://vtn.example/openadr3/3.1.0", 30, "released")
    assert [vtn.simple_levels[level].of(1e6) for level in ("1", "2", "3")] == [750_000, 125_000, 250_000]
    assert vtn.simple_levels["3"].of(1e5) == 1e5, "no more than the rating"
    (source,) = connection_secret_sources(vtn)
    assert (source.name, source.credential) == ("client_secret", "vtn-secret")


@pytest.mark.parametrize(
    ("old", "new", "path", "reason"),
    [
        ("https://", "http://", ".vtn", "OpenADR asks for TLS"),
        ("https://", "https://u:pw@", ".vtn", "should not carry a user or password"),
        ("3.1.0/", "3.1.0?x=1", ".vtn", "should end after the path"),
        ('client_id = "korangi"\n', "", "", "need each other"),
        ('client_secret_credential = "vtn-secret"\n', "", "", "need each other"),
        ("client_secret_c", 'client_secret_file = "/x"\nclient_secret_c', "", "exclude each other"),
        ('"75 %"', '"101 %"', ".simple_levels.1", 'or a part of the rating, such as "50 %"'),
        ('"75 %"', "-1", ".simple_levels.1", "should be watts"),
        ('1 = "75 %", ', "", "", "simple_levels needs 1, 2 and 3"),
        ("{ 1 = ", "{ 4 = ", ".simple_levels.4.[key]", "should be one of 1, 2, 3"),
        ('"root"', '"rot"', ".targets.group-1", "no feeder has this id"),
        ("targets", 'cert_file = "/x"\ntargets', "", "cert_file and key_file need each other"),
        ("targets", "poll_s = 0.5\ntargets", ".poll_s", "greater than or equal to 1"),
    ],
)
def test_what_is_wrong_with_an_openadr_connection_is_said(
    tmp_path: Path, old: str, new: str, path: str, reason: str
) -> None:
    assert old in VTN
    found = errors(tmp_path, SITE + GRID + VTN.replace(old, new, 1) + FEEDERS)
    place = f"grid.connection[utility]{path}"
    assert place in found, found
    assert reason in found[place].reason


def test_a_vtn_is_polled_often_enough_to_be_seen_alive(tmp_path: Path) -> None:
    found = errors(tmp_path, SITE + GRID + VTN + "poll_s = 41\n" + FEEDERS)
    assert "poll_s of utility should be at most a third of heartbeat_timeout_s" in found["grid"].reason
