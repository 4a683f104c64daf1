#!/usr/bin/env bash
# torch 2.13.0: every pass over a DataLoader draws from the global generator, also with shuffle=False and no workers.
#
# Guess: an evaluation pass over an unshuffled loader in the main process uses no random numbers, so evaluating more
#        often cannot change what is learnt.
# Seen:  each iter(loader) takes one 64-bit number from the default generator (the base seed that workers would get).
#        A training loop that shuffles by that generator therefore learns something else when evaluation is switched
#        on. A generator handed to the evaluation loader keeps them apart.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.2
"$place/venv/bin/python" - <<'PY'
import torch
from torch.utils.data import DataLoader, TensorDataset

print("torch", torch.__version__)
train = TensorDataset(torch.arange(8))
test = TensorDataset(torch.arange(4))


def orders(evaluate: bool, own: torch.Generator | None = None) -> list[list[int]]:
    torch.manual_seed(0)
    training = DataLoader(train, batch_size=8, shuffle=True)
    testing = DataLoader(test, batch_size=4, shuffle=False, num_workers=0, generator=own)
    seen = []
    for _ in range(3):
        seen += [batch[0].tolist() for batch in training]
        if evaluate:
            list(testing)
    return seen


without, evaluated, apart = orders(False), orders(True), orders(True, torch.Generator())
print("order of training rows, epoch 2, never evaluated           ", without[1])
print("the same, unshuffled evaluation between the epochs         ", evaluated[1])
print("the same, the evaluation loader with a generator of its own", apart[1])
assert without[0] == evaluated[0]
assert without[1:] != evaluated[1:], "changed: an unshuffled pass no longer draws"
assert without == apart, "changed: a generator of its own no longer keeps evaluation apart"
PY
