#!/usr/bin/env bash
# torch 2.13.0: on the CPU a generator uses the low 32 bits of its seed; seeds that differ above are one stream.
#
# Guess: manual_seed takes 64 bits (it accepts and reports them), so (task << 32) + seed, or a 64-bit hash of a name,
#        gives each task or name a stream of its own.
# Seen:  the CPU's generator starts from the low half only: 1, 1 + 2**32 and 1 + 2**45 draw the same numbers,
#        although initial_seed() tells them apart. Seeds packed into the upper half are silently equal; numpy's
#        default_rng reads all bits.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.2
"$place/venv/bin/python" - <<'PY'
import numpy as np
import torch

print("torch", torch.__version__, "numpy", np.__version__)
seeds = [1, 1 + (1 << 32), 1 + (1 << 45)]
drawn = []
for seed in seeds:
    generator = torch.Generator().manual_seed(seed)
    drawn.append((torch.randperm(6, generator=generator).tolist(), torch.randn(1, generator=generator).item()))
    print(f"seed {generator.initial_seed():>16}: torch {drawn[-1][0]}, numpy {np.random.default_rng(seed).permutation(6)}")
assert drawn[0] == drawn[1] == drawn[2], "changed: the upper half of a seed counts on the CPU"
assert torch.randperm(6, generator=torch.Generator().manual_seed(2)).tolist() != drawn[0][0]
assert len({tuple(np.random.default_rng(seed).permutation(60)) for seed in seeds}) == 3
PY
