#!/usr/bin/env bash
# torch 2.13.0: inside one autocast region a weight is cast once; updating it in place there has no effect.
#
# Guess: after an optimiser step (or a moving average, or a weight-space merge) the next forward pass uses new weights,
#        wherever the autocast region begins and ends.
# Seen:  the 16-bit copy of a trainable leaf is kept until the region ends, so a whole online loop written inside one
#        `with torch.autocast(...)` evaluates every batch with the weights of before the first step, while the
#        parameters themselves change. Leaving the region between steps, or cache_enabled=False, gives the new weights.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.2
"$place/venv/bin/python" - <<'PY'
import torch

print("torch", torch.__version__)


def losses(*, one_region: bool, cache: bool = True) -> list[float]:
    torch.manual_seed(0)
    model = torch.nn.Linear(16, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    inputs = torch.randn(32, 16)
    targets = inputs.sum(1, keepdim=True)
    region = lambda: torch.autocast("cpu", torch.bfloat16, cache_enabled=cache)
    seen = []

    def step() -> None:
        loss = torch.nn.functional.mse_loss(model(inputs).float(), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(round(loss.item(), 3))

    if one_region:
        with region():
            for _ in range(4):
                step()
    else:
        for _ in range(4):
            with region():
                step()
    return seen


around_steps, around_loop, uncached = losses(one_region=False), losses(one_region=True), losses(one_region=True, cache=False)
print("loss of four steps, a region a step             ", around_steps)
print("the same, one region around the loop            ", around_loop)
print("the same, one region, cache_enabled=False       ", uncached)
assert around_steps == uncached and around_steps[3] < around_steps[0]
assert around_loop != around_steps and len(set(around_loop)) == 1, "changed: updates inside a region are seen"
PY
