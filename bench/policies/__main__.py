"""The command line: which signals, on which site, and how the figures are shown."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from bench.policies.compare import WEATHER, Row, compare
from bench.policies.table import NOTE, markdown, terminal
from curtaild.rehearse.signals import SIGNALS


def main() -> None:
    parser = _parser()
    chosen = parser.parse_args()
    if not 10 <= chosen.devices <= 500:
        parser.error("--devices lies in 10..500")
    signals, weathers = chosen.signals.split(","), chosen.weather.split(",")
    for known, named in ((SIGNALS, signals), (WEATHER, weathers)):
        unknown = [name for name in named if name not in known]
        if unknown:
            parser.error(f"no {unknown[0]!r}; known: {', '.join(known)}")
    progress = Console(stderr=True)
    rows: list[Row] = []
    if chosen.shown:
        rows = [Row(**row) for path in chosen.shown for row in json.loads(path.read_text())]
    else:
        for signal in signals:
            for weather in weathers:
                rows += compare(weather, signal, chosen.devices, lambda text: progress.print(text, style="dim"))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if chosen.markdown:
        print("\n".join(markdown(rows)))
    else:
        console = Console(width=120)
        console.print(terminal(rows))
        console.print(NOTE)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.policies",
        description="curtaild's control beside four published policies and a solver's bound, on one emulated site.",
        epilog="What each policy does, and from which publication, stands in bench/policies/rivals.py.",
    )
    parser.add_argument("--signals", default=",".join(SIGNALS), help="which, by name, with commas between")
    parser.add_argument("--weather", default=",".join(WEATHER), help="healthy, faulty, or both (the default)")
    parser.add_argument("--devices", type=int, default=50, help="how many devices the site has (10 to 500)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--show", type=Path, nargs="+", metavar="FILE", dest="shown", help="run nothing: show these")
    parser.add_argument("--markdown", action="store_true", help="the table as docs/control.md has it")
    return parser


if __name__ == "__main__":
    main()
