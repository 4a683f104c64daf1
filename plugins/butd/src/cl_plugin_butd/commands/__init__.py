"""``clk butd ...``: tools beside runs."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

Handler = Callable[[Namespace, Any], int]
