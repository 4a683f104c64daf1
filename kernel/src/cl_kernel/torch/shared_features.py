"""What crosses the cut of a frozen network, computed once and read by every run, epoch, seed and method from the cache.

The identity of a block of features is what its images hold and how they are decoded, the lower part of the network
(structure, tensors, and what it makes of two generated images), the device's kind and the precision. Blocks are made
from the data set as it lies, not from a stage of it, so another order of classes or another seed finds them again.

Shapes: N samples, n a batch, F what crosses the cut.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attrs import define, field
from torch import Tensor, fx, nn

from cl_kernel.contract.errors import BadInput
from cl_kernel.contract.interfaces import Samples
from cl_kernel.contract.stream import Field
from cl_kernel.data.samples import Concatenation, Subset, identify_samples
from cl_kernel.storage.checkpoint import digest_tree
from cl_kernel.torch.loaders import ahead, input_name, input_shape, label_name, take_good, to_input
from cl_kernel.torch.state import pack

if TYPE_CHECKING:
    from cl_kernel.running.resources import Resources

KIND = "frozen-features"
REVISION = 1
BLOCK = 512
"""Images of one artefact: what two processes may compute side by side, and what a killed one loses at most."""
CHUNK = 64
HALF_LIMIT = 65504.0
FEATURES = "features"
"""Name of the field that holds what crosses the cut of a split network, here and in a memory."""


@define(eq=False, repr=False)
class Sharing:
    """Features of the samples of one run; ``why_not`` says why they are computed in the run alone."""

    resources: Resources
    why_not: str = ""
    said_already: bool = False
    _tables: dict[tuple[int, str], FeatureTable] = field(factory=dict, init=False)
    _key: tuple[Any, str] | None = field(default=None, init=False)

    def __deepcopy__(self, memo: Any) -> Sharing:
        return self  # copies of a network read the same features

    def of(self, lower: nn.Module, samples: Samples, device: torch.device) -> Samples | None:
        """The same rows as features and labels, all of them computed; None when they cannot be shared."""
        if self.resources.features == "off":
            self.why_not = "run.features=off"
            return None
        if not _identified(samples):
            self.why_not = "the data set cannot say what its samples hold"
            return None
        bases = {id(base): base for base, _ in _bases(samples)}
        tables = {key: self._table(lower, base, device) for key, base in bases.items()}
        for base, rows in _bases(samples):
            table = tables[id(base)]
            if not table.fits(rows):
                self.why_not = f"{_megabytes(table.nbytes(rows))} of features would fill the disk of the cache"
                return None
            table.prepare(rows)
        return _rebased(samples, tables)

    def say(self) -> str:
        """What a run's log says of it, once."""
        self.said_already = True
        if self.why_not:
            return f"features of the frozen part are computed in this run alone: {self.why_not}"
        made = sum(table.n_made for table in self._tables.values())
        found = sum(table.n_found for table in self._tables.values())
        size = next(iter(self._tables.values())).spec[FEATURES].nbytes
        return f"features of the frozen part: {found} found in the cache, {made} computed for it, {size} bytes each"

    def _table(self, lower: nn.Module, base: Samples, device: torch.device) -> FeatureTable:
        key = (id(base), self._network_key(lower, base.spec, device))
        if key not in self._tables:
            self._tables[key] = FeatureTable(base, lower, device, self.resources, key[1])
        return self._tables[key]

    def _network_key(self, lower: nn.Module, spec: Mapping[str, Field], device: torch.device) -> str:
        """The key, digested anew only when a tensor was written to."""
        tensors = [*lower.parameters(), *lower.buffers()]
        stamp = [id(lower), str(spec), *((tensor.data_ptr(), tensor._version) for tensor in tensors)]
        if self._key is None or self._key[0] != stamp:
            self._key = stamp, network_key(lower, spec, device)
        return self._key[1]


