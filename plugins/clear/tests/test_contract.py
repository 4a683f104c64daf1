"""The kernel's conformance kit, applied to this plugin."""

from cl_kernel.testing import PluginContract


class TestClear(PluginContract):
    plugin = "clear"
