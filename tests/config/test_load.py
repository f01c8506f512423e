"""A site file becomes a site, or every reason why it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from config.site_files import DEVICES, FEEDERS, GRID, SITE, WHOLE, checked, errors, written
from curtaild_config import Endpoint, Severity, SiteFileError, check_site, load_site
from curtaild_drivers import registry
from curtaild_drivers.registry import Driver


def test_a_small_file_and_the_defaults(tmp_path: Path) -> None:
    site = load_site(written(tmp_path, WHOLE), {})
    assert site.name == "korangi"
    assert [str(broker) for broker in site.grid.brokers] == ["mqtt://127.0.0.1:1883"]
    assert (site.grid.heartbeat, site.grid.heartbeat_timeout_s, site.grid.failsafe_hold_s) == ("required", 120, 60)
    assert site.root.id == "root"
    assert site.policy.ramp_up_w_per_min is None, "no ramp is not a ramp of 0"
    assert site.telemetry.listen == Endpoint("127.0.0.1", 9810)
    assert site.ledger.path == Path("curtaild.db")
    with pytest.raises(ValidationError):
        site.grid.failsafe_limit_w = 0.0


def test_zero_is_a_fail_safe_limit(tmp_path: Path) -> None:
    site = load_site(written(tmp_path, WHOLE.replace("250_000", "0")), {})
    assert site.grid.failsafe_limit_w == 0.0


def test_devices_one_by_one(tmp_path: Path) -> None:
    text = WHOLE + 'priority = 90\nrated_w = 3_600\nsettings = { mode = "fast", token_credential = "t" }\n'
    devices = load_site(written(tmp_path, text), {}).expand_devices()
    assert [device.id for device in devices] == [f"row-1/10.0.1.{last}" for last in range(10, 20)]
    first = devices[0]
    assert (first.address, first.driver, first.feeder, first.priority) == ("10.0.1.10", "asic", "root", 90)
    assert (first.rated_w, first.poll_s, first.stale_after_s) == (3_600, 10, 60)
    assert (first.min_on_s, first.min_off_s) == (0, 60)
    assert first.settings.model_dump()["mode"] == "fast"
    assert [(secret.name, secret.credential) for secret in first.secret_sources] == [("token", "t")]
    assert devices[9].settings is first.settings, "one settings object serves a group"


def test_meters_one_by_one(tmp_path: Path) -> None:
    (meter,) = load_site(written(tmp_path, WHOLE), {}).meters()
    assert (meter.feeder, meter.driver, meter.address) == ("root", "modbus", "10.0.0.5:502")
    assert (meter.poll_s, meter.stale_after_s) == (1, 10)
    assert meter.settings.model_dump()["preset"] == "eastron-sdm630"


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    env = {
        "CURTAILD_GRID__FAILSAFE_LIMIT_W": "12500",
        "CURTAILD_GRID__BROKERS": '["mqtts://a.grid.example", "mqtt://[::1]:2883"]',
        "CURTAILD_LOG__LEVEL": "debug",
        "CURTAILD_SITE": "/etc/curtaild/site.toml",
        "HOME": "/root",
    }
    site = load_site(written(tmp_path, WHOLE), env)
    assert site.grid.failsafe_limit_w == 12_500
    assert [str(broker) for broker in site.grid.brokers] == ["mqtts://a.grid.example:8883", "mqtt://[::1]:2883"]
    assert [broker.tls for broker in site.grid.brokers] == [True, False]
    assert (site.log.level, site.name) == ("debug", "korangi")


def test_a_wrong_override_is_blamed_on_its_variable(tmp_path: Path) -> None:
    env = {
        "CURTAILD_GRID__FAILSAFE_LIMIT_W": "lots",
        "CURTAILD_GRID__HARTBEAT": "none",
        "CURTAILD_GIRD__PREFIX": "x",
        "CURTAILD_GRID__BROKERS": "mqtt://a",
    }
    found = errors(tmp_path, WHOLE, env)
    assert found["grid.failsafe_limit_w"].file == "environment CURTAILD_GRID__FAILSAFE_LIMIT_W"
    assert found["grid.failsafe_limit_w"].value == "'lots'"
    assert found["grid.hartbeat"].file == "environment CURTAILD_GRID__HARTBEAT"
    assert found["grid.hartbeat"].remedy == 'did you mean "heartbeat"?'
    assert found["gird"].remedy == 'did you mean "grid"?'
    assert found["grid.brokers"].remedy == "lists are JSON"


def test_the_ledger_lies_in_the_state_directory_unless_told_otherwise(tmp_path: Path) -> None:
    env = {"STATE_DIRECTORY": "/var/lib/curtaild:/var/lib/other"}
    path = written(tmp_path, WHOLE)
    assert load_site(path, env).ledger.path == Path("/var/lib/curtaild/curtaild.db")
    path = written(tmp_path, WHOLE + '[ledger]\npath = "/srv/l.db"\n')
    assert load_site(path, env).ledger.path == Path("/srv/l.db")


def test_all_errors_come_at_once(tmp_path: Path) -> None:
    text = """
