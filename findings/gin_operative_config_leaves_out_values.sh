#!/usr/bin/env bash
# gin-config 0.5.0: the operative configuration leaves out bound values that it cannot write, without a line about them.
#
# Guess: operative_config_str holds every parameter that was in force, so that reading it back gives the same run.
# Seen:  a value counts only if its repr parses to an equal one. Infinity, NaN, NumPy scalars and arrays, bound in
#        Python, are dropped; the text names neither the parameter nor a gap, and reading it back silently runs the
#        function's defaults.
# Why it matters: the file is what gets stored beside results "for reproduction", and losses, thresholds and class
#        weights are often infinities or NumPy values computed from the data.
# Way out: bind Python numbers (float("1e30") for no limit), and compare query_parameter of each binding after reading.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check gin-config==0.5.0 numpy==2.4.2
"$place/venv/bin/python" - <<'PY'
from importlib.metadata import version

import gin
import numpy as np

print("gin-config", version("gin-config"))


@gin.configurable
def train(rate=0.1, limit=1.0, decay=0.0, weights=(1, 1), epochs=1):
    return rate, limit, decay, weights, epochs


gin.bind_parameter("train.epochs", 5)
gin.bind_parameter("train.rate", np.float64(0.01))
gin.bind_parameter("train.limit", float("inf"))
gin.bind_parameter("train.weights", np.array([1, 3]))
used = train()
text = gin.operative_config_str()
print("used      ", used)
print("written   ", [line for line in text.splitlines() if line and not line.startswith("# =")])
gin.clear_config()
gin.parse_config(text)
again = train()
print("read back ", again)
assert used[4] == again[4] == 5
for name in ("rate", "limit", "weights"):
    assert name not in text, f"changed: {name} is written or mentioned"
assert again[:2] == (0.1, 1.0), "changed: the values come back"
PY
