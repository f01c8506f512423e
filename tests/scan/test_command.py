"""`curtaild scan` as it is typed: found, written, interrupted, gone on with."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

from typer.testing import CliRunner

from curtaild.cli.main import app
from curtaild.survey.notes import Met, Notes
from curtaild_drivers.contract import Identity
from curtaild_emulator import EmulatedFarm
from scan.commands import curtaild, end, start
from scan.farms import farm
from scan.site_files import SITE
from scan.strangers import stranger, tarpit

NETWORK = "127.34.10.0/24"


def site_file(folder: Path, emulated: EmulatedFarm) -> Path:
    """A site file whose one group says on which ports this farm listens."""
    path = folder / "site.toml"
    ports = emulated.ports
    path.write_text(
        SITE + '[[devices]]\nname = "known"\ndriver = "asic"\nfeeder = "row-1"\naddresses = ["127.34.10.4-7"]\n'
        f"settings = {{ rpc_port = {ports.rpc}, http_port = {ports.http}, v3_port = {ports.whatsminer_v3 or 1} }}\n"
    )
    return path


def test_what_is_gone_is_told(tmp_path: Path) -> None:
    path, state = tmp_path / "site.toml", tmp_path / "scan.json"
    path.write_text(
        SITE + '[[devices]]\nname = "known"\ndriver = "asic"\nfeeder = "row-1"\naddresses = ["127.34.11.4"]\n'
    )
    identity = Identity("Antminer", "S21", "luxos", serial="L1")
    Notes(met={"127.34.11.5": Met(identity=identity, seen_at_unix=1.0)}).write(state)
    words = ("scan", "127.34.11.4-5", "--config", str(path), "--json", "--state", str(state))
    done = CliRunner(mix_stderr=False).invoke(app, words)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["miners"], told["finished"], told["asked"]) == ([], True, 2)
    assert {(change["kind"], change["address"]) for change in told["changes"]} == {
        ("gone", "127.34.11.5"),
        ("listed, silent", "127.34.11.4"),
    }


class HalfAMiner:
    """Greets as a Whatsminer does, and says no more, so that a scan waits for it; `is_asked` once it does."""

    def __init__(self) -> None:
        self.is_asked = asyncio.Event()
        self.has_left = False

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        question = await reader.read(4096)
        if self.has_left or question[2:4] != b"\0\0":  # a frame is what it understands
            return
        if b"get.device.info" in question and not self.is_asked.is_set():
            body = b'{"code": 0, "msg": {"miner": {}}}'
            writer.write(len(body).to_bytes(4, "little") + body)
            self.is_asked.set()
            return
        await tarpit(reader, writer)


async def nobody_is_asked(emulated: EmulatedFarm) -> None:
    """Wait until the whole farm was asked, and for a while no more. A scan tells nobody how far it is."""
    units = [emulated.unit(name) for name in emulated.addresses]
    asked: list[int] = []
    async with asyncio.timeout(180.0):
        while emulated.open_calls or 0 in asked or asked != [unit.answered.total() for unit in units]:
            asked = [unit.answered.total() for unit in units]
            await asyncio.sleep(1.0)


async def test_an_interrupted_scan_says_how_to_go_on_and_does(tmp_path: Path) -> None:
    half = HalfAMiner()
    async with farm(4, NETWORK, ("luxos-s21",)) as emulated, stranger("127.34.10.200", half.talk) as port:
        path = site_file(tmp_path, emulated)
        path.write_text(
            path.read_text() + '[[devices]]\nname = "half"\ndriver = "asic"\nfeeder = "row-1"\n'
            f'addresses = ["127.34.10.200"]\nsettings = {{ v3_port = {port}, identify_deadline_s = 300 }}\n'
        )
        words = ("--state", str(tmp_path / "scan.json"), "--config", str(path), "--concurrency", "4")
        process = await start("scan", NETWORK, *words)
        async with asyncio.timeout(180.0):
            await half.is_asked.wait()
        await nobody_is_asked(emulated)
        process.send_signal(signal.SIGINT)
        half.has_left = True
        code, out, err = await end(process)
        assert code == 130, err
        assert " of 254 addresses" in out
        assert "Antminer S21" in out
        assert "127.34.10.4-7" in out
        assert f"curtaild scan --resume --state {tmp_path}/scan.json --config {path}" in err
        before = path.read_text()
        code, out, err = await curtaild("scan", "--resume", *words, "--json", "--write", str(path), "--feeder", "row-1")
        assert code == 0, err
        assert "lists all of them already" in err
        assert path.read_text() == before
        told = json.loads(out)
        assert (len(told["miners"]), told["asked"], told["finished"]) == (4, 254, True)
        assert sum(told["answers"].values()) == 254


def test_slips_are_one_line(tmp_path: Path) -> None:
    state = ("--state", str(tmp_path / "scan.json"))
    for words, said in (
        (("scan", *state), "say which addresses"),
        (("scan", "--resume", *state), "no interrupted scan"),
        (("scan", "127.34.10.1", "--write", str(tmp_path / "no.toml"), *state), "does not exist"),
    ):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 1
        assert said in done.output
        assert len(done.output.splitlines()) == 1
