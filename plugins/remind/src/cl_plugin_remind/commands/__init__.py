"""``clk remind ...``; importing these modules imports no torch."""
