#!/usr/bin/env bash
# torch 2.13.0: a rate set for the next stage is undone by LambdaLR, and kept by the other schedules.
#
# Guess: `group["lr"] = 0.1` and a new schedule on the same optimiser: the second stage starts from 0.1, whichever
#        schedule it is.
# Seen:  StepLR, ExponentialLR, LinearLR and CosineAnnealingLR go on from the rate that is set: 0.1. LambdaLR multiplies
#        `initial_lr`, which the FIRST schedule wrote into the group and no later one renews: the second stage runs at
#        the first one's 1.0, although the factor is 1 throughout.
# Why it matters: warm-up and polynomial schedules are LambdaLR in most training code, so the smaller rate for later
#        stages, the usual guard against forgetting, is silently not used.
# Way out: a new optimiser each stage, or set group["initial_lr"] with group["lr"].
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.2
"$place/venv/bin/python" -W ignore - <<'PY'
import torch
from torch.optim import lr_scheduler

print("torch", torch.__version__)
SCHEDULES = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 100),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 1.0),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 1.0, 1.0),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 8),
}


def second_stage(make, initial: bool) -> list[float]:
    """Rates of the second stage, set to 0.1 after a first stage at 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    for rate in (1.0, 0.1):
        for group in optimizer.param_groups:
            group["lr"] = rate
            if initial:
                group["initial_lr"] = rate
        schedule, rates = make(optimizer), []
        for _ in range(4):
            rates.append(round(optimizer.param_groups[0]["lr"], 4))
            optimizer.step()
            schedule.step()
    return [*rates, round(optimizer.param_groups[0]["lr"], 4)]


plain = {name: second_stage(make, initial=False) for name, make in SCHEDULES.items()}
both = {name: second_stage(make, initial=True) for name, make in SCHEDULES.items()}
for name in SCHEDULES:
    print(f"{name:18} lr set to 0.1: {plain[name]}  initial_lr set too: {both[name]}")
assert both["LambdaLR"] == [0.1] * 5, "changed: the way out"
assert all(rates[0] == max(rates) == 0.1 for name, rates in plain.items() if name != "LambdaLR")
assert plain["LambdaLR"] == [1.0] * 5, "changed: LambdaLR goes on from the rate that is set"
PY
