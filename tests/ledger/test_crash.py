"""SIGKILL at any instant: what the store called durable is there, and nothing is there by halves.

A killed process leaves its writes to the kernel, so this proves order and atomicity; that each commit also reaches the
disk before it counts is SQLite's `synchronous=FULL`, which `test_store` looks at.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from contextlib import closing
from pathlib import Path

from curtaild.ledger import connect_read_only, verify
from curtaild.store import Store

CHILD = Path(__file__).with_name("committing_child.py")
KILLS = 32


async def killed_at_random(path: Path, chance: random.Random) -> int:
    """Run the child, kill it, and return the last number that it called durable (0: none)."""
    child = await asyncio.create_subprocess_exec(sys.executable, str(CHILD), str(path), stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    # Some die while opening, some after a few commits, some after a few hundred.
    lines_to_see = chance.choice([0, 1, 2, chance.randrange(3, 30), chance.randrange(30, 300)])
    seen = [await child.stdout.readline() for _ in range(lines_to_see)]
    if not seen:
        await asyncio.sleep(chance.uniform(0.02, 0.2))
    child.send_signal(signal.SIGKILL)
    seen += (await child.stdout.read()).splitlines(keepends=True)
    assert await child.wait() == -signal.SIGKILL
    numbers = [int(line) for line in seen if line.strip().isdigit() and line.endswith(b"\n")]
    return numbers[-1] if numbers else 0


def check(path: Path, durable: int) -> int:
    """The file agrees with itself and holds everything up to `durable`; returns the last number in it."""
    assert verify(path).ok
    with closing(connect_read_only(path)) as connection:
        bodies = [json.loads(body) for (body,) in connection.execute("SELECT body FROM ledger ORDER BY seq")]
        documents = dict(connection.execute("SELECT key, body FROM state"))
    last = bodies[-1]["number"] if bodies else 0
    assert last >= durable
    assert bodies == [{"number": n, "part": part} for n in range(1, last + 1) for part in range(1 + n % 3)]
    if last:
        expected = {"last": str(last), "a": str(last), "b": str(last)} | ({} if last % 2 else {"even": "yes"})
        assert documents == expected
    return int(last)


async def test_nothing_durable_is_lost_and_nothing_is_half_there(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    chance = random.Random(20)
    durable = 0
    for _ in range(KILLS):
        durable = max(durable, await killed_at_random(path, chance))
        if path.exists():
            durable = check(path, durable)
    assert durable > 300
    store = Store.open(path)  # the dead child's lock went with it
    await store.close()