@define(eq=False, repr=False)
class FeatureTable:
    """Samples whose input is what crosses the cut, read from blocks in the cache.

    :param network: key of the lower part; see :func:`network_key`.
    """

    base: Samples
    lower: nn.Module
    device: torch.device
    resources: Resources
    network: str
    spec: Mapping[str, Field] = field(init=False)
    n_made: int = field(default=0, init=False)
    n_found: int = field(default=0, init=False)
    _blocks: dict[int, np.ndarray] = field(factory=dict, init=False)
    _bad: dict[int, np.ndarray] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        spec = self.base.spec
        shape = tuple(self._through(_pictures(spec[input_name(spec)], 1)).shape[1:])
        dtype = "float16" if self.resources.features == "half" else "float32"
        self.spec = {
            FEATURES: Field(shape=shape, dtype=dtype, kind="map" if len(shape) == 3 else "vector"),
            label_name(spec): spec[label_name(spec)],
        }

    def __len__(self) -> int:
        return len(self.base)

    @property
    def in_memory(self) -> bool:
        """Whether every row can be taken, as fast as from an array."""
        return not any(bad.any() for bad in self._bad.values())

    def nbytes(self, rows: np.ndarray) -> int:
        """Bytes of the blocks that these rows lie in."""
        return len(np.unique(rows // BLOCK)) * BLOCK * self.spec[FEATURES].nbytes

    def fits(self, rows: np.ndarray) -> bool:
        """Whether the cache's disk has twice the room that the blocks take which are not there yet."""
        if all(number in self._blocks for number in np.unique(rows // BLOCK).tolist()):
            return True
        root = self.resources.cache.root
        while not root.exists():
            root = root.parent
        return 2 * self.nbytes(rows) < shutil.disk_usage(root).free

    def prepare(self, rows: np.ndarray) -> None:
        """Find or make the blocks of these rows; several processes begin at different ones."""
        missing = [number for number in np.unique(rows // BLOCK).tolist() if number not in self._blocks]
        start = os.getpid() % len(missing) if missing else 0
        for number in missing[start:] + missing[:start]:
            self._blocks[number] = self._block(number)

    def take(self, rows: np.ndarray, fields: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Rows of features and labels; a row that cannot be read raises what reading its image raises."""
        taken: dict[str, np.ndarray] = {}
        for name in fields or self.spec:
            taken[name] = self._features(rows) if name == FEATURES else self.base.take(rows, [name])[name]
        return taken

    def _features(self, rows: np.ndarray) -> np.ndarray:
        spec = self.spec[FEATURES]
        out = np.empty((len(rows), *(axis or 0 for axis in spec.shape)), spec.dtype)
        owner, place = rows // BLOCK, rows % BLOCK
        for number in np.unique(owner).tolist():
            at = np.flatnonzero(owner == number)
            if self._bad[number][place[at]].any():
                self.base.take(rows[at], [input_name(self.base.spec)])
                raise ValueError("an image that could not be decoded before can be now")
            out[at] = self._blocks[number][place[at]]
        return out

    def _block(self, number: int) -> np.ndarray:
        rows = np.arange(number * BLOCK, min((number + 1) * BLOCK, len(self.base)))
        resources, spec = self.resources, self.base.spec
        wanted = spec[input_name(spec)]
        artefact = resources.artefact(
            KIND,
            REVISION,
            network=self.network,
            device=self.device.type,
            dtype=self.spec[FEATURES].dtype,
            field=[list(wanted.shape), wanted.dtype, wanted.kind],
            images=identify_samples(self.base, resources.files, rows),
        )
        made = self.n_made
        folder = artefact.make(lambda folder: self._compute(rows, folder))
        if self.n_made == made:
            self.n_found += len(rows)
        self._bad[number] = np.load(folder / "bad.npy")
        found: np.ndarray = np.load(folder / "features.npy", mmap_mode="r")
        return found

    def _compute(self, rows: np.ndarray, folder: Path) -> None:
        """Decode and run the rows, ``CHUNK`` at a time whatever the batch size, so numbers depend on no run."""
        spec, bad = self.spec[FEATURES], np.zeros(len(rows), bool)
        out = np.zeros((len(rows), *(axis or 0 for axis in spec.shape)), spec.dtype)
        source = input_name(self.base.spec)

        def read(chunk: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
            return take_good(self.base, chunk, [source], [])

        pieces = np.array_split(rows, max(1, -(-len(rows) // CHUNK)))
        bad[:] = True
        for kept, batch in ahead(read, pieces, max(1, self.resources.n_workers)):
            if batch:
                at = kept - rows[0]
                out[at], bad[at] = self._narrowed(self._through(batch[source])), False
        np.save(folder / "features.npy", out)
        np.save(folder / "bad.npy", bad)
        self.n_made += len(rows)

    def _through(self, batch: np.ndarray) -> Tensor:
        spec = self.base.spec
        return _through(self.lower, to_input(batch, spec[input_name(spec)], self.device))

    def _narrowed(self, features: Tensor) -> np.ndarray:
        dtype = self.spec[FEATURES].dtype
        largest = float(features.abs().max()) if dtype == "float16" else 0.0
        if HALF_LIMIT < largest < float("inf"):
            raise BadInput(
                f"a feature of {largest:g} does not fit half the bytes ({HALF_LIMIT:g} at most)",
                where="run.features=half",
                fix="run.features=shared",
            )
        array: np.ndarray = features.float().cpu().numpy().astype(dtype)
        return array


def network_key(lower: nn.Module, spec: Mapping[str, Field], device: torch.device) -> str:
    """What a frozen part is: its modules and ways, its tensors, and what it makes of two generated images."""
    ways = [module.code for module in lower.modules() if isinstance(module, fx.GraphModule)]
    wanted = spec[input_name(spec)]
    probe = _through(lower, to_input(_pictures(wanted, 2), wanted, device))
    return digest_tree(
        {
            "modules": str(lower),
            "ways": ways,
            "state": pack(lower),
            "buffers": {name: value.cpu().numpy() for name, value in lower.named_buffers()},
            "probe": probe.float().cpu().numpy(),
        }
    )


def _through(lower: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = lower(inputs)
    return result


def _pictures(spec: Field, n: int) -> np.ndarray:
    """Generated inputs of a field, always the same."""
    input_shape(spec)  # refuses images of varying size
    drawn = np.random.default_rng(0).random((n, *(axis or 1 for axis in spec.shape)))
    return (255 * drawn if spec.dtype == "uint8" else drawn).astype(spec.dtype)


def _identified(samples: Any) -> bool:
    return all(hasattr(base, "identify") for base, _ in _bases(samples))


def _bases(samples: Any, rows: np.ndarray | None = None) -> list[tuple[Samples, np.ndarray]]:
    """The samples that lie at the bottom, and which of their rows are meant."""
    rows = np.arange(len(samples)) if rows is None else rows
    if isinstance(samples, Subset):
        return _bases(samples.base, samples.rows[rows])
    if isinstance(samples, Concatenation):
        return [pair for part in samples.parts for pair in _bases(part)]
    return [(samples, rows)]


def _rebased(samples: Any, tables: Mapping[int, FeatureTable]) -> Samples:
    if isinstance(samples, Subset):
        return Subset(_rebased(samples.base, tables), samples.rows)
    if isinstance(samples, Concatenation):
        return Concatenation([_rebased(part, tables) for part in samples.parts])
    return tables[id(samples)]


def _megabytes(n: int) -> str:
    return f"{n / 1e6:,.0f} MB"
