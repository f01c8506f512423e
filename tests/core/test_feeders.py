"""The site's tree: what is one, and what is said of what is none."""

from __future__ import annotations

import pytest

from curtaild.core.feeders import FeederSpec, FeederTree, FeederTreeError
from curtaild_drivers.contract import FeederId


def specs(*pairs: tuple[str, str | None]) -> list[FeederSpec]:
    return [
        FeederSpec(FeederId(name), FeederId(parent) if parent is not None else None, 1_000.0) for name, parent in pairs
    ]


def test_each_feeder_knows_its_path_to_the_root_and_its_children() -> None:
    tree = FeederTree(specs(("pdu", "row"), ("row", "hall"), ("hall", "site"), ("site", None), ("annex", "site")))
    assert tree.root == "site"
    assert tree.paths[FeederId("pdu")] == ("pdu", "row", "hall", "site")
    assert tree.paths[tree.root] == ("site",)
    assert tree.children[tree.root] == ["hall", "annex"]


def test_bottom_up_comes_to_every_feeder_after_all_that_hang_on_it() -> None:
    tree = FeederTree(specs(("site", None), ("hall", "site"), ("row", "hall"), ("annex", "site"), ("pdu", "row")))
    order = {feeder: place for place, feeder in enumerate(tree.bottom_up)}
    assert sorted(order) == sorted(tree.specs)
    for feeder, path in tree.paths.items():
        assert all(order[feeder] < order[above] for above in path[1:])


def test_one_feeder_alone_is_a_tree() -> None:
    tree = FeederTree(specs(("site", None)))
    assert (tree.root, tree.bottom_up) == ("site", ["site"])


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ([], "exactly one feeder has no parent; here: none"),
        ([("a", None), ("b", None)], "exactly one feeder has no parent; here: a, b"),
        ([("a", None), ("b", "nowhere")], "feeder b hangs under nowhere, which is not defined"),
        ([("a", None), ("b", "a"), ("b", "a")], "feeder b is defined twice"),
        ([("a", None), ("b", "b")], "circle: b → b"),
        ([("a", None), ("b", "d"), ("c", "b"), ("d", "c")], "circle: b → d → c → b"),
        ([("a", None), ("x", "c"), ("b", "c"), ("c", "b")], "circle: x → c → b → c"),
        ([("a", "b"), ("b", "a")], "here: none"),
    ],
    ids=["none", "two roots", "unknown parent", "defined twice", "on itself", "three in a circle", "above a circle",
         "only a circle"],
)  # fmt: skip
def test_what_is_no_tree_is_refused_by_name(pairs: list[tuple[str, str | None]], says: str) -> None:
    with pytest.raises(FeederTreeError, match=says):
        FeederTree(specs(*pairs))


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(FeederTreeError) as error:
        FeederTree(specs(("a", None), ("a", None), ("b", "nowhere"), ("c", "neither")))
    for part in ("feeder a is defined twice", "b hangs under nowhere", "c hangs under neither", "here: a, a"):
        assert part in str(error.value)
