"""Draws a site for people: its feeders as a tree, with ratings, meters and how many devices hang where."""

from __future__ import annotations

from rich.markup import escape
from rich.tree import Tree

from curtaild_config.addresses import expand_addresses
from curtaild_config.plant import DeviceGroup, Feeder
from curtaild_config.site import Site
from curtaild_config.warnings import watts


def render_tree(site: Site) -> Tree:
    """The site's electrical tree, as `curtaild check` shows it."""
    devices = sum(len(expand_addresses(group.addresses)) for group in site.devices)
    tree = Tree(f"[bold]{escape(site.name)}[/] · {devices:,} devices · fail-safe {watts(site.grid.failsafe_limit_w)}")
    _hang(tree, site, site.root)
    return tree


def _hang(branch: Tree, site: Site, feeder: Feeder) -> None:
    label = f"[bold]{escape(feeder.id)}[/] {watts(feeder.rating_w)}"
    if feeder.auxiliary_w:
        label += f", auxiliary {watts(feeder.auxiliary_w)}"
    if feeder.meter is not None:
        label += f" · meter {escape(feeder.meter.driver)} {escape(feeder.meter.address)}"
    here = branch.add(label)
    for group in site.devices:
        if group.feeder == feeder.id:
            here.add(_group_label(group))
    for child in site.children(feeder.id):
        _hang(here, site, child)


def _group_label(group: DeviceGroup) -> str:
    count = len(expand_addresses(group.addresses))
    each = f" × {watts(group.rated_w)}" if group.rated_w is not None else ""
    noun = "device" if count == 1 else "devices"
    return f"{escape(group.name)}: {count:,} {noun}{each} · {escape(group.driver)} · priority {group.priority}"
