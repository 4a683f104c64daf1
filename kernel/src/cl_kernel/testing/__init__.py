"""The conformance kit: what every plugin must do, as named checks for ``pytest`` and ``clk check-plugin``."""

from cl_kernel.testing.contract import Outcome, PluginContract, check_plugin
from cl_kernel.testing.subject import CHECKS, Subject

__all__ = ["CHECKS", "Outcome", "PluginContract", "Subject", "check_plugin"]
