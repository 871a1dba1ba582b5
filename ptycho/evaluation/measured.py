"""Numbers with their errors, written with the digits that they deserve."""

from typing import NamedTuple

import numpy as np


class Measured(NamedTuple):
    """A value and its standard error."""

    value: float
    error: float

    def rounded(self, unit: str = "") -> str:
        """With the digits that the error leaves, whose first digit is the last: 942 and 81 are ``940 +- 80``."""
        decimals = min(int(np.ceil(-np.log10(max(self.error, 1e-9)))), 6)
        # + 0.0, lest a small negative value become -0.0
        value, error = (round(float(number), decimals) + 0.0 for number in self)
        shown = max(decimals, 0)
        return f"{value:.{shown}f} +- {error:.{shown}f}{unit and ' '}{unit}"
