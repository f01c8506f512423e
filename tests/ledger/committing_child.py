"""A process that commits until it is killed. It prints a number only once the store calls that commit durable."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from curtaild.ledger import Record
from curtaild.store import Store


async def commit_for_ever(path: Path) -> None:
    store = Store.open(path)
    number = int(store.documents().get("last", "0"))
    os.write(1, b"open\n")
    while True:
        burst = []
        for _ in range(1 + number % 7):
            number += 1
            records = [Record(1_000.0, "test", {"number": number, "part": part}) for part in range(1 + number % 3)]
            # `a` and `b` must never be seen apart; `even` is there after even numbers only
            documents = {"last": str(number), "a": f"{number}", "b": f"{number}", "even": None if number % 2 else "yes"}
            burst.append((number, store.commit(records, documents)))
        for done_number, future in burst:
            await future
            os.write(1, f"{done_number}\n".encode())


if __name__ == "__main__":
    asyncio.run(commit_for_ever(Path(sys.argv[1])))
