"""CRUMB as a learner: the loop of steps, replay and memory, read from top to bottom in :meth:`CrumbLearner.learn`.

Shapes: B batch, C h w the map at the cut, n classes seen so far, K memory blocks.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from attrs import define, field
from torch import Tensor

from cl_kernel import (
    BadSetting,
    Memory,
    Mismatch,
    MissingAsset,
    Resources,
    Samples,
    Setup,
    Stage,
    Stream,
    StreamContext,
    Tree,
)
from cl_kernel.methods.seen_classes import SeenClasses
from cl_kernel.torch import state
from cl_kernel.torch.loaders import Batches, input_name, label_name
from cl_kernel.torch.split import Split, build_network, split_batches
from cl_plugin_crumb.data.images import styled
from cl_plugin_crumb.evaluate.records import Records
from cl_plugin_crumb.method.answers import Answers
from cl_plugin_crumb.method.losses import Weights
from cl_plugin_crumb.method.pretraining import pretrain
from cl_plugin_crumb.method.steps import step_new, step_replay
from cl_plugin_crumb.method.storage import Storage, memory_fields
from cl_plugin_crumb.network import networks
from cl_plugin_crumb.network.codebook import Codebook, statistics
from cl_plugin_crumb.network.maps import flip, resized_crops
from cl_plugin_crumb.settings import Crumb
from cl_plugin_crumb.weights import files as weight_files


def build(options: Crumb, setup: Setup) -> CrumbLearner:
    """Learner ``crumb:crumb``.

    :raises Mismatch: for a network without a cut, or a memory that does not fit the storage.
    """
    if options.pretrained:
        stem = weight_files.find_stem(options.pretrained)
        if options.start != "none":
            weight_files.check_pretraining(stem, options.pretraining, options.pretrained_as)
    elif options.start != "none" and not options.base:
        raise MissingAsset(
            f"learner.start is {options.start!r}, but there is no pretraining to take it from",
            where="learner.pretrained",
            fix="clk run --plugin crumb --test pretrain-imagenet --profile "
            "paper, then --set learner.pretrained=RUN, its folder; or --set learner.start=none",
        )
    if not options.w_out and not options.w_direct:
        raise BadSetting("both losses have weight zero", where="learner.w_out, learner.w_direct")
    if options.style:
        styled(setup.stream.test, options.style)
    network, device = build_network(setup)
    if not network.is_cut:
        raise Mismatch(
            "CRUMB replays what crosses the cut of its network, and this one has none",
            where="--model",
            fix="--model crumb:squeezenet, or model.cut=LAYER and model.frozen=true",
        )
    spec = setup.stream.spec
    memory = None
    if options.storage != "merec":
        memory = setup.memory(memory_fields(options, network, spec, device)) if setup.memory is not None else None
        if memory is None and options.replay_times:
            raise Mismatch(
                "CRUMB needs a memory", where="--replay", fix="--replay crumb:balanced+crumb:blocks --memory 417"
            )
    codebook = getattr(memory.codec, "codebook", None) if memory is not None else None
    if codebook is not None and options.storage != "feature":
        raise Mismatch(
            f"memory blocks keep maps as they are rebuilt, but learner.storage is {options.storage!r}",
            where="--replay",
            fix="--replay crumb:balanced+clk:raw",
        )
    if codebook is not None and (known := getattr(network, "map_statistics", None)) is not None:
        memory.codec.match(*known)
    if options.pretrained:
        weight_files.load_files(stem, network, codebook, options.start)
    else:
        side = networks.side_of(network, int(spec[input_name(spec)].shape[0] or 0))
        pretrain(network, memory.codec if codebook is not None else None, options, side, setup.resources)
    return CrumbLearner(
        options,
        network,
        memory,
        codebook,
        device,
        setup.stream,
        setup.resources,
        setup.resources.rng("crumb"),
        random.Random(int(setup.resources.rng("crops").integers(2**62))),
    )


@define(eq=False)
class CrumbLearner:
    """The cut network, the codebook, the memory, and where in the stream they are."""

    options: Crumb
    network: Split
    memory: Memory | None
    codebook: Codebook | None
    device: torch.device
    stream: Stream
    resources: Resources
    rng: np.random.Generator
    crops: random.Random
    seen: SeenClasses = field(factory=SeenClasses)
    epoch: int = 0
    position: int = 0
    best: Tree | None = None
    started: bool = False
    records: Records = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    storage: Storage = field(init=False)
    answers: Answers = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.records = Records(self.options)
        if self.codebook is not None:
            self.codebook.requires_grad_(not self.options.freeze_codebook)
            self.memory.codec.learning = not self.options.freeze_codebook
        self.optimizer = self._new_optimizer()
        options, network, seen = self.options, self.network, self.seen
        self.storage = Storage(options, network, self.memory, self.stream.spec, self.device, seen, self.rng)
        self.answers = Answers(options, network, self.codebook, self.device, seen, self.records)

    def _new_optimizer(self) -> torch.optim.Optimizer:
        options = self.options
        modules = [
            self.network.upper,
            *([self.codebook] if self.codebook is not None else []),
            *([self.network.lower] if options.extractor_epochs else []),
        ]
        parameters = [
            p for module in modules for p in module.parameters() if p.requires_grad or module is self.network.lower
        ]
        return torch.optim.SGD(parameters, options.lr, options.momentum, weight_decay=options.weight_decay)

    # ---- the loop -----------------------------------------------------------------------------
    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """One task: epochs over it in the stream's order, replay after every batch, the memory after every epoch."""
        options, first = self.options, stage.index == 0
        n_epochs = options.first_epochs if first else options.epochs
        last_task = stage.index == len(ctx.stages) - 1
        self.seen.extend(stage, label_name(stage.train.spec))
        labels = stage.train.take(np.arange(len(stage.train)), [label_name(stage.train.spec)])
        labels_of = labels[label_name(stage.train.spec)]
        given, lives = None, None
        n_steps = -(-len(stage.train) // options.batch_size)
        ctx.phase("stream", n_epochs * n_steps)

        while self.epoch < n_epochs:
            if lives != (first and self.epoch < options.extractor_epochs):
                lives = first and self.epoch < options.extractor_epochs
                given = self._batches(stage.train, ctx, cached=not lives)
                self.network.lower.requires_grad_(lives)
            self.network.train()
            weights = self._weights(first)
            replays = options.replay_times if not first or options.replay_in_first_task else 0
            order = self._order(stage, ctx)
            for rows, inputs, targets in given(order, options.batch_size, self.position):
                features = self.network.lower(inputs) if lives else inputs
                losses = self._new(features, self.seen.columns_of(targets), weights)
                for _ in range(replays):
                    if (replayed := self._replay(labels_of[rows], options.replay_batch or len(rows))) is not None:
                        losses["replay"] = replayed
                self._note_statistics(
                    stage.index, features, self.position == 0 or self.position + len(rows) >= len(order)
                )
                self.position += options.batch_size
                ctx.step(**losses)
            self.epoch += 1
            if not last_task and (not first or options.replay_in_first_task or self.epoch == n_epochs):
                self._remember(stage, given, lives, labels_of)
            self._end_epoch(stage, ctx, n_epochs)
            self.position = 0
        self._end_task(stage, ctx)
        self.epoch = 0

    def _new(self, features: Tensor, targets: Tensor, weights: Weights) -> dict[str, Tensor]:
        """One step on a new batch; with crops on, the codebook sees cropped and re-quantised reconstructions."""
        book = self.codebook
        if book is not None and book.waits:
            book.indices(features.detach())
        self._keep_start()
        rebuilt = self._cropped if book is not None and self.options.crop else book
        return step_new(self.network.upper, rebuilt, self.optimizer, features, targets, len(self.seen), weights)

    def _keep_start(self) -> None:
        """``CRUMB_run<r>_start_mem.pth``: the codebook before its first step."""
        if self.started or self.codebook is None:
            return
        self.started = True
        if self.resources.folder is not None and self.options.write_tables:
            place = self.records.folder(self.resources.folder, self.stream, self.resources.seed)
            weight_files.save_blocks(place / f"CRUMB_run{self.resources.seed}_start", self.codebook)

    def _cropped(self, features: Tensor) -> Tensor:
        return self.codebook(resized_crops(self.codebook(features), self.crops).detach())

    def _replay(self, new_labels: np.ndarray, batch_size: int) -> Tensor | None:
        """One replay step: class-balanced over classes seen, not in the current batch, and remembered."""
        options = self.options
        drawn = self.storage.draw(set(new_labels.tolist()), batch_size)
        if drawn is None or not options.replay_coef:
            return None
        maps, labels = drawn
        if options.crop:
            maps = resized_crops(maps, self.crops)
            maps = maps if self.codebook is None else self.codebook(maps.detach())
        if options.flip:
            maps = flip(maps, self.crops, axis=3 if options.flip_axis == "width" else 2)
        return step_replay(
            self.network.upper, self.optimizer, maps, self.seen.columns_of(labels), len(self.seen), options.replay_coef
        )

    # ---- memory -------------------------------------------------------------------------------
    def _remember(self, stage: Stage, given: Batches, lives: bool, labels_of: np.ndarray) -> None:
        """Offer the task to the memory, batch by batch in stream order, in evaluation mode."""
        options = self.options
        if not options.replay_times or (self.memory is None and options.storage != "merec"):
            return
        size = options.batch_size
        order = np.arange(len(stage.train))
        policy = None if self.memory is None else self.memory.policy
        if hasattr(policy, "begin"):
            policy.begin(self.seen.order, -(-len(order) // size), size)
        self.network.eval()
        for rows, inputs, _ in given(order, size):
            with torch.no_grad():
                features = self.network.lower(inputs) if lives else inputs
            self.storage.keep(stage.train, rows, labels_of[rows], features)
            if getattr(policy, "full", False):
                break
        self.network.train()

    # ---- epochs and tasks ---------------------------------------------------------------------
    def _weights(self, first: bool) -> Weights:
        options = self.options
        if self.codebook is None:
            return Weights(0.0, 1.0)
        if first and self.epoch < options.pretraining_epochs:
            return Weights(options.pretrain_w_out, options.pretrain_w_direct)
        return Weights(options.w_out, options.w_direct)

    def _order(self, stage: Stage, ctx: StreamContext) -> np.ndarray:
        n = len(stage.train)
        return ctx.rng("order", stage.index, self.epoch).permutation(n) if self.options.shuffle else np.arange(n)

    def _batches(self, samples: Samples, ctx: StreamContext, *, cached: bool = True) -> Batches:
        """Batches of maps; for samples in memory the maps are computed once for all epochs."""
        following = self.network.lower.training  # batch norm of the frozen part follows the data: nothing to cache
        if self.options.extractor_epochs:
            self.network.sharing = None  # an extractor of this run alone
        if cached and not following:
            return split_batches(self.network, samples, self.device, ctx.bad_sample, max(1, ctx.resources.n_workers))
        return Batches(
            samples,
            self.device,
            transform=self.network.features if cached else None,
            on_bad=ctx.bad_sample,
            n_workers=max(1, ctx.resources.n_workers),
            limit=0 if following else 1 << 30,
        )

    def _end_epoch(self, stage: Stage, ctx: StreamContext, n_epochs: int) -> None:
        options = self.options
        for group in self.optimizer.param_groups:
            group["lr"] = (
                max(options.lr_min, group["lr"] - options.lr_decrement) if options.lr_decrement else group["lr"]
            )
        keeps = options.keep_best == "every" or (options.keep_best == "first" and stage.index == 0)
        if options.save_every_epoch and self.resources.folder is not None:
            name = f"CRUMB_run{ctx.seed}_task{stage.index}_epoch{self.epoch - 1}"
            place = self.records.folder(self.resources.folder, self.stream, ctx.seed)
            weight_files.save_files(place / name, self.network, self.codebook)
        if not options.write_tables and not keeps:
            return
        last = self.epoch == n_epochs
        self.answers.score(
            ctx, f"task {stage.index} epoch {self.epoch}", final=last and stage.index == len(ctx.stages) - 1
        )
        self.records.end_epoch(stage.index)
        if not keeps:
            return
        scores = self.records.scores
        chosen = scores[options.best_by]["val_all" if options.validate else "test_all"][0]
        if self.best is None or chosen > self.best["accuracy"]:
            self.best = {
                "accuracy": chosen,
                "epoch": self.epoch,
                "network": state.pack(self.network),
                "codebook": None if self.codebook is None else state.pack(self.codebook),
            }
        if last and self.best["epoch"] < n_epochs:
            state.restore(self.network, self.best["network"])
            if self.codebook is not None:
                state.restore(self.codebook, self.best["codebook"])
            if stage.index == len(ctx.stages) - 1:
                self.answers.score(ctx, f"task {stage.index}, its best epoch", final=True)

    def _end_task(self, stage: Stage, ctx: StreamContext) -> None:
        self.records.end_task(stage.index, -1 if self.best is None else self.best["epoch"] - 1)
        if self.best is not None:
            ctx.note(
                f"task {stage.index}: took epoch {self.best['epoch']} by its accuracy on "
                f"{'held-out' if self.options.validate else 'TEST'} data",
                accuracy=self.best["accuracy"],
            )
        self.best = None
        if self.resources.folder is not None and self.options.write_tables:
            if stage.index < len(ctx.stages) - 1:
                self.records.last = {}
            place = self.records.folder(self.resources.folder, self.stream, ctx.seed)
            n_blocks = 0 if self.codebook is None else len(self.codebook.blocks)
            stored = self.memory.bytes_used if self.memory else 0
            self.records.write(place, ctx.seed, stored, n_blocks, self.stream.n_classes)
            stem = place / f"CRUMB_run{ctx.seed}"
            weight_files.save_files(stem, self.network, self.codebook)
            weight_files.save_pretraining(stem, self.options.pretraining)

    def _note_statistics(self, task: int, features: Tensor, wanted: bool) -> None:
        if wanted and self.options.write_tables and self.codebook is not None:
            with torch.no_grad():
                row = statistics(self.codebook.blocks, features, self.codebook(features))
            self.records.stats.append({"run": 0, "task": task, "epoch": self.epoch, **row})

    # ---- seam ---------------------------------------------------------------------------------
    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """``scores`` float32 [n, K] with unseen classes at minus infinity, and ``class`` int64 [n]."""
        return self.answers.predict(samples)

    def state(self) -> Tree:
        """Weights, codebook, momentum, memory, generators and the position in the stream."""
        return {
            "network": state.pack(self.network),
            "optimizer": state.pack(self.optimizer),
            **self.storage.state(),
            "rng": state.pack(self.rng),
            "crops": state.pack(self.crops),
            "generators": state.pack_generators(),
            "seen": self.seen.state(),
            "epoch": self.epoch,
            "position": self.position,
            "history": copy.deepcopy(self.records.state()),
            "best": self.best,
        }

    def load(self, tree: Tree) -> None:
        """Take over what :meth:`state` gave."""
        state.restore(self.network, tree["network"])
        self.storage.load(tree)
        state.restore(self.optimizer, tree["optimizer"])
        state.restore(self.rng, tree["rng"])
        state.restore(self.crops, tree["crops"])
        state.restore_generators(tree["generators"])
        self.seen.load(tree["seen"])
        self.epoch, self.position = int(tree["epoch"]), int(tree["position"])
        self.started = bool(self.epoch or self.position or len(self.seen))
        self.records.load(copy.deepcopy(tree["history"]))
        self.best = tree["best"]
        self.answers.forget()
