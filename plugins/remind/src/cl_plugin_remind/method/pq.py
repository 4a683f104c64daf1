"""Product quantiser: trained by faiss, encoding and decoding on the device as a nearest search and a table gather.

Shapes: N rows, D channels, M codebooks, K centroids a codebook, d = D / M, B examples, C channels, H W side.
A feature map [B, C, H, W] is quantised position by position: row n*H*W + h*W + w holds its C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import util

import numpy as np
import torch
from attrs import define
from torch import Tensor

from cl_kernel import BadInput, BadSetting

MAX_ROWS = 65_536  # faiss trains on at most 256 rows a centroid; more are never looked at
SEED = 1234  # of faiss' clustering
NOT_FINITE = "features hold values that are no finite numbers"
DIVERGED = "the network below the cut gives them: check its weights, or lower the base learning rate"
_CELLS = 1 << 22  # distances held at once
_TIE = 1e-5  # distances closer than this share of their size are settled in double precision


@define(eq=False, repr=False)
class Quantiser:
    """Trained codebooks on a device.

    :param centroids: float32 [M, K, d].
    """

    centroids: Tensor

    @property
    def dim(self) -> int:
        """Channels of a row."""
        return self.centroids.shape[0] * self.centroids.shape[2]

    @property
    def code_dtype(self) -> torch.dtype:
        """One byte a code, two where K > 256."""
        return torch.uint8 if self.centroids.shape[1] <= 256 else torch.int32

    def encode(self, rows: Tensor) -> Tensor:
        """Index of the nearest centroid in each sub-space.

        :param rows: float32 [N, D] on the device of the centroids.
        :return: codes [N, M].
        :raises BadInput: for another number of channels, or values that are no finite numbers.
        """
        if rows.shape[-1] != self.dim:
            raise BadInput(
                f"rows of {rows.shape[-1]} channels for a quantiser of {self.dim}", where="product quantiser"
            )
        if not len(rows):
            return torch.empty((0, len(self.centroids)), dtype=self.code_dtype, device=rows.device)
        chunk = max(64, _CELLS // (self.centroids.shape[0] * self.centroids.shape[1]))
        return torch.cat([self._encode(part) for part in rows.split(chunk)])

    def decode(self, codes: Tensor) -> Tensor:
        """The centroids the codes name, side by side: codes [N, M] -> float32 [N, D]."""
        n_codebooks, n_centroids, width = self.centroids.shape
        if len(codes) == 0:
            return self.centroids.new_empty((0, self.dim))
        offset = torch.arange(0, n_codebooks * n_centroids, n_centroids, dtype=torch.int32, device=codes.device)
        index = (codes.to(torch.int32) + offset).reshape(-1)
        return self.centroids.reshape(-1, width).index_select(0, index).reshape(len(codes), self.dim)

    def encode_maps(self, maps: Tensor) -> Tensor:
        """Feature maps [B, C, H, W] -> codes [B, H, W, M]."""
        batch, _, height, width = maps.shape
        return self.encode(rows_of(maps)).reshape(batch, height, width, -1)

    def decode_maps(self, codes: Tensor) -> Tensor:
        """Codes [B, H, W, M] -> feature maps [B, C, H, W], channels last in memory."""
        batch, height, width, _ = codes.shape
        rows = self.decode(codes.reshape(batch * height * width, -1))
        return rows.reshape(batch, height, width, -1).permute(0, 3, 1, 2)

    def _encode(self, rows: Tensor) -> Tensor:
        n_codebooks, _, width = self.centroids.shape
        parts = rows.reshape(len(rows), n_codebooks, width).transpose(0, 1)  # [M, N, d]
        squares = self.centroids.square().sum(2)  # [M, K]
        distance = torch.baddbmm(squares.unsqueeze(1), parts, self.centroids.transpose(1, 2), alpha=-2)  # [M, N, K]
        best, codes = distance.min(2)
        if not bool(best.isfinite().all()):
            raise BadInput(NOT_FINITE, where="product quantiser", fix=DIVERGED)
        # The expanded square loses digits: where a second centroid comes close, look again, exactly.
        slack = _TIE * (best.abs() + parts.square().sum(2))
        close = (distance <= (best + slack).unsqueeze(2)).sum(2) > 1
        if bool(close.any()):
            book, row = close.nonzero(as_tuple=True)
            for part in torch.arange(len(book), device=rows.device).split(4096):
                b, r = book[part], row[part]
                exact = (parts[b, r].double().unsqueeze(1) - self.centroids[b].double()).square().sum(2)
                codes[b, r] = exact.argmin(1)
        return codes.T.to(self.code_dtype).contiguous()


def rows_of(maps: Tensor) -> Tensor:
    """Feature maps [B, C, H, W] -> contiguous rows [B*H*W, C]."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1]).contiguous()


def decode_regions(codes: Tensor, centroids: Tensor) -> Tensor:
    """Codes [n, R, M] -> float32 [n, R, D] by the centroids [M, K, d]; floats pass unchanged."""
    if codes.is_floating_point():
        return codes.float()
    n, regions, _ = codes.shape
    return Quantiser(centroids).decode(codes.reshape(n * regions, -1)).reshape(n, regions, -1)


