#!/usr/bin/env bash
# torchvision 0.29.1: CutMix and MixUp mix every image with the one before it in the batch; timm 1.0.31: with its mirror.
#
# Guess: the partner of an image is drawn at random, as in both papers, so that in a batch of new and remembered
#        examples most pairs cross from new to old.
# Seen:  torchvision rolls the batch by one, timm reverses it; one share for the whole batch in both. In a batch of 32
#        new and 32 remembered examples torchvision mixes across in 2 of 64 pairs and timm in all 64. Neither is
#        what a random permutation gives (about 32).
# Why it matters: replay concatenates [new, old]; Rainbow Memory and GDumb train with CutMix, and whether old classes
#        are ever mixed with new ones then depends on the library.
# Way out: shuffle the concatenated batch before mixing.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 timm==1.0.31 numpy==2.4.2
"$place/venv/bin/python" - <<'PY'
import timm
import torch
import torchvision
from timm.data import Mixup
from torchvision.transforms import v2

print("torch", torch.__version__, " torchvision", torchvision.__version__, " timm", timm.__version__)
images, labels = torch.rand(64, 3, 16, 16), torch.arange(64)  # 0 to 31 new, 32 to 63 remembered


def partners(targets: torch.Tensor) -> torch.Tensor:
    """The other label of each mixed row, itself where it was mixed with nothing."""
    rest = targets.clone()
    rest[labels, labels] = -1
    return rest.argmax(1)


found = {}
for name, mix in {
    "torchvision CutMix": lambda: v2.CutMix(num_classes=64)(images.clone(), labels)[1],
    "torchvision MixUp": lambda: v2.MixUp(num_classes=64, alpha=1.0)(images.clone(), labels)[1],
    "timm CutMix": lambda: Mixup(mixup_alpha=0, cutmix_alpha=1, label_smoothing=0, num_classes=64)(images.clone(), labels)[1],
    "timm Mixup": lambda: Mixup(mixup_alpha=1, label_smoothing=0, num_classes=64)(images.clone(), labels)[1],
}.items():
    torch.manual_seed(0)
    found[name] = partners(mix())
    crossing = int(((found[name] < 32) != (labels < 32)).sum())
    print(f"{name:19} pairs of new and old: {crossing:2} of 64; partners of 0, 1, 2: {found[name][:3].tolist()}")
for name, partner in found.items():
    expected = labels.roll(1) if name.startswith("torchvision") else labels.flip(0)
    assert torch.equal(partner, expected), f"changed: {name} draws its partners"
PY
