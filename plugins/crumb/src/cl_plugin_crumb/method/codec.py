"""Codec ``crumb:blocks``: an example is kept as the numbers of the memory blocks that rebuild its map.

Shapes: n a batch, C h w the map, S = C / L slices a location, K blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cl_kernel import BadSetting, Batch, Field, Mismatch, Resources
from cl_kernel.torch.device import resolve
from cl_kernel.torch.loaders import as_tensor
from cl_plugin_crumb.network.codebook import (
    Codebook,
    check_length,
    code_dtype,
    fitting_length,
    map_statistics,
    needs_statistics,
    rebuild,
    sampled_values,
    start_values,
)
from cl_plugin_crumb.settings import Blocks


class BlocksCodec:
    """Keeps maps as block numbers, one byte each up to 256 blocks and two above, in tensors on the device.

    :param learning: let gradients reach the codebook through :meth:`decode`; the learner that trains it says so.
    """

    def __init__(self, options: Blocks, fields: Mapping[str, Field], device: torch.device) -> None:
        maps = [name for name, field in fields.items() if field.kind == "map" and len(field.shape) == 3]
        labels = [name for name, field in fields.items() if field.kind == "class"]
        if len(maps) != 1 or len(labels) != 1 or len(fields) != 2:
            raise Mismatch(
                f"memory blocks keep one map [C, h, w] and one class, not {', '.join(fields)} "
                f"({', '.join(field.kind for field in fields.values())})",
                where="--replay",
                fix="use a network that is cut, so that its learner keeps maps, or the codec raw",
            )
        self.map, self.label = maps[0], labels[0]
        shape = fields[self.map].shape
        self.shape = (int(shape[0] or 0), int(shape[1] or 0), int(shape[2] or 0))
        self.options, self.device, self.learning = options, device, False
        self.length = options.length or fitting_length(self.shape[0])
        check_length(self.shape[0], self.length)
        # Tensors of uint16 cannot be written by index: the same two bytes travel as int16.
        self._code = torch.uint8 if code_dtype(options.n_blocks).itemsize == 1 else torch.int16
        self._class = torch.uint8 if 0 < fields[self.label].n <= 256 else torch.int32
        self._rng = np.random.RandomState(options.seed)
        first = None
        if options.init == "sample_first_batch":

            def first(features: Tensor) -> Tensor:
                return sampled_values(features, options.n_blocks, self.length, self._rng)

        elif options.sigma is None and needs_statistics(options.init, options.high):

            def first(features: Tensor) -> Tensor:
                return self._start(*map_statistics(features))

        values = torch.zeros(options.n_blocks, self.length) if first else self._start(options.sigma, options.sparsity)
        self.codebook = Codebook(values, on_first_batch=first).to(device)

    def _start(self, sigma: float | None, sparsity: float | None, signed: bool = False) -> Tensor:
        options = self.options
        return start_values(
            options.init,
            options.n_blocks,
            self.length,
            sigma=sigma if options.sigma is None else options.sigma,
            sparsity=sparsity if options.sparsity is None else options.sparsity,
            high=options.high,
            low=options.low,
            jitter=options.jitter,
            signed=signed,
            generator=torch.Generator().manual_seed(options.seed),
            rng=self._rng,
        )

    def match(self, sigma: float, sparsity: float) -> None:
        """Start from statistics of the maps that are known beforehand, instead of measuring the first batch."""
        if self.codebook.waits and self.options.init != "sample_first_batch":
            self.codebook.settle(self._start(sigma, sparsity))

    @property
    def n_codes(self) -> int:
        """Block numbers of an example: h w C / L."""
        channels, height, width = self.shape
        return height * width * channels // self.length

    @property
    def code_bytes(self) -> int:
        """Bytes of an example's block numbers, its label apart."""
        return self.n_codes * self._code.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the codebook."""
        return int(self.codebook.blocks.nbytes)

    def bytes_per_example(self) -> int:
        """Block numbers and label."""
        return self.code_bytes + self._class.itemsize

    def allocate(self, capacity: int) -> dict[str, Tensor]:
        """Codes [capacity, h w S] and labels [capacity]."""
        return {
            "codes": torch.zeros((capacity, self.n_codes), dtype=self._code, device=self.device),
            "label": torch.zeros(capacity, dtype=self._class, device=self.device),
        }

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """The most similar blocks of maps [n, C, h, w]."""
        features = as_tensor(batch[self.map], self.device).float()
        return {
            "codes": self.codebook.indices(features).flatten(1).to(self._code),
            "label": as_tensor(batch[self.label], self.device).to(self._class),
        }

    def decode(self, stored: Batch) -> dict[str, Tensor]:
        """Maps rebuilt with the codebook as it is now."""
        channels, height, width = self.shape
        indices = (stored["codes"].to(torch.int64) & 0xFFFF).view(-1, height, width, channels // self.length)
        with torch.set_grad_enabled(self.learning and torch.is_grad_enabled()):
            maps = rebuild(indices, self.codebook.blocks)
        return {self.map: maps, self.label: stored["label"].to(torch.int64)}

    def state(self) -> dict[str, Any]:
        """The codebook."""
        return {"blocks": self.codebook.blocks.detach().cpu().numpy().copy(), "waits": self.codebook.waits}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        blocks = torch.from_numpy(np.array(state["blocks"]))
        if blocks.shape != self.codebook.blocks.shape:
            raise BadSetting(
                f"the saved codebook is {list(blocks.shape)}, this one {list(self.codebook.blocks.shape)}",
                where="codec.n_blocks, codec.length",
            )
        with torch.no_grad():
            self.codebook.blocks.copy_(blocks)
        if not state["waits"]:
            self.codebook.settle()


def build(options: Blocks, fields: Mapping[str, Field], resources: Resources) -> BlocksCodec:
    """Codec ``crumb:blocks``."""
    return BlocksCodec(options, fields, resolve(resources.device))
