"""The continual learner: a stream of instructions, each stage adding one, and every baseline on the same network.

Shapes: B batch, K answers, T tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from attrs import define, field
from torch import Tensor

from cl_kernel import Artefact, BadInput, BadSetting, Samples, Setup, Stage, Stream, counted
from cl_kernel.torch import device, state
from cl_plugin_butd.data.augment import Augmentation
from cl_plugin_butd.evaluate.composition import check_chain, check_compound, write_composition, write_compound
from cl_plugin_butd.evaluate.looking import Looked, looked
from cl_plugin_butd.evaluate.reports import write_price, write_promise, write_reports
from cl_plugin_butd.method.baselines import Keeper
from cl_plugin_butd.method.growing import grown
from cl_plugin_butd.method.inputs import (
    CHUNK,
    Inputs,
    batches,
    channels_last,
    check_instructions,
    in_shape,
    inside,
    task_of,
)
from cl_plugin_butd.method.losses import IMAGE_WEIGHT
from cl_plugin_butd.method.promise import Promise
from cl_plugin_butd.method.schedule import cosine_rate, step_rate
from cl_plugin_butd.network.continual import ContinualCounterStream, ModulationSpec, TaskSpec
from cl_plugin_butd.network.one_task import OneTask, check_network, check_shapes, put, read_task
from cl_plugin_butd.network.streams import Topology
from cl_plugin_butd.weights.start import continual, numbered, start_from

if TYPE_CHECKING:
    from cl_kernel import StreamContext
    from cl_plugin_butd.settings import Continual

FIELDS = ("image", "task", "argument", "existence", "class")
OWN_PARTS = ("modulation", "masks", "classifier")
"""Methods whose later tasks leave the shared weights alone."""
BASE = "butd-base"
IMPORTED = "learner.imported"
GREY = 255.0
EACH = 4
"""Steps from one to the next in which a head that only looks on learns to draw."""


def build(settings: Continual, setup: Setup) -> ContinualLearner:
    """A network with room for every task of the stream, and the method's memory of earlier ones."""
    stream = setup.stream
    if settings.placement != "TD":
        raise BadSetting(
            f"a stream of instructions enters at the top-down network, not at {settings.placement}",
            where="learner.placement",
            fix="leave learner.placement=TD, or use --learner butd:counter-stream",
        )
    where = device.resolve(setup.resources.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(setup.resources.rng("weights").integers(2**62)))
        net = network(settings, stream).to(where)
    if settings.weights:
        languages = [task.language for task in net.tasks]
        heads = numbered([stage.info["direction"] for stage in stream.stages], languages)
        start_from(net, settings.weights, partial(continual, heads=heads))
    last = channels_last(settings, where)
    if last:
        net.to(memory_format=torch.channels_last)
    if settings.compose:
        check_chain(stream, settings.compose)
    if settings.compound:
        check_compound(stream, settings.compound)
    keeper = Keeper(settings.method, net, settings.alpha, settings.walk_period, settings.temperature)
    inputs = Inputs(settings.normalise, where, last)
    learner = ContinualLearner(settings, net, inputs, keeper, setup, state.pack(net.base()))
    learner.optimizer = learner.new_optimizer(0)
    learner.imported = imported_tasks(settings, net, stream)
    return learner


def imported_tasks(settings: Continual, net: ContinualCounterStream, stream: Stream) -> dict[str, OneTask]:
    """Tasks that are taken over from files, by stage.

    :raises BadInput: for a file given twice, of no stage to come, or that does not fit the network.
    """
    found: dict[str, OneTask] = {}
    if settings.imported and settings.method not in OWN_PARTS:
        raise BadSetting(f"{settings.method} keeps no task apart: nothing can be imported", where=IMPORTED)
    for file in settings.imported:
        one = read_task(Path(file).expanduser())
        stage = next((s for s in stream.stages[1:] if list(s.info["direction"]) == list(one.direction)), None)
        if stage is None:
            raise BadInput(
                f"no later stage asks what task {one.name!r} answers", where=file, fix="add its direction to the stream"
            )
        if stage.name in found:
            raise BadInput(f"task {stage.name!r} is given twice", where=file, fix="give each task one file")
        check_shapes(net, task_of(stage), one, file)
        found[stage.name] = one
    return found


