"""Batches of questions as tensors, normalised the way a learner asks for.

Shapes: B batch, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attrs import define, field
from torch import Tensor

from cl_kernel import BadInput, Mismatch, Samples, Stage
from cl_plugin_butd.data.augment import Augmentation, augment
from cl_plugin_butd.method.schedule import mean_image

if TYPE_CHECKING:
    from cl_plugin_butd.settings import Network

RESIDENT_BYTES = 1 << 30
CHUNK = 250
NARROW = 8
"""Channels up to which maps are not laid out channels last on a CPU."""


@define
class Inputs:
    """Turns samples into what the network sees; part of a learner's state is its mean picture.

    :param mode: ``mean-image`` (0..255 minus the mean picture) or ``centred`` ((v - 0.25) 2 of 0..1).
    """

    mode: str
    device: torch.device
    channels_last: bool = False
    mean: np.ndarray | None = None
    _kept: dict[int, tuple[Any, dict[str, Tensor]]] = field(factory=dict, init=False)

    def fit(self, samples: Samples) -> None:
        """Measure the mean picture, once: the first more than 1000 training pictures in order."""
        if self.mode != "mean-image" or self.mean is not None:
            return

        def batches() -> Iterator[np.ndarray]:
            for start in range(0, len(samples), 10):
                rows = np.arange(start, min(start + 10, len(samples)))
                yield channels_first(samples.take(rows, ["image"])["image"])

        self.mean = mean_image(batches()).astype(np.float32)

    def batch(self, samples: Samples, rows: np.ndarray, fields: tuple[str, ...]) -> dict[str, Tensor]:
        """Rows as tensors on the device; pictures stay as they are until :meth:`pixels`."""
        kept = self._resident(samples, fields)
        if kept is not None:
            index = torch.from_numpy(rows).to(self.device)
            return {name: kept[name][index] for name in fields}
        return {
            name: torch.from_numpy(np.ascontiguousarray(value)).to(self.device)
            for name, value in samples.take(rows, list(fields)).items()
        }

    def _resident(self, samples: Samples, fields: tuple[str, ...]) -> dict[str, Tensor] | None:
        """Whole small sample sets, kept on the device."""
        n_bytes = len(samples) * sum(max(samples.spec[name].nbytes, 1) for name in fields)
        if n_bytes > RESIDENT_BYTES // 4:
            return None
        found = self._kept.get(id(samples))
        if found is None or found[0] is not samples or set(fields) - set(found[1]):
            taken = samples.take(np.arange(len(samples)), list(fields))
            if len(self._kept) > 8:
                self._kept.clear()
            found = samples, {k: torch.from_numpy(np.ascontiguousarray(v)).to(self.device) for k, v in taken.items()}
            self._kept[id(samples)] = found
        return found[1]

    def pixels(self, image: Tensor, how: Augmentation | None = None, rng: np.random.Generator | None = None) -> Tensor:
        """uint8 [B, H, W] or [B, H, W, C] -> float32 [B, 3, H, W] as the network wants it."""
        x = image.unsqueeze(1) if image.dim() == 3 else image.permute(0, 3, 1, 2)
        x = x.to(torch.float32)
        if how is not None and rng is not None and not how.off:
            x = augment(x, how, rng)
        if self.mode == "centred":
            x = x.mul(2 / 255).sub_(0.5)
        elif self.mean is not None:
            x = x - torch.from_numpy(self.mean).to(x.device)
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
        return x.contiguous(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)


def inside(images: Tensor, box: Tensor) -> Tensor:
    """Pictures with everything black but a box: the queried object alone.

    :param images: uint8 [B, H, W] or [B, H, W, C].
    :param box: int64 [B, 4]: y, x, height, width.
    """
    y, x, h, w = (part[:, None] for part in box.unbind(1))
    rows = torch.arange(images.shape[1], device=images.device)[None]
    columns = torch.arange(images.shape[2], device=images.device)[None]
    lit = ((rows >= y) & (rows < y + h))[:, :, None] & ((columns >= x) & (columns < x + w))[:, None, :]
    return images * (lit if images.dim() == 3 else lit[..., None])


def channels_first(images: np.ndarray) -> np.ndarray:
    """uint8 [n, H, W] or [n, H, W, C] -> [n, C, H, W]."""
    return images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)


def in_shape(samples: Samples) -> tuple[int, int, int]:
    """Channels, height, width as the network sees pictures."""
    shape = samples.spec["image"].shape
    height, width = shape[:2]
    if height is None or width is None:
        raise Mismatch("pictures of varying size", where="data set", fix="prepare them to one size")
    return 3, height, width


def task_of(stage: Stage) -> int:
    """Number of the task a stage brings."""
    return int(stage.info.get("task", stage.index))


def channels_last(settings: Network, device: torch.device) -> bool:
    """Whether maps keep their channels last.

    Not on a CPU for stages of 8 or fewer channels: there torch 2.14.1's convolutions in that layout were seen to
    corrupt memory at batches of 64 pictures of 128 x 128.
    """
    narrow = device.type == "cpu" and min(settings.filters) <= NARROW
    return bool(getattr(settings, "channels_last", False)) and not narrow


def batches(n: int, size: int, order: np.ndarray) -> list[np.ndarray]:
    """Cut an order into batches; a last one of a single question, which batch norm on vectors cannot take, is
    joined to the one before."""
    cut = [order[i : i + size] for i in range(0, n, size)]
    if len(cut) > 1 and len(cut[-1]) == 1:
        cut[-2:] = [np.concatenate(cut[-2:])]
    return cut


def check_instructions(samples: Samples, n_tasks: int, n_arguments: int) -> None:
    """Refuse instructions nobody can follow, before any step.

    :raises BadInput: naming the first row with an unknown task or argument.
    """
    for name, n in (("task", n_tasks), ("argument", n_arguments)):
        values = samples.take(np.arange(len(samples)), [name])[name]
        if len(bad := np.flatnonzero((values < 0) | (values >= n))):
            raise BadInput(
                f"instruction for unknown {name} {int(values[bad[0]])}: there are {n}",
                where=f"question {int(bad[0])}, field {name!r}",
                fix=f"use a stream whose {name}s are 0..{n - 1}",
            )
