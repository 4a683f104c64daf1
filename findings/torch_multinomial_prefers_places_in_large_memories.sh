#!/usr/bin/env bash
# torch 2.13.0: torch.multinomial with float32 weights draws equal weights unequally once there are millions of them.
#
# Guess: four million examples with the weight 0.3 each are drawn alike; float32 weights cost at most the seventh
#        digit.
# Seen:  with replacement the running sum is kept in the type of the weights. Far along the sum a step of 0.3 is
#        rounded to what float32 holds there, so the last tenth of the memory is drawn a sixth less often than it
#        should be (0.83 instead of 1), and with weights of 0.1 the first tenths are drawn 5 % too often. Weights of
#        1, float64 weights and draws without replacement are right.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.2
"$place/venv/bin/python" - <<'PY'
import torch

print("torch", torch.__version__)
generator = torch.Generator().manual_seed(0)


def shares(weights: torch.Tensor, replacement: bool = True, n: int = 2_000_000) -> list[float]:
    """How often each tenth of the places is drawn, 1 being right."""
    drawn = torch.multinomial(weights, n, replacement=replacement, generator=generator)
    return (torch.bincount(drawn * 10 // len(weights), minlength=10) / n * 10).tolist()


found = {}
for value in (0.1, 0.3, 1.0):
    found[value] = shares(torch.full((4_000_000,), value))
    print("float32, weights", value, [f"{share:.3f}" for share in found[value]])
double = shares(torch.full((4_000_000,), 0.3, dtype=torch.float64))
single = shares(torch.full((4_000_000,), 0.3), replacement=False, n=400_000)
print("float64, weights 0.3", [f"{share:.3f}" for share in double])
print("float32, weights 0.3, without replacement", [f"{share:.3f}" for share in single])
assert found[0.3][-1] < 0.9 and max(found[0.1]) > 1.03, "changed: equal float32 weights are drawn alike"
assert all(abs(share - 1) < 0.02 for share in [*found[1.0], *double, *single])
PY
