#!/usr/bin/env bash
# torch 2.13.0: class weights of cross_entropy have no effect in a stream of single examples.
#
# Guess: weight=[1, 10] makes an example of the second class count ten times, whatever the batch size.
# Seen:  the mean divides by the weights of the batch's own labels. In a batch of one the weight cancels, so balanced
#        and plain training are the same run; so it is in every batch whose labels are of one class, as the newest
#        class brings. reduction='sum' divided by the number of examples keeps the weights.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.2
"$place/venv/bin/python" - <<'PY'
import torch
from torch.nn.functional import cross_entropy

print("torch", torch.__version__)
weights = torch.tensor([1.0, 10.0])
scores, labels = torch.tensor([[0.3, -0.2], [0.1, 0.4], [0.0, 0.9]]), torch.tensor([0, 1, 1])


def gradients(rows: list[list[int]], weight: torch.Tensor | None, mean: bool = True) -> torch.Tensor:
    """Sum over batches of the gradients by the scores."""
    total = torch.zeros_like(scores)
    for batch in rows:
        some = scores[batch].clone().requires_grad_()
        loss = cross_entropy(some, labels[batch], weight, reduction="mean" if mean else "sum")
        total[batch] += torch.autograd.grad(loss if mean else loss / len(batch), some)[0]
    return total


one_by_one, together = [[0], [1], [2]], [[0, 1, 2]]
for name, rows in (("one by one", one_by_one), ("one batch", together)):
    plain, weighted = gradients(rows, None), gradients(rows, weights)
    print(f"{name:>10}: weighted over plain, by example", (weighted / plain)[:, 0].tolist())
assert torch.equal(gradients(one_by_one, None), gradients(one_by_one, weights)), "changed: weights count in a batch of one"
assert not torch.allclose(gradients(together, None), gradients(together, weights))
summed = gradients(one_by_one, weights, mean=False) / gradients(one_by_one, None, mean=False)
assert torch.allclose(summed[:, 0], torch.tensor([1.0, 10.0, 10.0]))
PY