def network(settings: Continual, stream: Stream) -> ContinualCounterStream:
    """The network of a stream of instructions.

    :raises BadInput: when the stream does not say what its instructions are.
    """
    spec = stream.spec
    for name in FIELDS:
        if name not in spec:
            raise BadInput(
                f"the stream has no field {name!r}",
                where=f"data set {stream.name!r}",
                fix="use a stream of task image + instruction -> class",
            )
    topology = Topology(
        filters=settings.filters,
        strides=settings.strides,
        blocks=settings.blocks,
        in_shape=in_shape(stream.stages[0].train),
        n_occurrence=spec["existence"].shape[0] or 0,
        variant=settings.variant,
        bu_to_td=settings.bu_to_td,
        td_to_bu=settings.td_to_bu,
        td_image=settings.draws or settings.td_image,
        final_td_conv=settings.final_td_conv,
        head_layers=settings.head_layers,
        orig_relus=settings.orig_relus,
        norm=settings.norm,
        separable=settings.separable,
    )
    languages = stream.info.get("languages", [0] * len(stream.stages))
    n_arguments = stream.info.get("n_arguments", [spec["argument"].n])
    answers = stream.info.get("n_answers", [stream.n_classes] * len(stream.stages))
    kind = {"modulation": settings.modulation, "masks": "mask"}.get(settings.method, "none")
    init = 1.0 if settings.init_one and kind == "weight-mul" else None
    # a modulation that starts as the identity adds nothing to a first task that trains every filter
    first = kind == "act" or (kind == "weight-mul" and init is None)
    return ContinualCounterStream(
        topology,
        [TaskSpec(n_classes=int(n), language=int(lang)) for n, lang in zip(answers, languages, strict=True)],
        [int(n) for n in n_arguments],
        ModulationSpec(kind=kind, factor=settings.factor, init=init, first=first),
        top=settings.top,
    )


