"""What happens during a run, as frozen records; told apart with ``match``. None is emitted per step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen


@frozen(kw_only=True)
class RunStarted:
    """A run began or was resumed (``resumed_at`` steps done)."""

    name: str
    profile: str
    n_stages: int
    resumed_at: int = 0


@frozen(kw_only=True)
class StageStarted:
    """A stage begins."""

    stage: int
    name: str
    n_samples: int


@frozen(kw_only=True)
class PhaseStarted:
    """A learner says what it is doing inside a stage; ``n_steps`` feeds the ETA."""

    stage: int
    name: str
    n_steps: int = 0


@frozen(kw_only=True)
class Progress:
    """Emitted at the reporting interval, not per step."""

    stage: int
    step: int
    rate: float
    values: Mapping[str, float] = field(factory=dict)


@frozen(kw_only=True)
class Scored:
    """Test sets were scored. ``row`` maps test-set name -> value of the first metric."""

    stage: int
    label: str
    row: Mapping[str, float | None]
    summary: Mapping[str, Any] = field(factory=dict)


@frozen(kw_only=True)
class Reused:
    """An artefact was taken from the cache instead of being made again."""

    kind: str
    path: str


@frozen(kw_only=True)
class Noted:
    """A learner states something worth keeping: a skipped sample, a fallback."""

    text: str
    values: Mapping[str, Any] = field(factory=dict)


@frozen(kw_only=True)
class CheckpointSaved:
    """A checkpoint is safely on disk."""

    path: str
    nbytes: int
    seconds: float


@frozen(kw_only=True)
class StageEnded:
    """A stage is learnt and scored."""

    stage: int
    seconds: float


@frozen(kw_only=True)
class RunEnded:
    """The run finished; ``digest`` identifies its results."""

    digest: str
    summary: Mapping[str, Any]
    seconds: float


@frozen(kw_only=True)
class RunFailed:
    """The run stopped with an error or a signal; it can be resumed if a checkpoint exists."""

    reason: str


Event = (
    RunStarted
    | StageStarted
    | PhaseStarted
    | Progress
    | Scored
    | Reused
    | Noted
    | CheckpointSaved
    | StageEnded
    | RunEnded
    | RunFailed
)
