"""Names of the ``clk crumb ...`` commands; light."""

COMMANDS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = ()
