#!/usr/bin/env bash
# numpy 2.4.2: default_rng([seed, 0]) is default_rng(seed); zeros at the end of a seed do not count.
#
# Guess: naming streams by pairs, default_rng([seed, task]), gives every task of every seed a stream of its own,
#        apart from default_rng(seed) too.
# Seen:  the entropy pool is filled up with zeros, so 7, [7, 0] and [7, 0, 0] are the same stream: the first task
#        shuffles exactly as whatever drew from default_rng(seed). Five numbers reach beyond the pool: [7, 0, 0, 0,
#        0] is the first child that SeedSequence(7).spawn gives. A constant that is not zero at the end keeps the
#        streams apart.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.2
"$place/venv/bin/python" - <<'PY'
import numpy as np

print("numpy", np.__version__)


def draw(seed: object) -> list[int]:
    return np.random.default_rng(seed).integers(1000, size=4).tolist()


child = draw(np.random.SeedSequence(7).spawn(1)[0])
for seed in (7, [7, 0], [7, 0, 0], [7, 0, 0, 0, 0], [7, 1], [7, 0, 1]):
    print(f"{seed!s:18}", draw(seed))
print("first child of 7  ", child)
assert draw(7) == draw([7, 0]) == draw([7, 0, 0]), "changed: zeros at the end count now"
assert draw([7, 0, 0, 0, 0]) == child != draw(7), "changed: a spawned child is no longer a longer list of zeros"
assert len({str(draw(seed)) for seed in ([7, 1], [7, 0, 1], [7, 0])}) == 3
PY
