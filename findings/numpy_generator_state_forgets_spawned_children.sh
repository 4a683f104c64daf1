#!/usr/bin/env bash
# numpy 2.4.2: the state of a Generator does not say how many children it has spawned.
#
# Guess: a run that saves rng.bit_generator.state and restores it goes on as if it had never stopped.
# Seen:  draws go on exactly, but spawn() after the restore gives the first child again, or (restored into a fresh
#        generator, the usual way in a new process) children of another, random seed, although every later draw of the
#        restored generator itself is right. Pickling the Generator keeps the count; its `state` does not.
# Why it matters: a stage that spawns a generator of its own repeats the first stage's random numbers after a resume.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.2
"$place/venv/bin/python" - <<'PY'
import pickle

import numpy as np

print("numpy", np.__version__)
through = np.random.default_rng(0)
first = through.spawn(1)[0].random(3)
through.random(5)
state, pickled = through.bit_generator.state, pickle.dumps(through)
second = through.spawn(1)[0].random(3)
draws = through.random(3)

same_seed = np.random.default_rng(0)
same_seed.bit_generator.state = state
fresh = np.random.Generator(np.random.PCG64())
fresh.bit_generator.state = state
children = {"same seed": same_seed.spawn(1)[0].random(3), "fresh": fresh.spawn(1)[0].random(3)}
kept = pickle.loads(pickled).spawn(1)[0].random(3)

assert np.array_equal(same_seed.random(3), draws) and np.array_equal(fresh.random(3), draws), "draws no longer go on"
print("draws after the restore equal the uninterrupted ones")
print("uninterrupted second child ", second)
print("restored, same seed        ", children["same seed"], "(the first child again)")
print("restored, fresh generator  ", children["fresh"], "(differs from run to run)")
print("pickled and back           ", kept)
assert np.array_equal(children["same seed"], first), "changed: the restored generator no longer repeats the first child"
assert not np.array_equal(children["fresh"], second), "changed: the state now carries the spawn count"
assert np.array_equal(kept, second), "changed: pickling no longer keeps the spawn count"
PY
