"""A transcript can be shared: what identifies a site, its owner or its accounts is not in it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from curtaild.survey.exercise import Step
from curtaild.survey.transcript import CannotWrite, Transcript
from curtaild_drivers.contract import Identity, OperatingPoint, Reading, RunState


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("no connection to 10.0.1.7:4028: refused", "no connection to <address>:4028: refused"),
        ("fe80::1ff:fe23:4567:890a is gone", "<address> is gone"),
        ("pool stratum+tcp://eu.pool.example:3333 dead", None),
        ("btc.example-pool.com refuses", "<host> refuses"),
        ("worker alice.rig7 rejected", "worker <masked> rejected"),
        ("password=hunter2x", "password=<masked>"),
        ("user 'root' and no more", None),
        ("payout bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq", "payout <long word>"),
        ("token deadbeefdeadbeef", "token <masked>"),
        ("board at AA:bb:CC:dd:EE:ff hot", "board at <mac> hot"),
        ("mail alice@example.org", "mail <account>"),
        ("serial DGAHD4ABCJI", "serial <masked>"),
        ("chain 2 has 1.5 V, fw 1.2.6 of 2024-01", "chain 2 has 1.5 V, fw 1.2.6 of 2024-01"),
        ("set.miner.power_percent: busy (code -2)", "set.miner.power_percent: busy (code -2)"),
    ],
)
def test_a_devices_own_words_are_masked(said: str, kept: str | None) -> None:
    masked = Transcript(io.StringIO(), []).masked(said)
    if kept is not None:
        assert masked == kept
    for private in ("alice", "eu.pool", "10.0.1", "hunter2", "bc1q", "deadbeef", "AA:bb", "DGAHD", "root"):
        assert private not in masked


def test_what_is_known_to_be_secret_is_masked_wherever_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    notes = Transcript.create(path, ["row-7.farm", "s3cret"])
    notes.identity(Identity("Antminer", "S21", "luxos", "2024.9", serial="JX-99-a"))
    notes.reading(Reading(0.0, RunState.FAULT, fault="unit JX-99-a at row-7.farm says s3cret"))
    off = OperatingPoint("off", 25.0, 0.0)
    notes.command(off)
    notes.step(Step(off, "Refused: by s3cret", 0.1234567))
    notes.close()
    text = path.read_text()
    assert [json.loads(line)["what"] for line in text.splitlines()] == ["identity", "reading", "command", "step"]
    for private in ("JX-99-a", "row-7.farm", "s3cret"):
        assert private not in text
    assert '"answered_s": 0.123' in text
    with pytest.raises(CannotWrite, match="exists already"):
        Transcript.create(path, [])