@define
class Asked:
    """Questions put together on the spot."""

    image: np.ndarray
    task: np.ndarray
    argument: np.ndarray
    spec: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.task)

    def take(self, rows: np.ndarray, fields: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """A batch."""
        return {name: getattr(self, name)[rows] for name in fields or ("image", "task", "argument")}


@define(eq=False)
class ContinualLearner:
    """See the module; ``position`` is (stage, epoch, batch) of the next step.

    :param start: weights that the first task starts from, packed; they tell shared first networks apart.
    """

    settings: Continual
    net: ContinualCounterStream
    inputs: Inputs
    keeper: Keeper
    setup: Setup
    start: dict[str, Any]
    optimizer: torch.optim.Optimizer = field(init=False)
    promise: Promise = field(factory=Promise)
    imported: dict[str, OneTask] = field(factory=dict)
    position: list[int] = field(factory=lambda: [0, 0, 0])
    curve: list[list[float]] = field(factory=list)

    # ---- learning -----------------------------------------------------------------------------------
    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """Train one direction, from wherever the position says."""
        s, task = self.settings, task_of(stage)
        self.inputs.fit(ctx.stages[0].train)
        check_instructions(stage.train, len(self.net.tasks), max(self.net.n_arguments))
        if self.position[0] != stage.index or self.position[1:] == [0, 0]:
            self.position = [stage.index, 0, 0]
            self.optimizer = self.new_optimizer(task)
            self.keeper.begin()
        if stage.name in self.imported:
            self._import(stage, ctx)
            return
        if stage.index or not s.reuse or self.keeper.needs_plain_gradient():
            self._train(stage, ctx)
            return
        base = self._base(stage, ctx)
        if self.position == [0, 0, 0] and (folder := base.found()) is not None:
            self._take(folder, stage, ctx)
            return
        with base.claimed():
            if self.position == [0, 0, 0] and (folder := base.found()) is not None:
                self._take(folder, stage, ctx)
            else:
                self._train(stage, ctx, base)

    def _import(self, stage: Stage, ctx: StreamContext) -> None:
        """Take over a task that another run learnt; every bit of it answers here as it did there."""
        one = self.imported[stage.name]
        ctx.phase(f"imported: {stage.name}")
        check_network(self.net, one, IMPORTED)
        put(self.net, task_of(stage), one)
        self.promise.check(self.setup.stream, stage.index + 1, self._scores, str(self.inputs.device))
        self.position = [stage.index + 1, 0, 0]

    def _train(self, stage: Stage, ctx: StreamContext, base: Artefact | None = None) -> None:
        """The steps of a stage that are left.

        :param base: where the first task's network goes for others that start from it.
        """
        s, sources = self.settings, self._sources(stage, ctx)
        epochs = s.epochs if stage.index == 0 else s.later_epochs
        per_epoch = sum(len(batches(len(t), s.batch_size, np.arange(len(t)))) for _, t in sources)
        ctx.phase(f"{s.method}: {stage.name}", epochs * per_epoch)
        learn = [p for p in self.net.parameters() if p.requires_grad]
        self.net.train()
        for epoch in range(self.position[1], epochs):
            plan = self._epoch(sources, ctx.rng("order", stage.index, epoch))
            for step in range(self.position[2] if epoch == self.position[1] else 0, len(plan)):
                number, samples, rows = plan[step]
                self._rate(epoch * per_epoch + step, epochs * per_epoch, epoch, stage.index)
                loss = self._step(self._batch(samples, rows, ctx, (stage.index, epoch, step)), number, learn)
                last = step + 1 == len(plan)
                self.position = [stage.index, epoch + last, 0 if last else step + 1]
                if last:
                    self.curve.append([stage.index, epoch, float(loss)])
                if last and epoch + 1 == epochs:
                    if base is not None:
                        base.make(self._save_base)
                    self._close(stage, sources)
                    self.position = [stage.index + 1, 0, 0]
                ctx.step(loss=loss)

    def _batch(
        self, samples: Samples, rows: np.ndarray, ctx: StreamContext, at: tuple[int, int, int]
    ) -> dict[str, Tensor]:
        """Questions of a step, pictures augmented; ``drawing`` is the queried object alone, where it is learnt."""
        s = self.settings
        how = Augmentation(shift_x=s.augment[0], shift_y=s.augment[1], rotation=s.augment[2], add=s.augment[3])
        draws = self.net.net.image is not None and "box" in samples.spec
        batch = self.inputs.batch(samples, rows, (*FIELDS, "box") if draws else FIELDS)
        learns = draws and (s.td_image or at[2] % EACH == 0) and next(self.net.net.image.parameters()).requires_grad
        if learns:
            alone = inside(batch["image"], batch["box"])
            batch["drawing"] = Inputs("raw", self.inputs.device).pixels(alone, how, ctx.rng("augment", *at))
        batch["image"] = self.inputs.pixels(batch["image"], how, ctx.rng("augment", *at))
        return batch

    def _base(self, stage: Stage, ctx: StreamContext) -> Artefact:
        """The first task's network, told by all that it depends on."""
        return ctx.artefact(
            BASE,
            revision=3,
            settings=counted(self.settings, "first task"),
            stage=stage,
            weights=self.start,
            seed=ctx.seed,
            device=self.inputs.device.type,
            threads=torch.get_num_threads(),
            torch=torch.__version__,
        )

    def _take(self, folder: Path, stage: Stage, ctx: StreamContext) -> None:
        """Start from a network that another run left; the first stage is over."""
        values = state.read_weights(folder / "base.pth")
        self.curve = [[int(at), int(epoch), loss] for at, epoch, loss in values.pop("curve").tolist()]
        self.net.load_state_dict(values, strict=False)
        self._close(stage, self._sources(stage, ctx))
        self.position = [1, 0, 0]

    def _save_base(self, folder: Path) -> None:
        torch.save({**self.net.base(), "curve": torch.tensor(self.curve, dtype=torch.float64)}, folder / "base.pth")

    def _step(self, batch: dict[str, Tensor], task: int, learn: list[Tensor]) -> Tensor:
        """One optimiser step on one task's batch: the convex mix of task loss and penalty."""
        image = batch["image"]
        run = self.net.answer(image, batch["argument"], task)
        loss = F.cross_entropy(run["task"], batch["class"])
        if "drawing" in batch:
            if self.settings.td_image:
                loss = loss + IMAGE_WEIGHT * F.mse_loss(self._drawn(run["td"], image), batch["drawing"])
            else:
                loss = loss + F.mse_loss(self._drawn(run["td"].detach(), image) / GREY, batch["drawing"] / GREY)
        if run["occurrence"] is not None and run["occurrence"].requires_grad:
            loss = loss + F.binary_cross_entropy_with_logits(run["occurrence"], batch["existence"].float())
        penalty = None
        if self.settings.strength:
            penalty = self.keeper.penalty((image, batch["argument"], batch["class"]), task)
        gradients: dict[str, Tensor] = {}
        self.optimizer.zero_grad(set_to_none=True)
        if self.keeper.needs_plain_gradient():
            loss.backward()
            gradients = {n: p.grad.detach().clone() for n, p in self.keeper.weights().items() if p.grad is not None}
            if penalty is not None:
                for p in learn:
                    if p.grad is not None:
                        p.grad.mul_(1 - self.settings.strength)
                (self.settings.strength * penalty).backward()
        else:
            total = loss
            if penalty is not None:
                weight = self.settings.strength
                scaled = (
                    weight * penalty if self.settings.compat and self.settings.method in ("lwf", "lfl") else penalty
                )
                total = weight * scaled + (1 - weight) * loss
            total.backward()
        before = self.keeper.before_step(gradients) if gradients else None
        self.optimizer.step()
        if gradients:
            self.keeper.after_step(gradients, before)
        return loss.detach()

    def _drawn(self, td: Tensor, image: Tensor) -> Tensor:
        """The queried object as the image head draws it, 0..255 (the head itself counts in whites)."""
        return GREY * self.net.net.image(td, image.shape[-2:])

    def _close(self, stage: Stage, sources: list[tuple[int, Samples]]) -> None:
        """The stage is learnt: keep its statistics and what the method remembers."""
        samples, task = sources[-1][1], task_of(stage)
        if self.settings.method == "joint":
            self._statistics(sources)
        else:
            self.net.store_statistics(task)

        def again() -> Iterable[tuple[Tensor, Tensor, Tensor]]:
            for rows in batches(len(samples), self.settings.batch_size, np.arange(len(samples))):
                batch = self.inputs.batch(samples, rows, FIELDS)
                yield self.inputs.pixels(batch["image"]), batch["argument"], batch["class"]

        self.keeper.end(again, task)
        self.promise.check(self.setup.stream, stage.index + 1, self._scores, str(self.inputs.device))

    def _scores(self, samples: Samples) -> np.ndarray:
        """Logits of samples in order, float32 [n, K]."""
        return np.concatenate([out["scores"] for out in self.predict(samples)])

    def _statistics(self, sources: list[tuple[int, Samples]]) -> None:
        """Statistics of each task alone, after training on all of them mixed."""
        self.net.train()
        with torch.no_grad():
            for task, samples in sources:
                for rows in batches(len(samples), self.settings.batch_size, np.arange(len(samples)))[:60]:
                    batch = self.inputs.batch(samples, rows, FIELDS)
                    self.net.answer(self.inputs.pixels(batch["image"]), batch["argument"], task)
                self.net.store_statistics(task)

    def _sources(self, stage: Stage, ctx: StreamContext) -> list[tuple[int, Samples]]:
        """What a stage trains on: its own samples, or every stage's so far for the joint upper bound."""
        if self.settings.method != "joint":
            return [(task_of(stage), stage.train)]
        return [(task_of(s), s.train) for s in ctx.stages[: stage.index + 1]]

    def _epoch(
        self, sources: list[tuple[int, Samples]], rng: np.random.Generator
    ) -> list[tuple[int, Samples, np.ndarray]]:
        """Batches of one epoch, each of one task, in a shuffled order."""
        plan = [
            (task, samples, rows)
            for task, samples in sources
            for rows in batches(len(samples), self.settings.batch_size, rng.permutation(len(samples)))
        ]
        return plan if len(sources) == 1 else [plan[i] for i in rng.permutation(len(plan))]

    def _rate(self, step: int, n_steps: int, epoch: int, stage: int) -> None:
        s = self.settings
        top = s.lr if stage == 0 or s.method not in OWN_PARTS else s.later_lr
        match s.schedule:
            case "cosine":
                rate = cosine_rate(step, n_steps, top)
            case "step":
                rate = step_rate(epoch, top, s.step_every, 0.5)
            case _:
                rate = top
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def new_optimizer(self, task: int) -> torch.optim.Optimizer:
        """Choose what a task may change, and a fresh Adam for it."""
        s = self.settings
        # every head with outputs of its own that an earlier task reads stays as it is
        mine = {id(p) for p in self.net.owned(task, train_argument=s.train_argument)}
        if s.method == "joint":
            mine = {id(p) for t in range(task + 1) for p in self.net.owned(t)}
        shared = {id(p) for p in self.net.shared().values()}
        for p in self.net.parameters():
            p.requires_grad_(id(p) in mine or (id(p) in shared and (task == 0 or s.method not in OWN_PARTS)))
        return torch.optim.Adam(
            [p for p in self.net.parameters() if p.requires_grad], s.lr, weight_decay=s.weight_decay, foreach=True
        )

    # ---- predicting ---------------------------------------------------------------------------------
    def predict(self, samples: Samples) -> Iterator[dict[str, np.ndarray]]:
        """Scores [n, K], classes and occurrence logits; every sample is answered by its own task's parameters."""
        check_instructions(samples, len(self.net.tasks), max(self.net.n_arguments))
        training = self.net.training
        self.net.eval()
        self.inputs.fit(self.setup.stream.stages[0].train)
        try:
            with torch.no_grad():
                for start in range(0, len(samples), CHUNK):
                    rows = np.arange(start, min(start + CHUNK, len(samples)))
                    taken = samples.take(rows, ["image", "task", "argument"])
                    image = torch.from_numpy(taken["image"]).to(self.inputs.device)
                    out = self.net(
                        self.inputs.pixels(image),
                        *(torch.from_numpy(taken[name]).to(self.inputs.device) for name in ("task", "argument")),
                    )
                    scores = out["task"].float().cpu().numpy()
                    yield {
                        "scores": scores,
                        "class": scores.argmax(1),
                        "occurrence": out["occurrence"].float().cpu().numpy(),
                    }
        finally:
            self.net.train(training)

    def finish(self, ctx: StreamContext) -> None:
        """Leave pictures, confusion matrices and curves in the run folder."""
        write_reports(self, ctx, self.settings.pictures, self.curve)
        write_promise(ctx, self.promise.report([s.name for s in ctx.stages]), self.settings.method in OWN_PARTS)
        write_price(ctx, self.price())
        if self.settings.compose:
            write_composition(self, ctx, self.settings.compose)
        if self.settings.compound:
            write_compound(self, ctx, self.settings.compound)

    def price(self) -> dict[str, Any]:
        """Bytes and parameters: what is shared, what each task adds, what the method remembers of earlier tasks."""
        shared = sum(p.numel() for p in self.net.shared().values())
        tasks = [self.net.price(t, train_argument=self.settings.train_argument) for t in range(len(self.net.tasks))]
        kept = [v for named in self.keeper.tensors().values() for v in named.values()]
        return {
            "shared": {"parameters": shared, "bytes": 4 * shared},
            "tasks": {stage.name: part for stage, part in zip(self.setup.stream.stages, tasks, strict=True)},
            "method": {"bytes": sum(v.numel() * v.element_size() for v in kept)},
        }

    def cost(self) -> dict[str, Any]:
        """What the results say beside seconds: bytes that the last task added, bytes that the method remembers."""
        price = self.price()
        last = list(price["tasks"].values())[-1]
        return {
            "bytes_per_task": sum(part["bytes"] for part in last.values()),
            "parameters_per_task": sum(part["parameters"] for part in last.values()),
            "method_bytes": price["method"]["bytes"],
        }

    def look(self, image: np.ndarray, task: int, argument: np.ndarray) -> Looked:
        """What the top-down network shows of questions of one task."""
        self.net.eval()
        where = self.inputs.device
        with torch.no_grad():
            x = self.inputs.pixels(torch.from_numpy(np.ascontiguousarray(image)).to(where))

            def ask(about: Tensor) -> dict[str, Any]:
                run = self.net.answer(x, about, task)
                return {**run, "drawn": None if self.net.net.image is None else self._drawn(run["td"], x)}

            n_arguments = self.net.n_arguments[self.net.tasks[task].language]
            return looked(ask, torch.from_numpy(argument).to(where), n_arguments)

    def classes(self, image: np.ndarray, task: np.ndarray, argument: np.ndarray) -> np.ndarray:
        """Answers to questions about pictures, int64 [n]."""
        questions = Asked(image, task, argument, self.setup.stream.test.spec)
        return np.concatenate([out["class"] for out in self.predict(questions)])

    def compound(self, image: np.ndarray, argument: np.ndarray, tasks: Sequence[int]) -> np.ndarray:
        """A compound instruction: several tasks of one argument at once, int64 [n, len(tasks)]."""
        return np.stack([self.classes(image, np.full(len(image), t, np.int64), argument) for t in tasks], 1)

    # ---- checkpoint ---------------------------------------------------------------------------------
    def state(self) -> dict[str, Any]:
        """Weights, statistics, optimiser, the method's memory and the position."""
        return {
            "net": state.pack(self.net),
            "optimizer": state.pack(self.optimizer),
            "keeper": state.pack(self.keeper.tensors()),
            "n_tasks": self.keeper.n_tasks,
            "position": list(self.position),
            "curve": [list(row) for row in self.curve],
            "mean": None if self.inputs.mean is None else self.inputs.mean.copy(),
            "promise": self.promise.state(),
        }

    def load(self, tree: dict[str, Any]) -> None:
        """Restore what :meth:`state` gave."""
        if "promise" in tree:
            self.promise.load(tree["promise"])
        self.position = [int(v) for v in tree["position"]]
        self.curve = [list(row) for row in tree["curve"]]
        state.restore(self.net, grown(tree["net"], state.pack(self.net)))
        stage, epoch, step = self.position
        last = len(self.setup.stream.stages) - 1
        at = min(stage, last) if [epoch, step] != [0, 0] or stage == 0 else min(stage - 1, last)
        self.optimizer = self.new_optimizer(task_of(self.setup.stream.stages[at]))
        state.restore(self.optimizer, tree["optimizer"])
        self.inputs.mean = None if tree["mean"] is None else np.asarray(tree["mean"])
        tensors = {
            slot: {k: v.to(self.inputs.device) for k, v in named.items()}
            for slot, named in state.unpack(tree["keeper"]).items()
        }
        self.keeper.load(tensors, int(tree["n_tasks"]))
        if stage or epoch or step:
            for name, one in self.imported.items():
                check_network(self.net, one, f"{IMPORTED}, {name}")
