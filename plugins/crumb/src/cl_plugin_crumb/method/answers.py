"""What CRUMB answers on test images, and in the same pass the accuracies of the csv files.

Shapes: n images of a batch, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from attrs import define, field
from torch import Tensor

from cl_kernel import Samples, StreamContext
from cl_kernel.methods.seen_classes import SeenClasses
from cl_kernel.torch.loaders import Batches, input_name, label_name, to_input
from cl_kernel.torch.split import Split, split_batches
from cl_plugin_crumb.data.images import ImageFiles, styled
from cl_plugin_crumb.evaluate.records import DISTURBED, Records
from cl_plugin_crumb.network.codebook import Codebook
from cl_plugin_crumb.network.maps import perturb
from cl_plugin_crumb.settings import Crumb


@define(eq=False)
class Answers:
    """Scores from the map or its reconstruction; while :meth:`score` runs, both are tallied in ``records``."""

    options: Crumb
    network: Split
    codebook: Codebook | None
    device: torch.device
    seen: SeenClasses
    records: Records
    _test: tuple[Any, Batches] | None = field(init=False, default=None)
    _tallying: bool = field(init=False, default=False)
    _analysing: bool = field(init=False, default=False)

    def score(self, ctx: StreamContext, label: str, *, final: bool) -> None:
        """Evaluate and tally; after the last task also image by image."""
        self._tallying, self._analysing = True, self.options.analyse and final
        ctx.evaluate(label)
        self._tallying = self._analysing = False

    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """``scores`` float32 [n, K] with unseen classes at minus infinity, and ``class`` int64 [n]."""
        given = self._test_batches(samples)
        generator = torch.Generator().manual_seed(0)
        book = self.codebook
        tallied: dict[str, list[np.ndarray]] = {}
        codes: list[np.ndarray] = []
        self.network.eval()
        style = styled(samples, self.options.style) if self._analysing and self.options.style else None
        for rows, features, _ in given(np.arange(len(samples)), self.options.predict_batch):
            with torch.no_grad():
                if self.options.perturb:
                    features = perturb(features, self.options.perturb, generator)
                mem = book is not None and (self._tallying or self.options.predict == "mem")
                found = {"mem": self._masked(self.network.upper(book(features)))} if mem else {}
                if self._tallying or not found:
                    found["direct"] = self._masked(self.network.upper(features))
                if self._tallying:
                    tally = found | (self._disturbed(features, style, rows, generator) if self._analysing else {})
                    for source, scores in tally.items():
                        tallied.setdefault(source, []).append(scores)
                if self._analysing and book is not None:
                    codes.append(book.indices(features).cpu().numpy().astype(np.uint16))
            scores = found.get(self.options.predict, found.get("direct"))
            yield {"scores": scores, "class": scores.argmax(1)}
        self.network.train()
        if self._tallying:
            label = label_name(samples.spec)
            labels = samples.take(np.arange(len(samples)), [label])[label]
            whole = {source: np.concatenate(parts) for source, parts in tallied.items()}
            direct_and_mem = {source: whole.pop(source) for source in ("direct", "mem") if source in whole}
            self.records.tally(labels, direct_and_mem, self.seen.by_stage)
            self.records.last = {
                "right": direct_and_mem["direct"].argmax(1) == labels,
                "labels": labels,
                **{kind: scores.argmax(1) == labels for kind, scores in whole.items()},
            }
            if codes:
                self.records.last["codes"] = np.concatenate(codes)

    def _disturbed(
        self, features: Tensor, style: ImageFiles | None, rows: np.ndarray, generator: torch.Generator
    ) -> dict[str, np.ndarray]:
        """Scores of test images whose maps are disturbed, and of the same images in another style."""
        out = {kind: self._masked(self.network.upper(perturb(features, kind, generator))) for kind in DISTURBED}
        if style is not None:
            source = input_name(style.spec)
            images = to_input(style.take(rows, [source])[source], style.spec[source], self.device)
            out["style"] = self._masked(self.network(images))
        return out

    def _masked(self, scores: Tensor) -> np.ndarray:
        """Scores by class label; classes not seen yet are ruled out."""
        return self.seen.by_label(scores).float().cpu().numpy()

    def _test_batches(self, samples: Samples) -> Batches:
        """Test images as maps, computed once and kept for later passes over the same rows."""
        rows = getattr(samples, "rows", None)
        key = (id(getattr(samples, "base", samples)), None if rows is None else rows.tobytes())
        if self._test is None or self._test[0] != key:
            moving = self.network.lower.training or self.options.extractor_epochs
            if moving:
                made = Batches(samples, self.device, transform=self.network.features, limit=0)
            else:
                made = split_batches(self.network, samples, self.device)
            self._test = (key, made)
        return self._test[1]

    def forget(self) -> None:
        """Weights were loaded: maps computed with others are of no use."""
        self._test = None
