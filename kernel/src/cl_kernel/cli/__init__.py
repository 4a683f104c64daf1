"""The command ``clk``."""
