#!/usr/bin/env bash
# torch 2.13.0: adapters put into nn.MultiheadAttention never run; in nn.TransformerEncoderLayer only while training.
#
# Guess: replacing a Linear by one of one's own, or hooking it, changes what the layer computes, in training and
#        evaluation alike.
# Seen:  MultiheadAttention reads out_proj.weight itself: a hook on out_proj is never called, and a subclass of
#        Linear put in its place has no effect. TransformerEncoderLayer calls a replaced linear1 while gradients are
#        on; in eval() under no_grad() its fast path reads the weights and passes the replacement by, so evaluation
#        runs another network than was trained. A parametrisation of the weight is honoured in both.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.2
"$place/venv/bin/python" - <<'PY'
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

print("torch", torch.__version__)
torch.manual_seed(0)
x, called = torch.randn(1, 3, 8), []


class Silenced(nn.Linear):
    """A Linear whose output is taken to zero."""

    def forward(self, values: Tensor) -> Tensor:
        called.append("replaced")
        return 0 * super().forward(values)


class Zero(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 0 * weight


attention = nn.MultiheadAttention(8, 2, batch_first=True)
before = attention(x, x, x)[0]
attention.out_proj.register_forward_hook(lambda *_: called.append("hook"))
hooked = attention(x, x, x)[0]
replaced = Silenced(8, 8)
replaced.load_state_dict(attention.out_proj.state_dict())
attention.out_proj = replaced
silenced = attention(x, x, x)[0]
print("attention: calls", called, " output changed", not torch.equal(before, silenced))
assert called == [] and torch.equal(before, hooked) and torch.equal(before, silenced), "changed: out_proj is called"
parametrize.register_parametrization(attention.out_proj, "weight", Zero())
assert attention(x, x, x)[0].abs().max() == 0

layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).eval()
with torch.no_grad():
    plain = layer(x)
inner = Silenced(8, 16)
inner.load_state_dict(layer.linear1.state_dict())
layer.linear1 = inner
trained = layer(x).detach()
n_calls = len(called)
with torch.no_grad():
    evaluated = layer(x)
print("encoder layer: with gradients", (trained - plain).abs().max().item(), " evaluated", (evaluated - plain).abs().max().item())
assert n_calls == 1 and not torch.allclose(trained, plain)
assert len(called) == 1 and torch.allclose(evaluated, plain, atol=1e-6), "changed: evaluation calls the replaced layer"
PY
