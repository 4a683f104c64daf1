#!/usr/bin/env bash
# torch 2.13.0: torch.cdist computes another way as soon as one side has more than 25 rows.
#
# Guess: the distance of a feature to a class mean does not depend on how many classes there are.
# Seen:  up to 25 rows the differences are taken; from 26 rows on, the norms and a matrix product, which lose the
#        small differences of features that share an offset. Nearest class means of 25 classes find every class here;
#        with one class more none of the same 25 is found, and a vector is not at distance 0 of itself.
#        compute_mode='donot_use_mm_for_euclid_dist' keeps the differences at any size.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.2
"$place/venv/bin/python" - <<'PY'
import torch

print("torch", torch.__version__)
torch.manual_seed(0)
means = 0.02 * torch.randn(26, 64) + 300
features = means[:25] + 0.002 * torch.randn(25, 64)
exact = "donot_use_mm_for_euclid_dist"


def right(n_classes: int, **options: str) -> float:
    nearest = torch.cdist(features, means[:n_classes], **options).argmin(1)
    return (nearest == torch.arange(25)).float().mean().item()


itself = {n: torch.cdist(means[:n], means[:n]).diagonal().max().item() for n in (25, 26)}
print("right answers: 25 classes", right(25), " 26 classes", right(26), " 26 classes, differences", right(26, compute_mode=exact))
print("largest distance of a mean to itself: 25 rows", itself[25], " 26 rows", itself[26])
assert right(25) == right(26, compute_mode=exact) == 1 and itself[25] == 0
assert right(26) < 1 and itself[26] > 0, "changed: 26 rows give the distances of 25"
PY
