"""The commands of ``clk``: each function adds its arguments to a parser and returns its handler."""
