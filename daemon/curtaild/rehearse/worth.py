"""What hashing and computing earn: money where the site file gives a price, else the hashes themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import curtaild_config as config
from curtaild import translate
from curtaild_drivers.contract import Watts
from curtaild_drivers.registry import driver

HASHES_PER_EXAHASH = 1e18
SECONDS_PER_HOUR = 3_600.0


@dataclass(frozen=True, slots=True)
class Worth:
    """`prices`: by group, the money that one unit of rate earns in an hour (H/s, or a whole node's throughput), `None`
    where it has no price. `unit`: USD; EH where no group of miners has a price: then an hour earns its hashes, and
    nothing else counts. Energy is subtracted from money where it has a price too (money per Wh)."""

    prices: Mapping[str, float | None]
    unit: str
    energy_price_per_wh: float

    @classmethod
    def of(cls, site: config.Site) -> Worth:
        hashprice = site.policy.hashprice_usd_per_ph_day
        energy_price = translate.policy(site).energy_price_per_wh
        hash_price = hashprice / translate.HASHES_PER_PETAHASH / translate.HOURS_PER_DAY if hashprice else None
        prices: dict[str, float | None] = {}
        is_priced = hash_price is not None
        for group in site.devices:
            if driver(group.driver).counts_hashes:
                prices[group.name] = hash_price if is_priced else SECONDS_PER_HOUR / HASHES_PER_EXAHASH
            else:
                prices[group.name] = group.earns_usd_per_h if is_priced else None
        return cls(
            prices, "USD" if is_priced else "EH", energy_price if is_priced and energy_price is not None else 0.0
        )

    def per_h(self, group: str, rate: float, power_w: Watts) -> float:
        """What an hour of a group's devices at this rate and draw earns; nothing where they have no price."""
        price = self.prices[group]
        return rate * price - power_w * self.energy_price_per_wh if price is not None else 0.0
