"""`maxAmount` in `validDuration` as requests per unit and burst."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from fractions import Fraction
from typing import Any

from dockermesh.client.convert.expression import Inexpressible
from dockermesh.client.convert.mixer import text
from dockermesh.config.limits import parse_duration

_UNITS = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86400}
_MOST = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests in so many seconds."""

    amount: int
    seconds: Fraction

    def charged(self, charge: int) -> Rate:
        """The rate of requests each of which takes so much of the amount."""
        if self.amount < charge:
            raise Inexpressible(
                f"a request takes {charge} of {self.amount}, so none passes: use an"
                " AuthorizationPolicy with action DENY"
            )
        return replace(self, amount=self.amount // charge)

    def fields(self) -> dict[str, Any]:
        """As it stands in a RateLimit."""
        rates = {u: self.amount * s / self.seconds for u, s in _UNITS.items()}
        whole = (unit for unit, rate in rates.items() if rate.denominator == 1)
        # Rounded down in the longest unit it is stricter, by less than one request a day.
        unit = next(whole, "DAY")
        requests = min(int(rates[unit]), _MOST)
        if not requests:
            raise Inexpressible(
                f"{self.amount} in {self.seconds} s is less than one a day"
            )
        burst = {"burst": self.amount} if requests != self.amount else {}
        return {"requests": requests, "unit": unit, **burst}


def rate_of(amount: Any, duration: Any) -> Rate:
    """The rate of a quota. Raises Inexpressible."""
    number = text(amount)
    if not number.isdecimal() or int(number) < 1:
        raise Inexpressible(f"maxAmount is {number or 'absent'}: nothing would pass")
    length = parse_duration(text(duration)) if text(duration) else timedelta()
    if not isinstance(length, timedelta) or length <= timedelta():
        raise Inexpressible(
            "without validDuration what is taken is given back by nobody; limits are of rates"
        )
    microseconds = length // timedelta(microseconds=1)
    return Rate(int(number), Fraction(microseconds, 1_000_000))
