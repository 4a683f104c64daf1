"""The codebook: how it starts, which block stands for a slice, and how a map is rebuilt from block numbers.

Shapes: B batch, C channels, h w map, L block length, S = C / L slices a location, K blocks, N = B h w S slices.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cl_kernel import BadInput, BadSetting

SCORES_AT_ONCE = 1 << 20
"""Scores held at a time while assigning: 4 MB in float32, so that a chunk stays in the processor's cache."""

MATCHED = {12: (14.0, 0.64), 3: (0.73, 0.25)}
"""Cut layer of SqueezeNet -> (standard deviation, share of zeros) of its maps over ImageNet."""

SCRATCH = (0.8523, 0.38)
"""The same for a network trained from scratch."""

LOW = 0.05
"""What a "low" entry is of a "high" one, in the strategies that have both."""


# ---- start values ----------------------------------------------------------------------------


def _dense(
    n_blocks: int, length: int, sigma: float, generator: torch.Generator | None, *, signed: bool = False
) -> Tensor:
    values = torch.randn(n_blocks, length, generator=generator) * sigma * 5 / 3
    return values if signed else values.abs()


def _scatter_zeros(n_blocks: int, length: int, sparsity: float, generator: torch.Generator | None) -> Tensor:
    """A 0/1 mask with exactly ``round(K L p)`` zeros, placed by one permutation."""
    size = n_blocks * length
    mask = torch.ones(size)
    mask[: round(size * sparsity)] = 0
    return mask[torch.randperm(size, generator=generator)].view(n_blocks, length)


def _digits(n_rows: int, length: int) -> Tensor:
    """Binary digits of 0, 1, 2, ..., first column most significant."""
    return (torch.arange(n_rows)[:, None] >> torch.arange(length - 1, -1, -1)) & 1


def _every_pattern(n_rows: int, length: int, sigma: float, generator: torch.Generator | None) -> Tensor:
    high = _dense(n_rows, length, sigma, generator)
    low = (torch.randn(n_rows, length, generator=generator) * sigma * 5 / 3 * LOW).abs()
    return torch.where(_digits(n_rows, length).bool(), high, low)


def _need_rows(strategy: str, n_blocks: int, needed: int, length: int) -> None:
    if n_blocks != needed:
        raise BadSetting(
            f"{strategy} with blocks of length {length} has exactly {needed} rows, not {n_blocks}",
            where="codec.n_blocks",
            fix=f"--set codec.n_blocks={needed}",
        )


