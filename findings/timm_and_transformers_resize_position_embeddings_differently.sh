#!/usr/bin/env bash
# timm 1.0.31 and transformers 5.24.0: the same ViT weights at another image size are two networks.
#
# Guess: both interpolate the grid of position embeddings bicubically, so a checkpoint run at 96 pixels gives the
#        same features in both.
# Seen:  timm filters when it shrinks (antialias) and by that takes another bicubic kernel when it enlarges as well;
#        transformers does neither. On a grid without smoothness the embeddings for 96 pixels differ by 80 % of their
#        norm, for 384 by 8 %; at the trained 224 they are equal. Features of one checkpoint at a small size
#        therefore belong to the library that made them.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 timm==1.0.31 transformers==5.24.0
"$place/venv/bin/python" - <<'PY'
import timm
import torch
import transformers
from timm.layers import resample_abs_pos_embed
from transformers import ViTConfig, ViTModel

print("timm", timm.__version__, "transformers", transformers.__version__, "torch", torch.__version__)
torch.manual_seed(0)
config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=224, patch_size=16)
embeddings = ViTModel(config, add_pooling_layer=False).embeddings
embeddings.position_embeddings.data.normal_()
grid = embeddings.position_embeddings.detach()
differ = {}
for size in (96, 224, 384):
    side = size // 16
    one = embeddings.interpolate_pos_encoding(torch.zeros(1, 1 + side * side, 8), size, size).detach()
    other = resample_abs_pos_embed(grid, (side, side), num_prefix_tokens=1)
    differ[size] = ((one - other).norm() / one.norm()).item()
    print(f"{size} pixels: the two grids differ by {differ[size]:.3f} of their norm")
assert differ[224] == 0
assert differ[96] > 0.5 and differ[384] > 0.02, "changed: both resize alike"
PY
