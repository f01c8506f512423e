"""`curtaild rehearse` as a person types it: what is printed, what is written, and the exit code."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from curtaild.cli.main import app
from rehearse.sites import site_file

EVENTS = "duration_s = 200\n[[event]]\nat_s = 20\nshare = 0.5\n"


def curtaild(*words: str) -> Result:
    return CliRunner().invoke(app, ["rehearse", *words])


def events_file(folder: Path, text: str = EVENTS) -> str:
    path = folder / "events.toml"
    path.write_text(text)
    return str(path)


def test_a_rehearsal_prints_its_tables_and_writes_a_page(tmp_path: Path) -> None:
    html = tmp_path / "report.html"
    done = curtaild(str(site_file(tmp_path)), "--events", events_file(tmp_path), "--html", str(html))
    assert done.exit_code == 0, done.output
    for words in ("energy used, of what was allowed", "earned, of the most that could be", "taken for luxos-s19"):
        assert words in done.stdout
    assert "Every limit would be kept" in done.stdout
    text = html.read_text()
    pictures = text.split("<svg ")[1:]
    assert len(pictures) == 3  # the whole, by group, and the one answer close up
    for picture in pictures:
        drawn = ElementTree.fromstring("<svg " + picture.split("</svg>")[0] + "</svg>")
        assert drawn.findall("polyline") or drawn.findall("polygon")
    assert "http" not in text  # needs nothing from anywhere
    assert text.count("<tr>") > 10


def test_for_machines(tmp_path: Path) -> None:
    words = (str(site_file(tmp_path)), "--events", events_file(tmp_path), "--json", "--no-optimum")
    done = curtaild(*words)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["kept"] is True
    assert said["devices"] == 20
    assert said["value"]["best"] is None
    assert 0.5 < said["energy"]["utilisation"] < 1.0
    assert said["responses"][0]["at_s"] == 20.0
    assert 0 < said["actuations"]["confirmed"] <= said["actuations"]["issued"]
    assert json.loads(curtaild(*words).stdout) == said


def test_a_limit_that_would_be_broken_is_exit_code_one(tmp_path: Path) -> None:
    cut = "duration_s = 120\n[[event]]\nat_s = 20\nshare = 0.1\nreach_by_s = 60\n[faults]\ndevices = 0.5\n"
    done = curtaild(str(site_file(tmp_path)), "--events", events_file(tmp_path, cut), "--no-optimum")
    assert done.exit_code == 1, done.output
    assert "A limit would be BROKEN: site by up to" in done.stdout


def test_a_signal_of_one_s_own(tmp_path: Path) -> None:
    signal = tmp_path / "signal.csv"
    signal.write_text("at_s,share\n10,0.8\n")
    done = curtaild(str(site_file(tmp_path)), "--signal", str(signal), "--json", "--no-optimum", "--faults", "bias=3%")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["play"] == "signal.csv"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "say what to play"),
        (("--day", "2026-08-15", "--signal", "steps"), "say what to play: one of"),
        (("--signal", "step"), 'did you mean "steps"?'),
        (("--day", "tomorrow"), "write it as 2026-08-15"),
        (("--signal", "steps", "--faults", "devises=1"), 'did you mean "devices"?'),
        (("--signal", "steps", "--model", "luxos"), "write --model GROUP=MODEL"),
        (("--signal", "steps", "--model", "luxos=luxos-s12"), "did you mean"),
        (("--events", "/none.toml"), "/none.toml: No such file"),
    ],
)
def test_what_is_wrong_is_said_in_a_line_and_exit_code_two(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = curtaild(str(site_file(tmp_path)), *words)
    assert done.exit_code == 2
    assert said in done.output
    assert "Traceback" not in done.output


def test_a_wrong_site_file_says_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text("[site]\nnam = 1\n")
    done = curtaild(str(path), "--signal", "steps")
    assert done.exit_code == 2
    assert 'did you mean "name"?' in done.output
