"""Every fault, theme by theme; the order is that of the table."""

from __future__ import annotations

# Each of these puts its faults into the table when it is imported.
import planes  # isort: skip
import stores  # isort: skip
import replicas  # isort: skip
import proxies  # isort: skip
import changes  # isort: skip
import certificates  # isort: skip
import soak  # isort: skip
import told  # isort: skip
from fault import FAULTS, LEFT_OUT, Fault, Size, Trial
from mesh import Needs

THEMES = (planes, stores, replicas, proxies, changes, certificates, soak, told)

__all__ = ["FAULTS", "LEFT_OUT", "THEMES", "Fault", "Needs", "Size", "Trial"]
