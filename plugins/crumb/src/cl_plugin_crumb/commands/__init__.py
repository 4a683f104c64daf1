"""``clk crumb ...``: data preparation, statistics, figures. Each function adds its arguments, returns a handler."""
