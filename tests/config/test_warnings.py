"""What a usable site file hardly means."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.site_files import DEVICES, FEEDERS, GRID, SITE, WHOLE, checked, warnings, written
from curtaild_config import Severity, load_site

ROW = '[[feeder]]\nid = "row-1"\nparent = "root"\nrating_w = 600_000\n'
ROW_2 = ROW.replace("row-1", "row-2")
ON_ROW = DEVICES.replace('feeder = "root"', 'feeder = "row-1"')


def test_a_sound_file_has_none(tmp_path: Path) -> None:
    assert warnings(tmp_path, WHOLE) == {}


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        (
            WHOLE.replace("[grid]\n", "[grid]\nallocation_cap_w = 200_000\n"),
            "grid.failsafe_limit_w",
            "above allocation_cap_w, 200 kW: silence would grant more than the contract",
        ),
        (
            WHOLE.replace("250_000", "1_500_000"),
            "grid.failsafe_limit_w",
            "above the rating of root, 1 MW: it never binds",
        ),
        (
            WHOLE.replace("[grid]\n", '[grid]\nusername = "u"\n').replace("127.0.0.1", "10.9.9.9"),
            "grid.brokers[#1]",
            "the password goes over the network in the clear",
        ),
        (
            SITE + GRID + FEEDERS + ROW + ROW_2 + ON_ROW + DEVICES.replace("row-1", "b").replace(".10-19", ".20"),
            "feeder[root].rating_w",
            "the feeders under it are rated 1.2 MW together",
        ),
        (
            SITE + GRID + FEEDERS + ROW + ON_ROW + "rated_w = 70_000\n",
            "feeder[row-1].rating_w",
            "devices and auxiliary load may draw 700 kW",
        ),
        (
            WHOLE + "earns_usd_per_h = 16\n",
            "devices[row-1].earns_usd_per_h",
            "miners earn by their hashrate: this has no effect",
        ),
        (
            SITE + GRID + FEEDERS + ROW + DEVICES,
            "feeder[row-1]",
            "no device hangs on it or under it",
        ),
        (
            SITE + GRID + '[[feeder]]\nid = "root"\nrating_w = 1e6\n' + DEVICES,
            "feeder[root].meter",
            "the root has no meter: what the grid bills is not seen, and margins grow",
        ),
    ],
)
def test_warnings(tmp_path: Path, text: str, key: str, reason: str) -> None:
    found = warnings(tmp_path, text)
    assert found[key].reason == reason
    assert found[key].severity is Severity.WARNING
    load_site(written(tmp_path, text), {})  # a warning does not stop the daemon


@pytest.mark.parametrize("broker", ["mqtt://127.0.0.7", "mqtt://localhost", "mqtt://[::1]", "mqtts://10.9.9.9"])
def test_a_password_is_safe_on_loopback_and_in_tls(tmp_path: Path, broker: str) -> None:
    text = WHOLE.replace("mqtt://127.0.0.1", broker).replace("[grid]\n", '[grid]\nusername = "u"\n')
    assert "grid.brokers[#1]" not in warnings(tmp_path, text)


def test_load_counts_down_the_whole_tree(tmp_path: Path) -> None:
    text = SITE + GRID + FEEDERS + ROW.replace("600_000", "900_000") + ON_ROW + "rated_w = 85_000\n"
    assert set(warnings(tmp_path, text)) == set()
    text = text.replace('id = "root"', 'id = "root"\nauxiliary_w = 160_000')
    assert set(warnings(tmp_path, text)) == {"feeder[root].rating_w"}


def test_a_password_file_that_everyone_can_read(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")
    secret.chmod(0o644)
    text = WHOLE + f'password_file = "{secret}"\n'
    (problem,) = checked(tmp_path, text)[1]
    assert (problem.key_path, problem.reason) == (
        "devices[row-1].password_file",
        "every user of this host can read it",
    )
    secret.chmod(0o600)
    assert checked(tmp_path, text)[1] == []
