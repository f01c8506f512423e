"""`curtaild probe` as it is typed: what it shows, and that Ctrl-C brings the device back."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

from typer.testing import CliRunner

from curtaild.cli.main import app
from curtaild_emulator import EmulatedFarm, Fault
from running_site import until
from scan.commands import end, start
from scan.farms import farm


def words_for(emulated: EmulatedFarm) -> tuple[str, list[str]]:
    ports, address = emulated.ports, next(iter(emulated.addresses.values()))
    keys = {"rpc_port": ports.rpc or 1, "http_port": ports.http or 1, "v3_port": ports.whatsminer_v3 or 1}
    return address, [word for key, port in keys.items() for word in ("--setting", f"{key}={port}")]


def in_process(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, words)
    return done.exit_code, done.output


async def test_it_shows_who_a_device_is_and_how_far_its_driver_is_proven() -> None:
    async with farm(1, "127.34.21.0/24", ("luxos-s21",)) as emulated:
        address, settings = words_for(emulated)
        code, out = await asyncio.to_thread(in_process, "probe", address, *settings)
        assert code == 0, out
        for word in (
            "Antminer S21",
            "luxos",
            "independent peer",
            "running",
            "490MHz",
            "now",
            "off",
            f"--device {address}",
        ):
            assert word in out, out


async def test_nothing_is_tried_unless_somebody_agrees() -> None:
    async with farm(1, "127.34.23.0/24", ("luxos-s21",)) as emulated:
        address, settings = words_for(emulated)
        code, out = await asyncio.to_thread(in_process, "probe", address, *settings, "--exercise")
        assert code == 1
        assert "add --yes" in out
        assert emulated.true_power_w(next(iter(emulated.addresses))) > 3_000.0


async def test_ctrl_c_puts_the_device_back_and_the_transcript_tells_no_address(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    async with farm(1, "127.34.22.0/24", ("luxos-s21",)) as emulated:
        (name, address), *_ = emulated.addresses.items()
        _, settings = words_for(emulated)
        slowly = ("--read-every", "0.05", "--points", ",".join(["off"] * 1_000), "--transcript", str(path))
        process = await start("probe", address, *settings, "--exercise", "--yes", *slowly)
        await until("it has gone to sleep", lambda: emulated.true_power_w(name) <= 100.0, within_s=180.0)
        process.send_signal(signal.SIGINT)
        code, out, err = await end(process)
        assert code == 130, (out, err)
        assert "Put back to 490MHz" in out
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0]["what"] == "identity"
    assert lines[-1]["what"] == "restored"
    assert lines[-1]["confirmed_s"] is not None
    assert address not in path.read_text()


async def test_a_second_ctrl_c_leaves_it_as_it_is_and_says_how_to_bring_it_back() -> None:
    async with farm(1, "127.34.24.0/24", ("vnish-s19j-pro",)) as emulated:
        (name, address), *_ = emulated.addresses.items()
        _, settings = words_for(emulated)
        process = await start("probe", address, *settings, "--exercise", "--yes", "--points", ",".join(["off"] * 1_000))
        await until("it has gone to sleep", lambda: emulated.true_power_w(name) <= 100.0, within_s=180.0)
        emulated.set_fault(name, Fault.HANG)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        async with asyncio.timeout(180.0):
            while b"once more" not in await process.stdout.readline():
                pass
        process.send_signal(signal.SIGINT)
        code, out, err = await end(process)
        assert code == 1, (out, err)
        assert "NOT put back to 2970" in out
        assert f"curtaild probe {address} --exercise --points '2970' --stay" in out


async def test_it_stays_where_it_was_asked_to_stay() -> None:
    async with farm(1, "127.34.25.0/24", ("vnish-s19j-pro",)) as emulated:
        (name, address), *_ = emulated.addresses.items()
        _, settings = words_for(emulated)
        words = ("--exercise", "--points", "off", "--stay", "--yes", "--read-every", "0.05")
        code, out, err = await end(await start("probe", address, *settings, *words))
        assert code == 0, (out, err)
        assert "Left at off, as asked." in out
        assert emulated.true_power_w(name) < 100.0
