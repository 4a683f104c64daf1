"""The kernel's methods with the values of the paper's comparison; what each does is documented with the method.

Values are those of the authors' scripts, https://github.com/MorganBDT/crumb; profiles make them small.
"""

from __future__ import annotations

from cl_kernel.methods import aan, agem, bic, cope, gem, gss, icarl, penalty, rainbow, stable_sgd
from cl_kernel.methods.base import Remembering, Steps, with_defaults

_COMMON = {"momentum": 0.9, "weight_decay": 1e-4, "batch_size": 21, "first_epochs": 10, "shuffle": False}
_KEEPING = {**_COMMON, "lr": 1e-4, "keep": "sample"}

Regularised = with_defaults(penalty.Penalty, "Regularised", **_COMMON, lr=1e-4)
Rehearsing = with_defaults(Remembering, "Rehearsing", **_KEEPING)
Gem = with_defaults(gem.Settings, "Gem", **_KEEPING)
Agem = with_defaults(agem.Settings, "Agem", **_KEEPING)
Distilling = with_defaults(Steps, "Distilling", **{**_COMMON, "lr": 0.02, "weight_decay": 1e-5, "batch_size": 128})
Icarl = with_defaults(icarl.Settings, "Icarl", **_KEEPING)
IcarlShipped = with_defaults(icarl.Settings, "IcarlShipped", **_KEEPING, variant="shipped")
Cope = with_defaults(cope.Settings, "Cope", **{**_KEEPING, "lr": 0.01, "batch_size": 10, "first_epochs": 1})
Gss = with_defaults(gss.Settings, "Gss", **{**_KEEPING, "lr": 1e-3, "batch_size": 10})
Rainbow = with_defaults(
    rainbow.Settings, "Rainbow", **{**_KEEPING, "lr": 0.004, "first_epochs": 15, "epochs": 5, "batch_size": 64}
)
Bic = with_defaults(
    bic.Settings, "Bic", **{**_KEEPING, "lr": 1e-3, "first_epochs": 15, "epochs": 15, "batch_size": 128}
)
StableSgd = with_defaults(
    stable_sgd.Settings, "StableSgd", **{**_COMMON, "lr": 0.15, "first_epochs": 25, "epochs": 25, "batch_size": 64}
)
Aan = with_defaults(aan.Settings, "Aan", **{**_KEEPING, "first_epochs": 30, "epochs": 30})
