"""Train the whole counter-stream network on what a stage asks (the first paper), guided or not.

Shapes: B batch, K answers, A arguments.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attrs import define, field
from torch import Tensor

from cl_kernel import BadSetting, Samples, Setup, Stage
from cl_kernel.torch import device, state
from cl_plugin_butd.data.augment import Augmentation
from cl_plugin_butd.evaluate.reports import write_reports
from cl_plugin_butd.method.inputs import CHUNK, Inputs, batches, channels_last, check_instructions, in_shape
from cl_plugin_butd.method.losses import Terms, instruction_loss
from cl_plugin_butd.method.schedule import cosine_rate, cyclic_rate, is_better, warmup_factors
from cl_plugin_butd.network.counter_stream import CounterStream, Outputs
from cl_plugin_butd.network.streams import Topology
from cl_plugin_butd.weights.start import first_generation, start_from

if TYPE_CHECKING:
    from cl_kernel import StreamContext
    from cl_plugin_butd.settings import Training


def build(settings: Training, setup: Setup) -> SingleLearner:
    """The network of the stream's pictures and instructions."""
    stream, where = setup.stream, device.resolve(setup.resources.device)
    spec = stream.spec
    n_arguments = int(stream.info.get("n_arguments", [spec["argument"].n])[0])
    n_tasks = spec["task"].n or 1
    unguided = settings.placement == "NOFLAG"
    # an unguided network answers about everything at once: one output an argument and task
    n_outputs = n_arguments * n_tasks if unguided else 1
    topology = Topology(
        filters=settings.filters,
        strides=settings.strides,
        blocks=settings.blocks,
        in_shape=in_shape(stream.stages[0].train),
        instruction=n_tasks + n_arguments,
        n_occurrence=(spec["existence"].shape[0] or 0) if settings.occurrence else 0,
        outputs=[stream.n_classes] * n_outputs,
        placement=settings.placement,
        variant=settings.variant,
        bu_to_td=settings.bu_to_td,
        td_to_bu=settings.td_to_bu,
        td_image=settings.td_image,
        final_td_conv=settings.final_td_conv,
        head_layers=settings.head_layers,
        orig_relus=settings.orig_relus,
        norm=settings.norm,
        separable=settings.separable,
    )
    if settings.td_image and "drawing" not in spec:
        raise BadSetting(
            "drawing the queried object needs pictures of it",
            where="learner.td_image",
            fix="--set dataset.segmentation=true",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(setup.resources.rng("weights").integers(2**62)))
        net = CounterStream(topology).to(where)
    if settings.weights:
        known = partial(first_generation, variant=settings.variant, head_layers=settings.head_layers)
        start_from(net, settings.weights, known)
    last = channels_last(settings, where)
    if last:
        net.to(memory_format=torch.channels_last)
    inputs = Inputs(settings.normalise, where, last)
    return SingleLearner(settings, net, inputs, setup, n_tasks, n_arguments)


