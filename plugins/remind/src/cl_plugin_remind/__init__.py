"""Streaming learning with product-quantised replay, classification and VQA (REMIND), as a plugin of clk."""
