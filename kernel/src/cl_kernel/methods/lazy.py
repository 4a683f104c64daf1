"""Torch, imported when something of it is first used, so that settings can stand beside the methods they belong to."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["F", "nn", "torch"]


class Later(ModuleType):
    """A module in name only until an attribute is asked for."""

    def __getattr__(self, name: str) -> Any:
        module = importlib.import_module(self.__name__)
        value = getattr(module, name)
        setattr(self, name, value)
        return value


if TYPE_CHECKING:
    import torch as torch
    from torch import nn as nn
    from torch.nn import functional as F
else:
    torch, nn, F = Later("torch"), Later("torch.nn"), Later("torch.nn.functional")
