"""Addresses, blocks, ranges and names, and the bound on them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curtaild_config.addresses import MOST_ADDRESSES, expand_addresses


@pytest.mark.parametrize(
    ("entries", "addresses"),
    [
        (["10.0.1.5"], ["10.0.1.5"]),
        (["10.0.1.4/30"], ["10.0.1.5", "10.0.1.6"]),
        (["10.0.1.4/31"], ["10.0.1.4", "10.0.1.5"]),
        (["10.0.1.4/32"], ["10.0.1.4"]),
        (["10.0.1.10-12"], ["10.0.1.10", "10.0.1.11", "10.0.1.12"]),
        (["10.0.1.254 - 10.0.2.1"], ["10.0.1.254", "10.0.1.255", "10.0.2.0", "10.0.2.1"]),
        (["10.0.1.7-7"], ["10.0.1.7"]),
        (["fd00::a-fd00::b"], ["fd00::a", "fd00::b"]),
        (["fd00::/127"], ["fd00::", "fd00::1"]),
        (["10.0.1.5", "10.0.1.4-6", "10.0.1.5"], ["10.0.1.5", "10.0.1.4", "10.0.1.6"]),
        (["dgx-7.bmc.lan", "localhost"], ["dgx-7.bmc.lan", "localhost"]),
    ],
)
def test_expansion(entries: list[str], addresses: list[str]) -> None:
    assert expand_addresses(entries) == tuple(addresses)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("10.0.1.300", "is no address, block"),
        ("10.0.1", "is no address, block"),
        ("", "is no address, block"),
        ("a b", "is no address, block"),
        ("10.0.1.5/24", "is ambiguous: write 10.0.1.0/24 for the block"),
        ("10.0.1.0/33", "is no block: write 10.0.1.0/24"),
        ("10.0.1.0/", "is no block"),
        ("10.0.1.9-3", "ends before it begins"),
        ("10.0.1.9-300", "is no range: write 10.0.1.10-250 or 10.0.1.10-10.0.1.250"),
        ("10.0.1.9-fd00::1", "is no range"),
        ("10.0.0.0/8", "makes more than 65,536 addresses"),
        ("::/0", "makes more than 65,536 addresses"),
        ("0.0.0.0-255.255.255.255", "makes more than 65,536 addresses"),
    ],
)
def test_what_is_refused(entry: str, said: str) -> None:
    with pytest.raises(ValueError, match="^" + repr(entry).replace(".", r"\.") + ".*") as caught:
        expand_addresses([entry])
    assert said in str(caught.value)


def test_the_bound_counts_all_entries_of_a_group() -> None:
    assert len(expand_addresses(["10.0.0.0/16"])) == MOST_ADDRESSES - 2
    with pytest.raises(ValueError, match=r"'10\.2\.0\.0/29' makes more than"):
        expand_addresses(["10.0.0.0/16", "10.2.0.0/29"])


@given(st.one_of(st.text(max_size=30), st.text("0123456789abcdef.:-/ %", max_size=40)))
def test_any_text_is_addresses_or_a_value_error(entry: str) -> None:
    try:
        found = expand_addresses([entry], most=256)
    except ValueError:
        return
    assert len(set(found)) == len(found) <= 256
