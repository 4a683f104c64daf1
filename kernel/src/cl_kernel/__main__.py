"""``python -m cl_kernel`` is ``clk``."""

import sys

from cl_kernel.cli.main import main

sys.exit(main())
