"""The codec ``remind:pq``: maps, vectors and images kept as codes of a product quantiser; other fields as they are.

Maps [C, H, W] are quantised position by position, vectors [D] as one row, images [H, W, C] in square patches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attrs import define, field
from torch import Tensor

from cl_kernel import BadInput, BadSetting, Batch, Field, Mismatch
from cl_kernel.torch.device import resolve
from cl_kernel.torch.loaders import as_tensor
from cl_plugin_remind.method import pq
from cl_plugin_remind.method.recorded import Staging

if TYPE_CHECKING:
    from cl_kernel import Resources
    from cl_plugin_remind.settings import Pq

QUANTISED = ("map", "vector", "image")


def build(settings: Pq, fields: Mapping[str, Field], resources: Resources) -> PqCodec:
    """Codec for examples of these fields.

    :raises BadSetting: when the codebooks do not divide the channels.
    """
    return PqCodec(fields, settings.codebooks, settings.codebook_size, settings.patch, resolve(resources.device))


@define(eq=False, repr=False)
class PqCodec:
    """Codes on the device; trained on the first examples given, or by :meth:`fit` on those the learner chooses."""

    fields: Mapping[str, Field]
    n_codebooks: int
    n_centroids: int
    patch: int
    device: torch.device
    framework: str = field(default="torch", init=False)
    quantisers: dict[str, pq.Quantiser] = field(factory=dict, init=False)
    _forms: dict[str, Form] = field(factory=dict, init=False)
    _stage: Staging = field(init=False)
    _free: dict[str, int] = field(factory=dict, init=False)  # centroids that a cold start has not filled yet

    def __attrs_post_init__(self) -> None:
        self._stage = Staging(self.device)
        for name, spec in self.fields.items():
            if spec.kind in QUANTISED:
                form = self._forms[name] = Form.of(name, spec, self.patch)
                pq.check_sizes(form.dim, self.n_codebooks, self.n_centroids)
            elif spec.nbytes == 0:
                raise Mismatch(
                    f"the codec pq cannot keep the field {name!r}: {spec.kind} of no fixed size",
                    where="--replay",
                    fix="clk list replays",
                )
        if not self._forms:
            raise Mismatch(
                f"the codec pq finds no map, vector or image among {', '.join(self.fields)}", where="--replay"
            )

    @property
    def nbytes(self) -> int:
        """Bytes of the codebooks."""
        return sum(4 * form.dim * self.n_centroids for form in self._forms.values())

    @property
    def trained(self) -> bool:
        """Whether the codebooks exist."""
        return len(self.quantisers) == len(self._forms)

    def bytes_per_example(self) -> int:
        """One byte a code (four beyond 256 centroids), and the other fields."""
        size = 1 if self.n_centroids <= 256 else 4
        return sum(
            size * self._forms[name].n_rows * self.n_codebooks if name in self._forms else spec.nbytes
            for name, spec in self.fields.items()
        )

    def allocate(self, capacity: int) -> dict[str, Any]:
        """One contiguous array of codes a field on the device, plain arrays for the rest."""
        dtype = torch.uint8 if self.n_centroids <= 256 else torch.int32
        return {
            name: torch.zeros((capacity, *self._forms[name].grid, self.n_codebooks), dtype=dtype, device=self.device)
            if name in self._forms
            else np.zeros((capacity, *(axis or 0 for axis in spec.shape)), spec.dtype)
            for name, spec in self.fields.items()
        }

    def fit(self, batch: Batch) -> None:
        """Train the codebooks on these examples.

        :raises BadInput: for fewer rows than centroids.
        """
        for name, form in self._forms.items():
            rows = form.rows(as_tensor(batch[name], torch.device("cpu")))
            self.use(name, pq.train(rows.numpy(), self.n_codebooks, self.n_centroids))

    def _start(self, batch: Batch) -> None:
        """Codebooks for a memory whose learner trains none: from its first examples.

        While there were fewer rows than centroids each row becomes a centroid, and so do those of later examples until
        the codebooks are full. What is kept by then is exact.
        """
        for name, form in self._forms.items():
            rows = form.rows(as_tensor(batch[name], torch.device("cpu")))
            if len(rows) >= self.n_centroids:
                self.use(name, pq.train(rows.numpy(), self.n_codebooks, self.n_centroids))
            else:
                self.use(name, np.zeros((self.n_codebooks, self.n_centroids, form.dim // self.n_codebooks), np.float32))
                self._free[name] = self.n_centroids
                self._fill(name, rows.to(self.device))

    def _fill(self, name: str, rows: Tensor) -> None:
        """Turn rows into centroids while there are free ones; those still free repeat the last."""
        if not bool(rows.isfinite().all()):
            raise BadInput(pq.NOT_FINITE, where="product quantiser", fix=pq.DIVERGED)
        centroids = self.quantisers[name].centroids
        start = self.n_centroids - self._free[name]
        new = rows[: self._free[name]].reshape(-1, self.n_codebooks, centroids.shape[2]).transpose(0, 1)
        centroids[:, start : start + new.shape[1]] = new
        centroids[:, start + new.shape[1] :] = centroids[:, start + new.shape[1] - 1, None]
        self._free[name] -= new.shape[1]

    def use(self, name: str, centroids: np.ndarray) -> None:
        """Take centroids [M, K, d] that were trained elsewhere."""
        form = self._forms[name]
        self._free.pop(name, None)
        wanted = (self.n_codebooks, self.n_centroids, form.dim // self.n_codebooks)
        if centroids.shape != wanted:
            raise BadSetting(
                f"centroids of shape {centroids.shape}, the field {name!r} needs {wanted}", where="codec remind:pq"
            )
        self.quantisers[name] = pq.Quantiser(
            torch.from_numpy(np.ascontiguousarray(centroids, np.float32)).to(self.device)
        )

    def encode(self, batch: Batch) -> dict[str, Any]:
        """Rows of the slots; a field that comes as codes already stays as it is."""
        if fresh := not self.trained:
            self._start(batch)
        stored: dict[str, Any] = {}
        for name, spec in self.fields.items():
            if name not in batch:
                raise Mismatch(f"a batch for the memory lacks the field {name!r}; it has {sorted(batch)}")
            if name not in self._forms:
                stored[name] = np.asarray(
                    batch[name].cpu() if isinstance(batch[name], Tensor) else batch[name], spec.dtype
                )
                continue
            form, array = self._forms[name], as_tensor(batch[name], self.device)
            is_codes = (
                array.shape[1:] == (*form.grid, self.n_codebooks) and array.dtype == self.quantisers[name].code_dtype
            )
            if not (is_codes and (spec.dtype != "uint8" or array.shape[1:] != spec.shape)):
                rows = form.rows(array)
                if self._free.get(name) and not fresh:
                    self._fill(name, rows)
                codes = self.quantisers[name].encode(rows)
                array = codes.reshape(len(array), *form.grid, self.n_codebooks)
            stored[name] = array
        return stored

    def index(self, slots: np.ndarray) -> Tensor:
        """Slots as an index on the device, without a copy that waits."""
        return self._stage(slots)

    def decode(self, stored: Batch) -> dict[str, Any]:
        """Float32 maps (channels last in memory) and vectors on the device, images as their own type."""
        batch: dict[str, Any] = {}
        for name, array in stored.items():
            if name in self._forms:
                codes = array.reshape(-1, self.n_codebooks)
                batch[name] = self._forms[name].examples(self.quantisers[name].decode(codes), len(array))
            else:
                batch[name] = array
        return batch

    def state(self) -> dict[str, Any]:
        """Centroids of each field, once trained, and how many are free."""
        return {
            name: {"centroids": quantiser.centroids.cpu().numpy().copy(), "free": self._free.get(name, 0)}
            for name, quantiser in self.quantisers.items()
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        self.quantisers.clear()
        for name, saved in state.items():
            self.use(name, np.asarray(saved["centroids"]))
            if saved["free"]:
                self._free[name] = int(saved["free"])


@define(eq=False, repr=False)
class Form:
    """How examples of a field become rows: ``grid`` positions of ``dim`` channels."""

    kind: str
    shape: tuple[int, ...]
    dtype: str
    grid: tuple[int, ...]
    dim: int
    patch: int = 1

    @classmethod
    def of(cls, name: str, spec: Field, patch: int) -> Form:
        """The form of a field.

        :raises Mismatch: for a field of varying size.
        """
        if None in spec.shape or spec.dtype == "object":
            raise Mismatch(
                f"the codec pq cannot keep the field {name!r}: its size varies",
                where="--replay",
                fix="resize the images in the data set",
            )
        shape = tuple(int(axis) for axis in spec.shape if axis is not None)
        if spec.kind == "vector" or len(shape) == 1:
            return cls("vector", shape, spec.dtype, (), math.prod(shape))
        if spec.kind == "map":
            if len(shape) == 2:  # regions [R, D]
                return cls("regions", shape, spec.dtype, shape[:1], shape[1])
            return cls("map", shape, spec.dtype, shape[1:], shape[0])
        height, width, channels = (*shape, 1) if len(shape) == 2 else shape
        side = next(p for p in range(min(patch, height, width), 0, -1) if height % p == 0 and width % p == 0)
        return cls("image", shape, spec.dtype, (height // side, width // side), side * side * channels, side)

    @property
    def n_rows(self) -> int:
        """Rows of one example."""
        return math.prod(self.grid)

    def rows(self, examples: Tensor) -> Tensor:
        """Examples [n, *shape] -> contiguous float32 rows [n * n_rows, dim]."""
        if tuple(examples.shape[1:]) != self.shape:
            raise Mismatch(
                f"the memory keeps examples of shape {self.shape}, but was given {tuple(examples.shape[1:])}"
            )
        examples = examples.float()
        if self.kind == "map":
            return pq.rows_of(examples)
        if self.kind == "image":
            (rows, columns), side = self.grid, self.patch
            cut = examples.reshape(len(examples), rows, side, columns, side, -1).permute(0, 1, 3, 2, 4, 5)
            return cut.reshape(-1, self.dim).contiguous()
        return examples.reshape(-1, self.dim).contiguous()

    def examples(self, rows: Tensor, n: int) -> Tensor:
        """The inverse of :meth:`rows`, in the field's own type."""
        if self.kind == "map":
            found = rows.reshape(n, *self.grid, self.dim).permute(0, 3, 1, 2)
        elif self.kind == "image":
            (height, width), side = self.grid, self.patch
            cut = rows.reshape(n, height, width, side, side, -1).permute(0, 1, 3, 2, 4, 5)
            found = cut.reshape(n, *self.shape)
        else:
            found = rows.reshape(n, *self.shape)
        if self.dtype == "uint8":
            return found.round().clamp(0, 255).to(torch.uint8)
        return found
