"""Weights of each step that a run folder keeps, as bundles under the reference's tensor names."""

from __future__ import annotations

from pathlib import Path


def folder(run: Path) -> Path:
    """Where they lie."""
    return run / "weights"


def encoder(run: Path, step: int = 0) -> Path:
    """Prefix of the encoder after a step; methods that freeze it keep that of step 0 alone."""
    return folder(run) / ("encoder" if step == 0 else f"encoder-{step:02d}")


def encoders(run: Path) -> list[int]:
    """Steps with an encoder of their own."""
    return [0, *(int(path.name[8:-6]) for path in sorted(folder(run).glob("encoder-*.index")))]


def decoder(run: Path, step: int) -> Path:
    """Prefix of the decoder after a step."""
    return folder(run) / f"decoder-{step:02d}"


def helper(run: Path, key: str) -> Path:
    """Prefix of a helper decoder."""
    return folder(run) / f"helper-{key}"


def steps(run: Path) -> list[int]:
    """Steps with a saved decoder."""
    return sorted(
        int(path.name.removeprefix("decoder-").removesuffix(".index")) for path in folder(run).glob("decoder-*.index")
    )


def helpers(run: Path) -> list[str]:
    """Class lists of saved helper decoders, as ``11-12``."""
    return sorted(
        path.name.removeprefix("helper-").removesuffix(".index") for path in folder(run).glob("helper-*.index")
    )
