"""``clk recall ...``: everything that is no run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cl_kernel import BadSetting, Cache

METRIC = "segmentation"
"""Name of the metric in a run's results."""


def shared_cache() -> Cache:
    """The cache that runs use: ``$CLK_CACHE``, else ``clk`` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Cache(Path(os.environ.get("CLK_CACHE") or Path(base) / "clk"))


def assignments(texts: Sequence[str]) -> dict[str, Any]:
    """``--set KEY=VALUE`` flags; values are YAML."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise BadSetting(f"{text!r} does not read key=value", where="--set", fix="--set learner.batch_size=8")
        found[key.strip()] = yaml.safe_load(value)
    return found
