"""The command line. Each command is one short room; what it starts lives elsewhere."""

from curtaild.cli.main import main

__all__ = ["main"]
