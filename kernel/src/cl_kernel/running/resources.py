"""What a run may use, and what a learner is built from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import define, field, frozen

from cl_kernel.compatibility import renamed
from cl_kernel.contract.errors import BadInput, MissingAsset
from cl_kernel.registry import find_asset
from cl_kernel.storage.cache import Artefact, Cache
from cl_kernel.storage.digests import Files
from cl_kernel.storage.identity import Identity, identify

if TYPE_CHECKING:
    from cl_kernel.contract.offers import Asset
    from cl_kernel.contract.stream import Field, Stream
    from cl_kernel.memory import Memory


def n_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@define(kw_only=True)
class Resources:
    """Seed, device, data roots and cache: what data sets, models and learners may know of where they run.

    :param device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``; frameworks interpret it.
    :param n_workers: loader threads or processes; results do not depend on it.
    :param on_bad_sample: ``fail`` or ``skip``: what :meth:`bad_sample` does.
    :param folder: the run folder, where a learner may put files of its own; None outside a run.
    :param identity: ``content`` or ``quick``: how ``files`` tells files apart.
    :param augment: transforms of torchvision v2 by name that training pictures go through.
    :param features: ``shared``, ``half`` or ``off``: whether runs share what a pretrained frozen part computes.
    """

    seed: int = 0
    profile: str = "tiny"
    device: str = "auto"
    roots: tuple[Path, ...] = ()
    cache: Cache = field(factory=lambda: Cache(Path(".cache/clk")))
    n_workers: int = 0
    on_bad_sample: str = "fail"
    folder: Path | None = None
    locator: Callable[[Asset, Sequence[Path]], Path | None] = field(default=find_asset, repr=False)
    skipped: dict[str, str] = field(factory=dict)
    said: list[str] = field(factory=list)
    files: Files = field(init=False, repr=False)
    identity: str = "content"
    features: str = "shared"
    augment: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        self.files = self.cache.files(self.identity)

    def identify(self, name: str, revision: int = 1, **parts: Any) -> Identity:
        """Identity of something made from ``parts``; see :func:`cl_kernel.storage.identity.identify`."""
        return identify(name, revision, files=self.files, **parts)

    def artefact(self, name: str, revision: int = 1, **parts: Any) -> Artefact:
        """Something that runs share, kept in the cache by what it is made from.

        :param name: kind of artefact, as ``"mine-base"``.
        :param revision: raised when equal parts give another artefact than before.
        :param parts: everything it depends on, whole: ``settings=settings, stage=stage, seed=self.seed``; see
            :func:`cl_kernel.storage.identity.identify`.
        """
        return self.cache.artefact(self.identify(name, revision, **parts))

    def rng(self, *names: str | int) -> np.random.Generator:
        """A generator of its own for each purpose, fixed by the seed and the names."""
        key = hashlib.sha256(repr(names).encode()).digest()[:16]
        return np.random.default_rng([self.seed, int.from_bytes(key, "little")])

    def locate(self, asset: Asset) -> Path:
        """Folder that holds a data set or weight file.

        :raises MissingAsset: saying what was looked for, where, and where to get it.
        """
        if (found := self.locator(asset, self.roots)) is not None:
            return found
        looked = ", ".join(str(root) for root in self.roots) or "no data root given"
        raise MissingAsset(
            f"{asset.name} is missing: {asset.summary} ({', '.join(asset.files) or 'no files named'})",
            where=f"data roots: {looked}",
            fix=f"get it from {asset.origin} and pass --data-root DIR" if asset.origin else "pass --data-root DIR",
        )

    def say(self, text: str) -> None:
        """Something worth knowing of what was built, once in the log of the run."""
        if text not in self.said:
            self.said.append(text)

    def bad_sample(self, what: str, error: Exception | str) -> None:
        """A sample cannot be used: raise, or count it and go on, as ``--on-bad-sample`` says.

        :raises BadInput: under ``fail``.
        """
        if self.on_bad_sample != "skip":
            raise BadInput(
                f"cannot use {what}: {error}",
                where=what,
                fix="mend or remove it, or go on without it: --on-bad-sample skip",
            )
        self.skipped[what] = str(error)


@renamed(site="resources")
@frozen(kw_only=True)
class Setup:
    """What a learner is built from. A part it has no room for, or that was not chosen, is None.

    :param model: ``(fields, n_outputs) -> object`` of the learner's framework.
    :param memory: ``(fields) -> Memory``: the learner says what an example looks like; policy, codec and capacity
        are the run's. A run with a budget also asks how much is kept elsewhere: ``memory.beside(bytes, each=0)``.
    :param source: what a replay of kind ``source`` built.
    """

    stream: Stream
    resources: Resources
    model: Callable[[Mapping[str, Field], int], Any] | None = None
    memory: Callable[[Mapping[str, Field]], Memory] | None = None
    source: Any = None
