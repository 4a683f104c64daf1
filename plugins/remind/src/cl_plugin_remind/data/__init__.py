"""Formats and streams: image folders with class orders, CORe50, CLEVR and TDIUC."""