def check_sizes(dim: int, n_codebooks: int, n_centroids: int, where: str = "codec.codebooks") -> int:
    """Bits a code.

    :raises BadSetting: when the codebooks do not divide the channels or the centroids are no power of two.
    """
    if n_codebooks < 1 or dim % n_codebooks:
        fits = [m for m in range(1, min(dim, 64) + 1) if dim % m == 0]
        raise BadSetting(
            f"{n_codebooks} codebooks do not divide {dim} channels",
            where=where,
            fix=f"use one of {', '.join(map(str, fits))}",
        )
    bits = n_centroids.bit_length() - 1
    if n_centroids != 1 << bits or not 1 <= bits <= 16:
        raise BadSetting(
            f"{n_centroids} centroids are no power of two between 2 and 65536", where="codec.codebook_size"
        )
    return bits


def trainer() -> str:
    """What trains codebooks here, with its version: faiss, or torch without it."""
    if util.find_spec("faiss") is None:
        return f"torch {torch.__version__}"
    import faiss

    return f"faiss {faiss.__version__}"


def train(rows: np.ndarray, n_codebooks: int, n_centroids: int) -> np.ndarray:
    """Centroids of each sub-space by k-means: 25 iterations, seed 1234, at most 256 rows a centroid.

    :param rows: float32 [N, D]; N >= K.
    :return: float32 [M, K, d].
    :raises BadSetting: for sizes that do not fit. :raises BadInput: for too few rows or values that are no numbers.
    """
    bits = check_sizes(rows.shape[1], n_codebooks, n_centroids)
    if len(rows) < n_centroids:
        raise BadInput(
            f"{len(rows)} rows cannot train {n_centroids} centroids",
            where="product quantiser",
            fix="use fewer centroids (codec.codebook_size) or more base data",
        )
    rows = np.ascontiguousarray(rows, np.float32)
    if not np.isfinite(rows).all():
        raise BadInput(NOT_FINITE, where="product quantiser", fix=DIVERGED)
    if trainer().startswith("torch"):
        return _train_torch(rows, n_codebooks, n_centroids)
    import faiss

    quantiser = faiss.ProductQuantizer(rows.shape[1], n_codebooks, bits)
    quantiser.cp.min_points_per_centroid = 1  # only silences a warning
    quantiser.train(rows)
    flat = faiss.vector_to_array(quantiser.centroids)
    return flat.reshape(n_codebooks, n_centroids, rows.shape[1] // n_codebooks).copy()


def train_maps(
    batches: Iterable[Tensor],
    n_codebooks: int,
    n_centroids: int,
    pick: Callable[[int], np.ndarray],
    max_rows: int = MAX_ROWS,
) -> np.ndarray:
    """Train on batches of feature maps without holding them all: a reservoir of their rows.

    :param batches: float32 [B, C, H, W] each.
    :param pick: ``n -> float64 [n]`` uniform numbers, from a seeded generator.
    :return: centroids as :func:`train` gives them. All rows count when there are no more than ``max_rows``.
    """
    kept: Tensor | None = None
    seen = 0
    for maps in batches:
        rows = rows_of(maps).cpu()
        if kept is None:
            kept = rows[:0]
        room = max_rows - len(kept)
        kept = torch.cat([kept, rows[:room]])
        late = rows[room:] if room < len(rows) else rows[:0]
        seen += len(rows) - len(late)
        if len(late):
            nth = np.arange(seen, seen + len(late)) + 1
            slots = (pick(len(late)) * nth).astype(np.int64)
            inside = slots < max_rows
            kept[torch.from_numpy(slots[inside])] = late[torch.from_numpy(inside)]
            seen += len(late)
    if kept is None:
        raise BadInput("no features to train on", where="product quantiser")
    return train(kept.numpy(), n_codebooks, n_centroids)


def _train_torch(rows: np.ndarray, n_codebooks: int, n_centroids: int) -> np.ndarray:
    """The same clustering without faiss; agrees in distortion, not in every centroid."""
    rng = np.random.default_rng(SEED)
    limit = 256 * n_centroids
    if len(rows) > limit:
        rows = rows[np.sort(rng.permutation(len(rows))[:limit])]
    data = torch.from_numpy(rows).reshape(len(rows), n_codebooks, -1).transpose(0, 1).contiguous()  # [M, N, d]
    found = []
    for book in data:
        centroids = book[torch.from_numpy(rng.permutation(len(book))[:n_centroids])].clone()
        for _ in range(25):
            nearest = (centroids.square().sum(1) - 2 * book @ centroids.T).argmin(1)
            counts = torch.bincount(nearest, minlength=n_centroids)
            sums = torch.zeros_like(centroids).index_add_(0, nearest, book)
            filled = counts > 0
            centroids[filled] = sums[filled] / counts[filled].unsqueeze(1)
            for empty in torch.nonzero(~filled).flatten().tolist():
                largest = int(counts.argmax())
                centroids[empty] = centroids[largest] * (1 + 1 / 1024)
                centroids[largest] *= 1 - 1 / 1024
                counts[empty] = counts[largest] // 2
                counts[largest] -= counts[empty]
        found.append(centroids)
    return torch.stack(found).numpy()
