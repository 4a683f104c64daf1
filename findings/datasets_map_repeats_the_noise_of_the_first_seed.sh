#!/usr/bin/env bash
# datasets 5.2.0: Dataset.map of a function that draws random numbers gives every later seed the first seed's draws.
#
# Guess: seeding numpy anew and mapping the same function over the data set again draws anew.
# Seen:  the result is kept on disk under a fingerprint of the data and of the function's code; the state of the
#        generators is no part of it. Every seed after the first, in later processes too, silently gets the first
#        seed's noise, crops or label noise. A seed that the function takes (fn_kwargs) is part of the fingerprint
#        and gives draws of its own.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 numpy==2.4.2
"$place/venv/bin/python" - <<'PY'
import tempfile

import datasets
import numpy as np

print("datasets", datasets.__version__)
datasets.disable_progress_bars()


def noisy(row: dict, seed: int | None = None) -> dict:
    rng = np.random if seed is None else np.random.default_rng([seed, row["x"], 1])
    return {"y": float(rng.uniform())}


with tempfile.TemporaryDirectory() as place:
    datasets.Dataset.from_dict({"x": list(range(4))}).save_to_disk(place)
    by_state, by_argument = [], []
    for seed in (0, 1):
        np.random.seed(seed)
        kept = datasets.load_from_disk(place)
        by_state.append(list(kept.map(noisy)["y"]))
        by_argument.append(list(kept.map(noisy, fn_kwargs={"seed": seed})["y"]))
        print("seed", seed, "by the global state", np.round(by_state[-1], 3), " by an argument", np.round(by_argument[-1], 3))
assert by_state[0] == by_state[1], "changed: the state of the generators is part of the fingerprint"
assert by_argument[0] != by_argument[1]
PY
