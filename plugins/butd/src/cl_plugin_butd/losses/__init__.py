"""Loss functions, all pure, and the regularisers of the baselines."""

from cl_plugin_butd.losses.regularisers import (
    OnlineEwc,
    OnlinePathIntegral,
    OnlineWalk,
    distillation,
    mas_objective,
    quadratic,
)
from cl_plugin_butd.losses.task import (
    Terms,
    chosen_head_loss,
    instruction_loss,
    occurrence_accuracy,
    task_accuracy,
    task_loss,
)

__all__ = [
    "OnlineEwc",
    "OnlinePathIntegral",
    "OnlineWalk",
    "Terms",
    "chosen_head_loss",
    "distillation",
    "instruction_loss",
    "mas_objective",
    "occurrence_accuracy",
    "quadratic",
    "task_accuracy",
    "task_loss",
]
