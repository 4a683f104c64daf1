"""BU-TD counter-stream networks and zero-forgetting continual learning, as a plugin of clk."""
