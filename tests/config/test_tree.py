"""The feeders must form one tree, and every group must hang on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.site_files import DEVICES, GRID, SITE, errors


def feeders(*tree: tuple[str, str | None]) -> str:
    return "".join(
        f'[[feeder]]\nid = "{name}"\nrating_w = 1000\n' + (f'parent = "{parent}"\n' if parent else "")
        for name, parent in tree
    )


@pytest.mark.parametrize(
    ("tree", "key", "said"),
    [
        (
            [("root", None), ("a", "rot")],
            "feeder[a].parent",
            "no feeder has this id (is 'rot'); did you mean \"root\"?",
        ),
        (
            [("root", None), ("other", None)],
            "feeder[other].parent",
            "a second root beside root: exactly one feeder has no parent; name its parent",
        ),
        (
            [("root", None), ("a", "b"), ("b", "c"), ("c", "a")],
            "feeder[a].parent",
            "feeds itself: a → b → c → a",
        ),
        ([("root", None), ("tail", "a"), ("a", "a")], "feeder[a].parent", "feeds itself: a → a"),
        ([("root", "a"), ("a", "root")], "feeder[root].parent", "feeds itself: root → a → root"),
        (
            [("root", None), ("a", "root"), ("b", "root"), ("a", "b")],
            "feeder[#4].id",
            "this id stands already at feeder #2: a feeder has one parent (is 'a')",
        ),
    ],
)
def test_what_is_no_tree(tmp_path: Path, tree: list[tuple[str, str | None]], key: str, said: str) -> None:
    found = errors(tmp_path, SITE + GRID + feeders(*tree) + DEVICES)
    assert list(found) == [key], "one mistake is one error"
    assert said in str(found[key])


def test_two_cycles_are_two_errors(tmp_path: Path) -> None:
    tree = feeders(("root", None), ("a", "b"), ("b", "a"), ("c", "d"), ("d", "c"), ("e", "d"))
    assert list(errors(tmp_path, SITE + GRID + tree + DEVICES)) == ["feeder[a].parent", "feeder[c].parent"]


def test_a_site_needs_a_feeder(tmp_path: Path) -> None:
    assert errors(tmp_path, SITE + GRID)["feeder"].reason == "is required"
    assert errors(tmp_path, "feeder = []\n" + SITE + GRID)["feeder"].reason == "should not be empty"


@pytest.mark.parametrize("levels", [64, 65, 3_000])
def test_a_tree_deeper_than_any_site_is_a_mistake(tmp_path: Path, levels: int) -> None:
    deep = [("root", None), *((f"f{n}", "root" if n == 1 else f"f{n - 1}") for n in range(1, levels + 1))]
    found = errors(tmp_path, SITE + GRID + feeders(*deep) + DEVICES)
    assert list(found) == ([] if levels == 64 else ["feeder[f65].parent"])


def test_a_broad_tree_is_a_tree(tmp_path: Path) -> None:
    broad = [("root", None), *((f"f{n}", f"f{n // 10}" if n >= 10 else "root") for n in range(5_000))]
    assert errors(tmp_path, SITE + GRID + feeders(*broad) + DEVICES) == {}


def group(name: str, addresses: str, feeder: str = "root") -> str:
    return f'[[devices]]\nname = "{name}"\ndriver = "asic"\naddresses = {addresses}\nfeeder = "{feeder}"\n'


def test_a_group_hangs_on_a_feeder_that_exists(tmp_path: Path) -> None:
    text = SITE + GRID + feeders(("root", None), ("row-1", "root")) + group("a", '["10.0.0.1"]', "row-l")
    assert 'did you mean "row-1"?' in str(errors(tmp_path, text)["devices[a].feeder"])


def test_a_device_belongs_to_one_group(tmp_path: Path) -> None:
    text = SITE + GRID + feeders(("root", None))
    text += group("a", '["10.0.1.0/28", "10.0.1.1"]') + group("b", '["10.0.1.5-40", "gpu-1"]') + group("c", '["gpu-1"]')
    found = errors(tmp_path, text)
    assert list(found) == ["devices[b].addresses", "devices[c].addresses"]
    shared = "10 of these stand in devices[a] as well: 10.0.1.5, 10.0.1.6, 10.0.1.7, …"
    assert found["devices[b].addresses"].reason == shared
    assert found["devices[c].addresses"].reason == "1 of these stand in devices[b] as well: gpu-1"


def test_a_groups_name_is_its_own(tmp_path: Path) -> None:
    text = SITE + GRID + feeders(("root", None)) + group("a", '["10.0.0.1"]') + group("a", '["10.0.0.2"]')
    assert errors(tmp_path, text)["devices[#2].name"].reason == "this name stands already at devices #1"


def test_all_groups_together_are_bounded(tmp_path: Path) -> None:
    text = SITE + GRID + feeders(("root", None)) + group("a", '["10.0.0.0/17"]') + group("b", '["10.1.0.0/16"]')
    assert "98,300 devices are more than 65,536" in str(errors(tmp_path, text)["devices"])


def test_a_secret_has_one_source(tmp_path: Path) -> None:
    text = SITE + GRID + feeders(("root", None)) + group("a", '["10.0.0.1"]')
    text += 'password_file = "/p"\nsettings = { password_file = "/q" }\n'
    found = errors(tmp_path, text)["devices[a].settings.password_file"]
    assert found.reason == "devices[a].password_file names the same secret"
