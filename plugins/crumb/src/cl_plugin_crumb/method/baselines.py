"""The kernel's methods with the values of the paper's comparison; what each does is documented with the method.

Values are those of the authors' scripts, https://github.com/MorganBDT/crumb; profiles make them small.
"""

from __future__ import annotations

from cl_kernel.methods import (
    aan,
    agem,
    bic,
    cope,
    ewc,
    gem,
    gss,
    icarl,
    l2,
    lwf,
    mas,
    online_ewc,
    penalty,
    rainbow,
    si,
    stable_sgd,
)
from cl_kernel.methods.base import Remembering, with_defaults

_COMMON = {"momentum": 0.9, "weight_decay": 1e-4, "batch_size": 21, "first_epochs": 10, "shuffle": False}
_PENALISED = {**_COMMON, "lr": 1e-4, "strength": 100.0}
_FISHER = {**_PENALISED, "labels": "predicted", "per_sample": False, "halved": False}
_KEEPING = {**_COMMON, "lr": 1e-4, "keep": "sample"}
_VARIANT = {**_KEEPING, "variant": "crumb"}

FineTuning = with_defaults(penalty.Penalty, "FineTuning", **_PENALISED)
L2 = with_defaults(l2.Settings, "L2", **_PENALISED)
Ewc = with_defaults(ewc.Settings, "Ewc", **_FISHER)
OnlineEwc = with_defaults(online_ewc.Settings, "OnlineEwc", **_FISHER, decay=1.0)
Si = with_defaults(si.Settings, "Si", **_PENALISED, signed=True)
Mas = with_defaults(mas.Settings, "Mas", **_PENALISED, per_sample=False)
Rehearsing = with_defaults(Remembering, "Rehearsing", **_KEEPING)
Gem = with_defaults(gem.Settings, "Gem", **_VARIANT, margin=1.0)
Agem = with_defaults(agem.Settings, "Agem", **_VARIANT)
Lwf = with_defaults(
    lwf.Settings, "Lwf", **{**_COMMON, "lr": 0.02, "weight_decay": 1e-5, "batch_size": 128, "variant": "crumb"}
)
Icarl = with_defaults(icarl.Settings, "Icarl", **_VARIANT)
IcarlShipped = with_defaults(icarl.Settings, "IcarlShipped", **{**_KEEPING, "variant": "shipped"})
Cope = with_defaults(cope.Settings, "Cope", **{**_KEEPING, "lr": 0.01, "batch_size": 10, "first_epochs": 1})
Gss = with_defaults(gss.Settings, "Gss", **{**_KEEPING, "lr": 1e-3, "batch_size": 10})
Rainbow = with_defaults(
    rainbow.Settings, "Rainbow", **{**_VARIANT, "lr": 0.004, "first_epochs": 15, "epochs": 5, "batch_size": 64}
)
Bic = with_defaults(
    bic.Settings,
    "Bic",
    **{**_VARIANT, "lr": 1e-3, "first_epochs": 15, "epochs": 15, "batch_size": 128, "bias_epochs": 50, "bias_lr": 0.01},
)
StableSgd = with_defaults(
    stable_sgd.Settings, "StableSgd", **{**_COMMON, "lr": 0.15, "first_epochs": 25, "epochs": 25, "batch_size": 64}
)
Aan = with_defaults(aan.Settings, "Aan", **{**_VARIANT, "first_epochs": 30, "epochs": 30})
