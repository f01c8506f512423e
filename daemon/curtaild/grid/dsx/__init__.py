"""DSX Flex 1.7 (docs/grid/dsx-flex.md): signed load targets per feed, power state snapshots, breach alerts."""

from curtaild.grid.dsx.dialect import DsxFlexDialect, Feeds
from curtaild.grid.dsx.targets import TargetBook

__all__ = [
    "DsxFlexDialect",
    "Feeds",
    "TargetBook",
]