[site]
name = "korangi north"
[grid]
brokers = ["http://x", "mqtt://10.0.0.1:99999"]
hartbeat = "none"
heartbeat = "non"
keepalive_s = 1
[[feeder]]
id = "root"
rating_w = nan
[[feeder]]
id = "row-1"
parent = "rot"
rating_w = "much"
[feeder.meter]
driver = "modbos"
address = "10.0.0.5:502"
[[devices]]
name = "a"
driver = "assic"
addresses = ["10.0.1.300"]
feeder = "row-l"
[[devices]]
name = "b"
driver = "asic"
addresses = ["10.0.1.1"]
feeder = "row-1"
settings = { prot = 1, mode = "gentel", port = 0 }
[polcy]
margin_fraction = 0.1
"""
    found = errors(tmp_path, text)
    said = {key: problem.remedy for key, problem in found.items()}
    assert said == {
        "site.name": "",
        "grid.brokers[#1]": "",
        "grid.brokers[#2]": "",
        "grid.hartbeat": 'did you mean "heartbeat"?',
        "grid.heartbeat": 'did you mean "none"?',
        "grid.keepalive_s": "",
        "grid.failsafe_limit_w": "The ceiling that holds while the grid is silent, in watts",
        "feeder[root].rating_w": "",
        "feeder[row-1].parent": 'did you mean "root"?',
        "feeder[row-1].rating_w": "",
        "feeder[row-1].meter.driver": 'did you mean "modbus"? (meters: modbus)',
        "devices[a].driver": 'did you mean "asic"? (devices: asic)',
        "devices[a].addresses[#1]": "",
        "devices[a].feeder": 'did you mean "row-1"?',
        "devices[b].settings.prot": 'did you mean "port"?',
        "devices[b].settings.mode": 'did you mean "gentle"?',
        "devices[b].settings.port": "",
        "polcy": 'did you mean "policy"?',
    }
    with pytest.raises(SiteFileError) as caught:
        load_site(written(tmp_path, text), {})
    assert len(caught.value.problems) == len(found)
    assert all(str(problem) in str(caught.value) for problem in found.values())


def test_a_problem_reads_as_a_sentence(tmp_path: Path) -> None:
    problem = errors(tmp_path, WHOLE.replace("250_000", "-5"))["grid.failsafe_limit_w"]
    assert str(problem) == (
        f"error: {tmp_path}/site.toml: grid.failsafe_limit_w: should be greater than or equal to 0 (is -5)"
    )


@pytest.mark.parametrize(
    ("was", "becomes", "key", "reason"),
    [
        ("250_000", "true", "grid.failsafe_limit_w", "should be a number, not true or false"),
        ("250_000", "inf", "grid.failsafe_limit_w", "should be"),
        ("250_000", "1e15", "grid.failsafe_limit_w", "should be less than or equal to 100000000000"),
        ("1_000_000", "0", "feeder[root].rating_w", "should be greater than 0"),
        ('["mqtt://127.0.0.1"]', '"mqtt://127.0.0.1"', "grid.brokers", "should be a list"),
        ('["mqtt://127.0.0.1"]', "[]", "grid.brokers", "should not be empty"),
        ("mqtt://127.0.0.1", "mqtt://u:pw@127.0.0.1", "grid.brokers[#1]", "should not carry a user or password"),
        ("mqtt://127.0.0.1", "mqtt://127.0.0.1/x", "grid.brokers[#1]", "should end after host and port"),
        ("mqtt://127.0.0.1", "mqtt://", "grid.brokers[#1]", "should be host:port"),
        ("10.0.0.5:502", "10.0.0.5:x", "feeder[root].meter.address", "should be host:port"),
        ("[[feeder]]", "[feeder]", "feeder", "stands many times"),
        ("[grid]", "[[grid]]", "grid", "should be a table"),
        ("[grid]\n", '[grid]\nprefix = "a/#"\n', "grid.prefix", "without wildcards"),
        ("[grid]\n", '[grid]\nusername = "u"\npassword = "hunter2"\n', "grid.password", "unknown key"),
        ("[grid]\n", '[grid]\npassword_file = "/p"\n', "grid", "a password needs a username"),
        ("[grid]\n", '[grid]\ncert_file = "/c"\n', "grid", "cert_file and key_file need each other"),
        ("[grid]\n", '[grid]\nca_file = "/c"\n', "grid", "ca_file have no use: no broker is mqtts://"),
        ('feeder = "root"\n', 'feeder = "root"\npoll_s = 60\n', "devices[row-1]", "must exceed poll_s"),
        ('feeder = "root"\n', 'feeder = "root"\npriority = 101\n', "devices[row-1].priority", "less than or equal"),
        ('driver = "asic"', 'driver = "modbus"', "devices[row-1].driver", "this driver is for meters, not for devices"),
        ('preset = "eastron-sdm630"', "", "feeder[root].meter.settings", "needs a preset"),
        ('{ preset = "eastron-sdm630" }', "1", "feeder[root].meter.settings", "should be a table"),
    ],
)
def test_what_a_key_may_not_say(tmp_path: Path, was: str, becomes: str, key: str, reason: str) -> None:
    found = errors(tmp_path, WHOLE.replace(was, becomes, 1))
    assert reason in found[key].reason
    assert found[key].severity is Severity.ERROR


def test_a_syntax_error_says_line_and_column(tmp_path: Path) -> None:
    site, problems = checked(tmp_path, '[site]\nname = "korangi\n')
    assert site is None
    (problem,) = problems
    assert "is not TOML" in problem.reason
    assert "line 2, column 16" in problem.reason


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'[site]\nname = "Z\xfcrich"\n')
    for path, reason in [
        (tmp_path / "none.toml", "does not exist"),
        (tmp_path, "is not a file"),
        (latin, "is not UTF-8 text (byte 16)"),
    ]:
        site, (problem,) = check_site(path, {})
        assert (site, problem.reason) == (None, reason)
        with pytest.raises(SiteFileError):
            load_site(path, {})


def test_a_driver_that_cannot_be_imported_is_a_problem_and_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> dict[str, Driver]:
        raise ImportError("libfoo.so.1: cannot open")

    monkeypatch.setattr(registry, "drivers", broken)
    (problem,) = errors(tmp_path, WHOLE).values()
    assert problem.reason == "an installed driver cannot be loaded: ImportError: libfoo.so.1: cannot open"


@pytest.mark.parametrize(
    "text",
    [
        WHOLE.replace("[grid]\n", '[grid]\npassword = "hunter2"\n'),
        WHOLE.replace("[grid]\n", '[grid]\npassword_file = 5\npasswort = "hunter2"\n'),
        WHOLE.replace("mqtt://127.0.0.1", "mqtt://u:hunter2@127.0.0.1"),
        WHOLE.replace("mqtt://127.0.0.1", "mqtt://u:hunter2@[x"),
        WHOLE + 'password = "hunter2"\n',
        WHOLE + 'settings = { password = "hunter2", token_credential = ["hunter2"] }\n',
        WHOLE + 'password_credential = "hunter2 "\n',
    ],
)
def test_no_secret_is_ever_said(tmp_path: Path, text: str) -> None:
    _, problems = checked(tmp_path, text)
    assert problems
    assert "hunter2" not in "".join(map(str, problems))
    assert "hunter2" not in repr(problems)


LINES = WHOLE.splitlines()
LITERALS = ["true", "-1", "0", "nan", "1e400", "1979-05-27", '""', '"x"', '"\\u0000"', '"10.0.0.0/8"']
LITERALS += ["[]", "[[]]", "[1, {}]", "{}", "{ a = {} }"]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_file_makes_check_raise(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    lines = list(LINES)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(lines) - 1))
        key, divider, _ = lines[place].partition(" = ")
        change = data.draw(st.sampled_from(["replace", "remove", "double", "text"]))
        if change == "replace" and divider:
            lines[place] = f"{key} = {data.draw(st.sampled_from(LITERALS))}"
        elif change == "remove":
            lines[place] = ""
        elif change == "double":
            lines.append(lines[place])
        else:
            lines[place] = data.draw(st.text(max_size=20))
    path = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    path.write_bytes("\n".join(lines).encode("utf-8", "replace"))
    site, problems = check_site(path, {})
    assert (site is None) == any(problem.severity is Severity.ERROR for problem in problems)
    if site is not None:
        site.expand_devices(), site.meters()


def test_tables_may_stand_in_any_order(tmp_path: Path) -> None:
    site = load_site(written(tmp_path, FEEDERS + DEVICES + GRID + SITE), {})
    assert len(site.expand_devices()) == 10
