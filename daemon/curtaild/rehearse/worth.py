"""What hashing earns: money where the site file gives a price, else the hashes themselves."""

from __future__ import annotations

from dataclasses import dataclass

import curtaild_config as config
from curtaild import translate
from curtaild_drivers.contract import Watts

HASHES_PER_EXAHASH = 1e18
SECONDS_PER_HOUR = 3_600.0


@dataclass(frozen=True, slots=True)
class Worth:
    """`price_per_rate_h`: money that one H/s earns in an hour; without it an hour earns its hashes, in EH. Energy is
    subtracted where it has a price too (money per Wh)."""

    price_per_rate_h: float | None
    energy_price_per_wh: float

    @classmethod
    def of(cls, site: config.Site) -> Worth:
        hashprice = site.policy.hashprice_usd_per_ph_day
        energy_price = translate.policy(site).energy_price_per_wh
        if hashprice is None:
            return cls(None, 0.0)
        price = hashprice / translate.HASHES_PER_PETAHASH / translate.HOURS_PER_DAY
        return cls(price, energy_price if energy_price is not None else 0.0)

    @property
    def unit(self) -> str:
        return "EH" if self.price_per_rate_h is None else "USD"

    def per_h(self, rate_hs: float, power_w: Watts) -> float:
        """What an hour at this rate and draw earns."""
        if self.price_per_rate_h is None:
            return rate_hs * SECONDS_PER_HOUR / HASHES_PER_EXAHASH
        return rate_hs * self.price_per_rate_h - power_w * self.energy_price_per_wh
