"""Puts the sample's services on the path; they are an app of their own and not part of the
`dockermesh` package.
"""

from __future__ import annotations

import sys
from pathlib import Path

SERVICES = Path(__file__).resolve().parents[3] / "samples" / "bookinfo" / "services"
sys.path.insert(0, str(SERVICES))
