#!/usr/bin/env bash
# faiss 1.12.0: adding a vector under an id that IndexIDMap2 already holds replaces nothing.
#
# Guess: a replay index that gets a new vector for item 5 afterwards holds the new one, as a map does.
# Seen:  both stay. reconstruct(5) gives the new vector, a search still finds the old one and returns item 5 twice,
#        so it takes two of the k neighbours and votes twice. remove_ids before add_with_ids is needed, and takes
#        both away.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check faiss-cpu==1.12.0 numpy==2.3.5
"$place/venv/bin/python" - <<'PY'
import faiss
import numpy as np

print("faiss", faiss.__version__)
index = faiss.IndexIDMap2(faiss.IndexFlatL2(2))
old, new = np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)
index.add_with_ids(old, np.array([5]))
index.add_with_ids(new, np.array([5]))
index.add_with_ids(np.full((1, 2), 9, np.float32), np.array([6]))
distances, ids = index.search(old, 2)
print("held", index.ntotal, " reconstruct(5)", index.reconstruct(5), " two nearest of the old vector", ids[0], distances[0])
assert index.ntotal == 3 and ids[0].tolist() == [5, 5] and distances[0, 0] == 0, "changed: an id is held once"
assert index.reconstruct(5).tolist() == [1, 1]
index.remove_ids(np.array([5]))
assert index.ntotal == 1
PY
