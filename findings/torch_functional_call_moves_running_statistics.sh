#!/usr/bin/env bash
# torch 2.13.0: torch.func.functional_call with other weights moves the batch norm statistics of the module itself.
#
# Guess: the call is functional: weights come from the dictionary and the module stays as it was.
# Seen:  only what is named in the dictionary is exchanged. Parameters alone, as named_parameters() gives them, leave
#        the running means and variances in the module, and a call in training mode writes into them: here a look at
#        imagined weights shifts the statistics that real predictions use, and answers change although no step was made.
#        With the buffers in the dictionary too, the dictionary's tensors are written in place, and they are the
#        module's own unless they were cloned.
# Why it matters: look-ahead steps (maximally interfered retrieval, meta-learning, sharpness) try weights this way on
#        every batch.
# Way out: evaluation mode for the look, or cloned buffers in the dictionary.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.2
"$place/venv/bin/python" - <<'PY'
import torch
from torch import nn
from torch.func import functional_call

print("torch", torch.__version__)
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
batch, probe = torch.randn(64, 8) + 1, torch.randn(500, 8)


def answers() -> torch.Tensor:
    net.eval()
    with torch.no_grad():
        found = net(probe).argmax(1)
    net.train()
    return found


def changed(buffers) -> float:
    for _ in range(30):
        net(batch)
    before = answers()
    imagined = {name: 3 * p.detach() for name, p in net.named_parameters()}
    with torch.no_grad():
        for _ in range(10):
            functional_call(net, (imagined, buffers()), (batch,))
    return (answers() != before).float().mean().item()


own = changed(lambda: {})
named = changed(lambda: dict(net.named_buffers()))
cloned = changed(lambda: {name: b.clone() for name, b in net.named_buffers()})
print(f"answers that changed without a step: {own:.2f} parameters only, {named:.2f} with the buffers, {cloned:.2f} with clones")
assert own > 0.05 and named > 0.05, "changed: the module stays as it was"
assert cloned == 0
PY
