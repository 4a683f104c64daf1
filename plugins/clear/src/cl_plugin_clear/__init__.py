"""The CLEAR benchmark: curation pipeline, MoCo v2, CLIP retrieval, streaming evaluation, as a plugin of clk."""
