#!/usr/bin/env bash
# infty 0.1.2 (optimisers for continual learning): SAM keeps moving a task head that gets no gradient any more.
#
# Guess: a head without a gradient (None, as after model.zero_grad()) stays as it is: SAM moves weights up, takes the
#        gradient there, moves them back, and the base optimiser skips what has no gradient.
# Seen:  a head without a gradient is not moved up, yet it is moved back: the shift of the last step in which it was
#        trained is subtracted again in every step. With one head a task, the first head drifts by several times
#        what training moved it, while the second task is learnt; plain SGD, the base, leaves it alone exactly.
#        The usual model.zero_grad() before a step triggers it; infty's own zero_grad() leaves zeros, not None.
# Why it matters: it reads as forgetting of the first task in just the comparison this package is made for.
# Way out: a new optimiser for each task, or leave clearing gradients to the optimiser.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.2 scipy==1.17.1 tqdm==4.70.1
"$place/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps infty==0.1.2
"$place/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import torch
from infty.optim.geometry_reshaping.sam import SAM
from torch.nn.functional import cross_entropy

print("infty", version("infty"), "torch", torch.__version__)
torch.set_num_threads(1)


def moved(*, sam: bool, cleared_by_model: bool) -> tuple[float, float]:
    """How far the first head moves while task 0, then task 1, is learnt."""
    torch.manual_seed(0)
    body, heads = torch.nn.Linear(4, 4), torch.nn.ModuleList(torch.nn.Linear(4, 2) for _ in range(2))
    model = torch.nn.ModuleList([body, heads])
    base = torch.optim.SGD(model.parameters(), 0.1)
    optimizer = SAM(model.parameters(), base, model, {}) if sam else base
    inputs, labels = torch.randn(8, 4), torch.arange(8) % 2
    distances = []
    for task in range(2):
        before = heads[0].weight.detach().clone()

        def losses() -> tuple[torch.Tensor, list[torch.Tensor]]:
            scores = heads[task](body(inputs))
            return scores, [cross_entropy(scores, labels)]

        for _ in range(20):
            if cleared_by_model:
                model.zero_grad()
            if sam:
                optimizer.set_closure(losses)
            else:
                optimizer.zero_grad()
                losses()[1][0].backward()
            optimizer.step()
        distances.append((heads[0].weight - before).norm().item())
    return distances[0], distances[1]


found = {}
for sam in (False, True):
    for cleared in (False, True):
        found[sam, cleared] = moved(sam=sam, cleared_by_model=cleared)
        name = f"{'SAM' if sam else 'SGD'}, gradients cleared by the {'model' if cleared else 'optimiser'}"
        print(f"{name:40} first head moved {found[sam, cleared][0]:.3f} in its own task, {found[sam, cleared][1]:.3f} in the next")
assert found[False, True][1] == 0 and found[False, False][1] == 0 and found[True, False][1] == 0
assert found[True, True][1] > found[True, True][0], "changed: a head without a gradient is left alone"
PY