@define(eq=False)
class SingleLearner:
    """See the module; ``position`` is (stage, epoch, batch) of the next step."""

    settings: Training
    net: CounterStream
    inputs: Inputs
    setup: Setup
    n_tasks: int
    n_arguments: int
    optimizer: torch.optim.Optimizer = field(init=False)
    position: list[int] = field(factory=lambda: [0, 0, 0])
    curve: list[list[float]] = field(factory=list)
    run_net: Any = field(init=False)
    best: dict[str, Tensor] | None = None
    best_score: float = -1.0

    def __attrs_post_init__(self) -> None:
        s = self.settings
        if s.optimizer == "sgd":
            self.optimizer = torch.optim.SGD(self.net.parameters(), s.lr, s.momentum, weight_decay=s.weight_decay)
        else:
            self.optimizer = torch.optim.Adam(self.net.parameters(), s.lr, weight_decay=s.weight_decay)
        self.run_net = torch.compile(self.net) if s.compile else self.net

    def learn(self, stage: Stage, ctx: StreamContext) -> None:
        """Train on one stage, from wherever the position says."""
        s = self.settings
        self.inputs.fit(ctx.stages[0].train)
        if self.position[0] != stage.index:
            self.position = [stage.index, 0, 0]
        samples = stage.train
        check_instructions(samples, self.n_tasks, self.n_arguments)
        fields = self._fields(samples)
        n = len(samples)
        per_epoch = len(batches(n, s.batch_size, np.arange(n)))
        how = Augmentation(shift_x=s.augment[0], shift_y=s.augment[1], rotation=s.augment[2], add=s.augment[3])
        ctx.phase(f"{s.placement}: {stage.name}", s.epochs * per_epoch)
        self.net.train()
        for epoch in range(self.position[1], s.epochs):
            plan = batches(n, s.batch_size, ctx.rng("order", stage.index, epoch).permutation(n))
            for step in range(self.position[2] if epoch == self.position[1] else 0, per_epoch):
                batch = self.inputs.batch(samples, plan[step], fields)
                image = self.inputs.pixels(batch["image"], how, ctx.rng("augment", stage.index, epoch, step))
                self._rate(epoch * per_epoch + step, s.epochs * per_epoch, per_epoch)
                loss = self._step(image, batch).total.detach()
                last = step + 1 == per_epoch
                self.position = [stage.index, epoch + last, 0 if last else step + 1]
                if last:
                    self.curve.append([stage.index, epoch, float(loss)])
                    if s.best_of:
                        self._keep_best(ctx, epoch, last_epoch=epoch + 1 == s.epochs)
                    if epoch + 1 == s.epochs:
                        self.position = [stage.index + 1, 0, 0]
                ctx.step(loss=loss)
                if s.scores_per_epoch and (step + 1) % max(1, per_epoch // s.scores_per_epoch) == 0 and not last:
                    ctx.evaluate(f"epoch {epoch} step {step + 1}")

    def _keep_best(self, ctx: StreamContext, epoch: int, *, last_epoch: bool) -> None:
        """Remember the weights of a new best (0.01 above the last); the last epoch takes the best back."""
        scores = ctx.evaluate(f"epoch {epoch}")
        name = "iid_val" if "iid_val" in scores else next(iter(scores))
        if is_better(scores[name] or 0.0, self.best_score):
            self.best_score = float(scores[name] or 0.0)
            self.best = {k: v.detach().clone() for k, v in self.net.state_dict().items()}
        if last_epoch and self.best is not None:
            self.net.load_state_dict(self.best)
            self.best, self.best_score = None, -1.0
        self.net.train()

    def _step(self, image: Tensor, batch: dict[str, Tensor]) -> Terms:
        """One optimiser step."""
        labels, weight = self._targets(batch)
        drawing = None
        if self.settings.td_image:
            drawing = Inputs("raw", self.inputs.device).pixels(batch["drawing"])
        with self._autocast(image):
            out = self.run_net(image, self._bits(batch["task"], batch["argument"], image))
            terms = instruction_loss(
                out, labels, batch["existence"] if out.occurrence is not None else None, weight=weight, drawing=drawing
            )
        self.optimizer.zero_grad(set_to_none=True)
        terms.total.backward()
        self.optimizer.step()
        return terms

    def _autocast(self, image: Tensor) -> Any:
        if not self.settings.autocast:
            return contextlib.nullcontext()
        return torch.autocast(image.device.type, torch.bfloat16)

    def _fields(self, samples: Samples) -> tuple[str, ...]:
        extra = [
            name
            for name in ("answers", "answer_weight")
            if name in samples.spec and self.settings.placement == "NOFLAG"
        ]
        return (
            "image",
            "task",
            "argument",
            "existence",
            "class",
            *extra,
            *(["drawing"] if self.settings.td_image else []),
        )

    def _bits(self, task: Tensor, argument: Tensor, image: Tensor) -> Tensor:
        """One-hot task, then one-hot argument [B, T + A]."""
        one_hot = torch.nn.functional.one_hot
        return torch.cat([one_hot(task, self.n_tasks), one_hot(argument, self.n_arguments)], 1).to(image.dtype)

    def _targets(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Labels [B, J] and weights; an unguided network is asked about everything a picture answers."""
        if self.settings.placement != "NOFLAG":
            return batch["class"][:, None], None
        if "answers" in batch:
            return batch["answers"], batch["answer_weight"].float()
        # only the question at hand is known: its output alone counts
        n_outputs = self.n_arguments * self.n_tasks
        weight = torch.nn.functional.one_hot(batch["argument"] * self.n_tasks + batch["task"], n_outputs).float()
        return batch["class"][:, None].expand(-1, n_outputs), weight

    def _rate(self, step: int, n_steps: int, per_epoch: int) -> None:
        s = self.settings
        match s.schedule:
            case "cyclic":
                rate = cyclic_rate(step, s.lr, s.cyclic_top, max(1, per_epoch // 2))
            case "cosine":
                rate = cosine_rate(step, n_steps, s.lr)
            case _:
                rate = s.lr
        rate *= float(warmup_factors(s.warmup, s.epochs)[step // per_epoch])
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def predict(self, samples: Samples) -> Iterator[dict[str, np.ndarray]]:
        """Scores [n, K], classes and occurrence logits."""
        training = self.net.training
        self.net.eval()
        self.inputs.fit(self.setup.stream.stages[0].train)
        try:
            with torch.no_grad():
                for start in range(0, len(samples), CHUNK):
                    taken = samples.take(
                        np.arange(start, min(start + CHUNK, len(samples))), ["image", "task", "argument"]
                    )
                    where = self.inputs.device
                    task, argument = (torch.from_numpy(taken[name]).to(where) for name in ("task", "argument"))
                    image = self.inputs.pixels(torch.from_numpy(taken["image"]).to(where))
                    with self._autocast(image):
                        out = self.net(image, self._bits(task, argument, image))
                    scores = self._asked(out, task, argument).float().cpu().numpy()
                    found = {"scores": scores, "class": scores.argmax(1)}
                    if out.occurrence is not None:
                        found["occurrence"] = out.occurrence.float().cpu().numpy()
                    else:
                        found["occurrence"] = np.zeros((len(scores), samples.spec["existence"].shape[0] or 0))
                    yield found
        finally:
            self.net.train(training)

    def _asked(self, out: Outputs, task: Tensor, argument: Tensor) -> Tensor:
        """Logits of the output a question is about [B, K]."""
        if out.task is None:
            raise BadSetting("the network has no task head", where="learner.placement")
        if out.task.shape[2] == 1:
            return out.task[..., 0]
        return out.task[torch.arange(len(argument), device=argument.device), :, argument * self.n_tasks + task]

    def finish(self, ctx: StreamContext) -> None:
        """Leave pictures, confusion matrices and curves in the run folder."""
        write_reports(self, ctx, self.settings.pictures, self.curve)

    def state(self) -> dict[str, Any]:
        """Weights, statistics, optimiser, position."""
        return {
            "net": state.pack(self.net),
            "optimizer": state.pack(self.optimizer),
            "position": list(self.position),
            "curve": [list(row) for row in self.curve],
            "mean": None if self.inputs.mean is None else self.inputs.mean.copy(),
            "best": None if self.best is None else state.pack(self.best),
            "best_score": self.best_score,
        }

    def load(self, tree: dict[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        state.restore(self.net, tree["net"])
        state.restore(self.optimizer, tree["optimizer"])
        self.position = [int(v) for v in tree["position"]]
        self.curve = [list(row) for row in tree["curve"]]
        self.inputs.mean = None if tree["mean"] is None else np.asarray(tree["mean"])
        self.best = None if tree["best"] is None else state.unpack(tree["best"])
        self.best_score = float(tree["best_score"])
