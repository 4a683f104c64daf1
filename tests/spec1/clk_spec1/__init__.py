"""A plugin written against hook contract 1. It is frozen: it must work with every later kernel."""
