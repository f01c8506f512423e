"""Label values as the exposition formats want them, whatever a device or a site file says."""

from __future__ import annotations

MOST_CHARACTERS = 128
"""A claim longer than this is cut: a device may name a model of a megabyte, and every scrape would carry it."""


def label_value(text: str) -> str:
    """`text` without lone surrogates, which no encoder takes: a JSON answer may hold them."""
    return text.encode("utf-8", "replace").decode("utf-8")


def claim(text: str) -> str:
    """What a device says of itself, fit to be shown: cut, and unprintable characters replaced by U+FFFD."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:MOST_CHARACTERS])


def label(name: str, text: str) -> str:
    """`name="text"` in the text formats' own escaping."""
    value = label_value(text).replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return f'{name}="{value}"'
