"""``torchrun --nproc-per-node N -m cl_plugin_clear.method.moco_main``: the flags of ``clk clear moco``."""

from __future__ import annotations

import logging
from argparse import ArgumentParser

from cl_plugin_clear.commands.training import add_moco, run_moco


def main() -> int:
    """Run one process of the group."""
    parser = ArgumentParser(description="MoCo v1 and v2, one process of several")
    add_moco(parser)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return run_moco(parser.parse_args(), logging.getLogger("moco").info)


if __name__ == "__main__":
    raise SystemExit(main())