def start_values(
    strategy: str,
    n_blocks: int,
    length: int,
    *,
    sigma: float | None = None,
    sparsity: float | None = None,
    high: float | None = None,
    low: float | None = None,
    jitter: float = 0.0,
    signed: bool = False,
    generator: torch.Generator | None = None,
    rng: np.random.RandomState | None = None,
) -> Tensor:
    """Start values of a codebook; the draws come in the order that the reference makes them.

    :param sigma: standard deviation the matched strategies copy; ``sparsity``: their share of zeros.
    :param high: value of the ones of ``rigid_everyperm``, ``low`` of its zeros; left out, as high and low as a
        matched start is on average. :param jitter: standard deviation of the noise on them.
    :param signed: dense and sparse matched starts have negative values too, as maps have that no ReLU cuts off.
    :param generator: for everything torch draws; ``rng`` for the one strategy that shuffles with NumPy.
    :return: float32 [K, L].
    :raises BadSetting: for an unknown strategy, or sizes the strategy cannot have.
    """
    if n_blocks < 1 or length < 1:
        raise BadSetting(f"a codebook of {n_blocks} blocks of length {length}", where="codec.n_blocks, codec.length")
    if strategy == "random_distmatch_sparse_scratch_pretrain":
        strategy, (sigma, sparsity) = "random_distmatch_sparse", SCRATCH
    matched = ("random_distmatch", "random_everyperm", "distmatch_", *(("rigid_",) if high is None else ()))
    if strategy.startswith(matched) and sigma is None:
        raise BadSetting(
            f"{strategy} needs the spread of the maps it copies",
            where="codec.sigma",
            fix=f"known for the SqueezeNet cuts {sorted(MATCHED)}; give codec.sigma and codec.sparsity",
        )
    match strategy:
        case "random_standard_normal":
            return torch.randn(n_blocks, length, generator=generator)
        case "normal_MobileNet":
            return 0.5 * torch.randn(n_blocks, length, generator=generator)
        case "random_uniform":
            return torch.rand(n_blocks, length, generator=generator)
        case "zeros" | "sample_first_batch":
            return torch.zeros(n_blocks, length)
        case "random_distmatch_dense":
            return _dense(n_blocks, length, sigma, generator, signed=signed)
        case "random_distmatch_sparse":
            dense = _dense(n_blocks, length, sigma, generator, signed=signed)
            return dense * _scatter_zeros(n_blocks, length, sparsity or 0.0, generator)
        case "distmatch_augmented_sparse":
            dense = _dense(n_blocks, length, sigma, generator)
            low = _dense(n_blocks, length, sigma * LOW, generator)
            return torch.where(_scatter_zeros(n_blocks, length, sparsity or 0.0, generator).bool(), dense, low)
        case "random_everyperm":
            _need_rows(strategy, n_blocks, 2**length, length)
            return _every_pattern(n_blocks, length, sigma, generator)
        case "random_everyperm_shuffled":
            _need_rows(strategy, n_blocks, 2**length, length)
            values = _every_pattern(n_blocks, length, sigma, generator)
            order = torch.randperm(n_blocks * length, generator=generator)
            return values.view(-1)[order].view(n_blocks, length)
        case "random_everyperm_remove_half_rows":
            _need_rows(strategy, n_blocks, 2**length // 2, length)
            if length > 8:
                raise BadSetting(
                    f"{strategy} numbers its rows in 8 bits: blocks of length {length} do not fit",
                    where="codec.length",
                    fix="use a length of at most 8",
                )
            values = _every_pattern(2**length, length, sigma, generator)
            rows = np.arange(2**length, dtype=np.uint8)
            (rng or np.random.RandomState()).shuffle(rows)
            return values[torch.from_numpy(rows[:n_blocks].astype(np.int64))]
        case "rigid_everyperm":
            _need_rows(strategy, n_blocks, 2**length, length)
            high = sigma * 5 / 3 if high is None else high
            low = high * LOW if low is None else low
            values = torch.where(_digits(n_blocks, length).bool(), high, low)
            return values + jitter * torch.randn(n_blocks, length, generator=generator) if jitter else values
    raise BadSetting(f"unknown codebook start {strategy!r}", where="codec.init", fix=f"one of {', '.join(STRATEGIES)}")


STRATEGIES = (
    "random_standard_normal",
    "normal_MobileNet",
    "random_uniform",
    "random_distmatch_dense",
    "random_distmatch_sparse",
    "random_distmatch_sparse_scratch_pretrain",
    "random_everyperm",
    "random_everyperm_shuffled",
    "random_everyperm_remove_half_rows",
    "sample_first_batch",
    "zeros",
    "distmatch_augmented_sparse",
    "rigid_everyperm",
)


def needs_statistics(strategy: str, high: float | None = None) -> bool:
    """Whether a start copies the spread of the maps."""
    if strategy == "rigid_everyperm":
        return high is None
    return strategy.startswith(("random_distmatch", "random_everyperm", "distmatch_")) and not strategy.endswith(
        "scratch_pretrain"
    )


def map_statistics(features: Tensor) -> tuple[float, float, bool]:
    """What matched starts copy: standard deviation of the values that are not zero, share of zeros, any negative.

    :raises BadInput: for maps without two different values.
    """
    values = features.detach().float()
    told = values[values != 0]
    if told.numel() < 2 or not bool(torch.isfinite(told).all()) or float(told.std()) == 0:
        raise BadInput("the maps of the first batch are all alike or not finite", where="codec.init")
    return float(told.std()), 1 - told.numel() / values.numel(), bool((values < 0).any())


def sampled_values(features: Tensor, n_blocks: int, length: int, rng: np.random.RandomState) -> Tensor:
    """Start values drawn from the first batch: single numbers with replacement, not slices."""
    flat = features.detach().reshape(-1).cpu().numpy()
    return torch.from_numpy(rng.choice(flat, (n_blocks, length))).to(features)


# ---- assignment and reconstruction -----------------------------------------------------------


def fitting_length(channels: int) -> int:
    """The length of blocks for maps of so many channels: the largest up to 16 that divides them.

    >>> [fitting_length(n) for n in (512, 24, 40)]
    [16, 12, 10]
    """
    return max(n for n in range(1, 17) if channels % n == 0)


def check_length(channels: int, length: int) -> None:
    """Blocks must tile the channels.

    :raises BadSetting: naming lengths that do.
    """
    if length < 1 or channels % length:
        fits = [n for n in range(1, channels + 1) if channels % n == 0]
        raise BadSetting(
            f"blocks of length {length} do not divide the {channels} channels of the map",
            where="codec.length",
            fix=f"one of {', '.join(map(str, fits))}",
        )


def slices(features: Tensor, length: int) -> Tensor:
    """Cut maps along the channels: [B, C, h, w] -> [N, L], in the order example, row, column, slice."""
    check_length(features.shape[1], length)
    return features.permute(0, 2, 3, 1).reshape(-1, length)


def similarity(features: Tensor, codebook: Tensor) -> Tensor:
    """Scores of every slice against every block: the block is normalised, the slice is not.

    For inspection; :func:`assign` never holds this whole.

    :return: [B, h, w, S, K].
    """
    batch, channels, height, width = features.shape
    length = codebook.shape[1]
    scores = slices(features, length) @ F.normalize(codebook, dim=1, eps=1e-12).t()
    return scores.view(batch, height, width, channels // length, -1)


@torch.no_grad()
def assign(features: Tensor, codebook: Tensor) -> Tensor:
    """The most similar block of every slice; the lowest number among equals, so block 0 for an all-zero slice.

    Works through the slices in chunks of about a million scores, so memory does not grow with B h w S K.

    :return: int64 [B, h, w, S].
    """
    batch, channels, height, width = features.shape
    n_blocks, length = codebook.shape
    rows = slices(features, length)
    directions = F.normalize(codebook, dim=1, eps=1e-12).t().contiguous()
    chunk = max(1, SCORES_AT_ONCE // n_blocks)
    out = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    scores = torch.empty(min(chunk, len(rows)), n_blocks, dtype=directions.dtype, device=rows.device)
    ranks = torch.arange(n_blocks - 1, -1, -1, dtype=scores.dtype, device=rows.device)  # exact: 65,536 blocks at most
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        found = torch.mm(part, directions, out=scores[: len(part)])
        # The highest rank among the best is the lowest number: argmax, from passes that the CPU does side by side.
        found.eq_(found.amax(1, keepdim=True)).mul_(ranks)
        out[start : start + chunk] = (n_blocks - 1) - found.amax(1)
    return out.view(batch, height, width, channels // length)


def rebuild(indices: Tensor, codebook: Tensor) -> Tensor:
    """Maps from block numbers: gathers the un-normalised rows, the only way gradients reach the codebook.

    :param indices: integers [B, h, w, S].
    :return: [B, C, h, w], in channels-last memory order (nothing is copied to transpose it).
    """
    batch, height, width, n_slices = indices.shape
    rows = F.embedding(indices, codebook)
    return rows.view(batch, height, width, n_slices * codebook.shape[1]).permute(0, 3, 1, 2)


def code_dtype(n_blocks: int) -> np.dtype[np.generic]:
    """One byte up to 256 blocks, two above.

    :raises BadSetting: beyond 65,536 blocks.
    """
    if n_blocks > 1 << 16:
        raise BadSetting(f"{n_blocks} blocks do not fit two bytes", where="codec.n_blocks", fix="at most 65536")
    return np.dtype(np.uint8 if n_blocks <= 256 else np.uint16)


def pack(indices: Tensor, n_blocks: int) -> np.ndarray:
    """Block numbers as stored: [B, h, w, S] -> uint8 or uint16 [B, h w S], slice fastest."""
    return indices.flatten(1).cpu().numpy().astype(code_dtype(n_blocks))


def unpack(
    codes: np.ndarray | Tensor, shape: tuple[int, int, int], length: int, device: torch.device | str | None = None
) -> Tensor:
    """Stored rows to block numbers: [B, h w S] -> int64 [B, h, w, S].

    :param shape: C, h, w of the map.
    """
    channels, height, width = shape
    if isinstance(codes, np.ndarray):
        codes = torch.from_numpy(codes.astype(np.int64))
    return codes.to(device=device, dtype=torch.int64).view(-1, height, width, channels // length)


class Codebook(nn.Module):
    """A trainable matrix of memory blocks.

    :param values: start values, float32 [K, L].
    :param on_first_batch: replace the zeros by numbers of the first map seen (``sample_first_batch``).
    """

    def __init__(self, values: Tensor, *, on_first_batch: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.blocks = nn.Parameter(values)
        self._on_first_batch = on_first_batch

    def forward(self, features: Tensor) -> Tensor:
        """Rebuild a map [B, C, h, w] from its most similar blocks."""
        return rebuild(self.indices(features), self.blocks)

    def indices(self, features: Tensor) -> Tensor:
        """Block numbers of a map, int64 [B, h, w, S]."""
        if self._on_first_batch is not None:
            with torch.no_grad():
                self.blocks.copy_(self._on_first_batch(features))
            self._on_first_batch = None
        return assign(features, self.blocks.detach())

    @property
    def waits(self) -> bool:
        """Whether the start values still have to come from the first batch."""
        return self._on_first_batch is not None

    def settle(self, values: Tensor | None = None) -> None:
        """No start from the first batch any more: take these values, or those there are (after loading)."""
        if values is not None:
            with torch.no_grad():
                self.blocks.copy_(values)
        self._on_first_batch = None


def statistics(codebook: Tensor, features: Tensor, rebuilt: Tensor) -> dict[str, float]:
    """The columns of ``mem_stats.csv``: unbiased spread; share of exact zeros with 2 decimals, others 5."""
    out: dict[str, float] = {}
    for name, values in (("codebook", codebook), ("orig_fbanks", features), ("reconstr_fbanks", rebuilt)):
        values = values.detach()
        spread = values.std() if values.numel() > 1 else torch.zeros(())
        for key, value in (("mean", values.mean()), ("std", spread), ("max", values.max()), ("min", values.min())):
            out[f"{name}_{key}"] = round(float(value), 5)
        out[f"{name}_sparsity"] = round(float((values == 0).float().mean()), 2)
    out["reconstr_mse"] = float(F.mse_loss(rebuilt.detach(), features.detach()))
    return out
