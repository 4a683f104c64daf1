"""What the methods share: settings of the steps, and the network, memory and position that their state consists of.

A method derives from :class:`Training` and writes its own loop over ``self.epochs(...)`` and ``self.steps(...)``.

Shapes: B batch, K classes of the stream.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import attrs
import numpy as np
from attrs import field, frozen, validators

from cl_kernel.contract.errors import BadCheckpoint, Mismatch
from cl_kernel.contract.offers import doc
from cl_kernel.methods.lazy import torch
from cl_kernel.methods.seen_classes import SeenClasses, check_tasks

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cl_kernel.contract.interfaces import Samples, Tree
    from cl_kernel.contract.stream import Field, Stage
    from cl_kernel.memory import Memory
    from cl_kernel.running.loop import StreamContext
    from cl_kernel.running.resources import Setup
    from cl_kernel.torch.loaders import Batches
    from cl_kernel.torch.split import Split

Validator = Callable[[Any, "attrs.Attribute[Any]", Any], Any]
positive: Validator = validators.gt(0)
not_negative: Validator = validators.ge(0)
share: Validator = validators.and_(validators.ge(0), validators.le(1))


@frozen(kw_only=True)
class Reading:
    """How samples are read.

    ``ONE_PASS``: settings under which a method sees each sample of a stage once.
    """

    ONE_PASS: ClassVar[Mapping[str, Any]] = {}

    batch_size: int = field(default=32, validator=positive, metadata=doc("new examples a step"))
    predict_batch: int = field(
        default=256,
        validator=positive,
        metadata=doc("examples a prediction step", harmless="each example is predicted by itself"),
    )


@frozen(kw_only=True)
class Optimiser(Reading):
    """Optimiser and steps."""

    ONE_PASS: ClassVar[Mapping[str, Any]] = {"epochs": 1}

    lr: float = field(default=0.1, validator=positive, metadata=doc("learning rate"))
    momentum: float = field(
        default=0.0, validator=not_negative, metadata=doc("momentum of SGD", when={"optimizer": "sgd"})
    )
    weight_decay: float = field(default=0.0, validator=not_negative, metadata=doc("weight decay"))
    optimizer: str = field(
        default="sgd", validator=validators.in_(("sgd", "adam", "adamw")), metadata=doc("sgd, adam or adamw")
    )
    epochs: int = field(default=1, validator=positive, metadata=doc("passes over a stage"))


@frozen(kw_only=True)
class Steps(Optimiser):
    """What every method of this library has."""

    ONE_PASS: ClassVar[Mapping[str, Any]] = {"epochs": 1, "first_epochs": 0}

    first_epochs: int = field(
        default=0, validator=not_negative, metadata=doc("passes over the first stage; 0: as over the others")
    )
    shuffle: bool = field(default=True, metadata=doc("shuffle a stage; False keeps the stream's order"))


@frozen(kw_only=True)
class Remembering(Steps):
    """Methods that keep examples."""

    keep: str = field(
        default="features",
        validator=validators.in_(("sample", "features")),
        metadata=doc(
            "what is remembered: the samples themselves, or what crosses the cut of a cut network",
            when={"model.cut": True},
        ),
    )


BOOKKEEPING = ("rng", "sets", "bias", "branched", "old_branched")
"""Of what a method keeps: generators, slot numbers and flags, which grow with nothing."""
WORDS = {
    "old": "old network",
    "own": "parts of tasks",
    "owner": "owners of weights",
    "keeper": "importances",
    "kept": "consolidated scores",
}
VARIANTS = ("paper", "crumb")


def variant(what_crumb_does: str, *more: str, text: str = "", unseen: str = "") -> str:
    """A setting that chooses between the paper's method and what CRUMB's comparison ran.

    :param unseen: why a short run cannot tell them apart.
    """
    chosen: str = field(
        default="paper",
        validator=validators.in_((*VARIANTS, *more)),
        metadata=doc(f"paper; crumb, as in CRUMB's comparison: {what_crumb_does}{text}", unseen=unseen),
    )
    return chosen


HEADS = ("one", "task")


def heads() -> str:
    """A setting that says whether a task's label is known."""
    chosen: str = field(
        default="one",
        validator=validators.in_(HEADS),
        metadata=doc(
            "one: each loss is among all classes seen; task: among the classes of the example's own task, as with a "
            "score layer a task (multi-head), for tests that tell the task"
        ),
    )
    return chosen


S = TypeVar("S", bound=Steps, covariant=True)
AnySettings = TypeVar("AnySettings", bound=Reading)


def with_defaults(settings: type[AnySettings], name: str, **defaults: Any) -> type[AnySettings]:
    """The same settings with other defaults, for a plugin whose paper used a method in its own way.

    >>> with_defaults(Steps, "Slow", lr=1e-4)().lr
    0.0001

    :raises TypeError: for a name that is no setting.
    """
    known = attrs.fields_dict(settings)
    if unknown := sorted(set(defaults) - set(known)):
        raise TypeError(f"{settings.__qualname__} has no {', '.join(unknown)}")
    changed = {
        key: field(
            default=value,
            validator=known[key].validator,
            converter=known[key].converter,
            metadata=known[key].metadata,
            type=known[key].type,
        )
        for key, value in defaults.items()
    }
    made: type[AnySettings] = attrs.make_class(name, changed, bases=(settings,), frozen=True, kw_only=True, slots=True)
    made.__doc__, made.__module__ = settings.__doc__, settings.__module__
    return made


def make_optimizer(network: nn.Module, settings: Optimiser, *, nesterov: bool = False) -> torch.optim.Optimizer:
    """The optimiser of everything that learns, as the settings say."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, settings.lr, weight_decay=settings.weight_decay)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, settings.lr, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        parameters, settings.lr, settings.momentum, weight_decay=settings.weight_decay, nesterov=nesterov
    )


def frozen_copy(network: nn.Module) -> nn.Module:
    """The network as it is now, in evaluation mode, without gradient."""
    return copy.deepcopy(network).eval().requires_grad_(False)


def size_of(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))


def bytes_of(tree: Tree) -> int:
    """Bytes of the arrays of a packed tree."""
    if isinstance(tree, np.ndarray):
        return int(tree.nbytes)
    if isinstance(tree, Mapping):
        return sum(map(bytes_of, tree.values()))
    return sum(map(bytes_of, tree)) if isinstance(tree, list | tuple) else 0


class Training(Generic[S]):
    """Network, optimiser, memory, classes seen and position in the stage; prediction and state for every method.

    A method that keeps more than this says what in :meth:`kept` and takes it back in :meth:`regain`.

    :raises Mismatch: without a network, or without the memory that the method needs.
    """

    augments: ClassVar[bool] = True
    remembers: ClassVar[bool] = False
    reserve_each: ClassVar[int] = 0
    """Bytes kept outside the memory for each of its examples."""

    def __init__(self, settings: S, setup: Setup) -> None:
        from cl_kernel.torch.split import TestCache, build_network

        self.settings = settings
        self.network, self.device = build_network(setup)
        self.n_classes, self.n_stages = setup.stream.n_classes, len(setup.stream.stages)
        self.keeps_features = not isinstance(settings, Remembering) or settings.keep == "features"
        self._memory = self._make_memory(setup) if self.remembers else None
        self.optimizer = self.make_optimizer()
        self.seen = SeenClasses(by_task=getattr(settings, "heads", "one") == "task")
        if self.seen.by_task:
            check_tasks(setup.stream.stages)
        self.epoch = self.position = 0
        self._tests = TestCache()

    def _make_memory(self, setup: Setup) -> Memory:
        fields = self.remembered_fields(setup.stream.spec)
        if (beside := getattr(setup.memory, "beside", None)) is not None:
            beside(self.reserve(), self.reserve_each)
        memory = setup.memory(fields) if setup.memory is not None else None
        if memory is None:
            raise Mismatch("this learner needs a memory", where="--replay", fix="--replay class-balanced --memory 200")
        return memory

    def remembered_fields(self, spec: Mapping[str, Field]) -> dict[str, Field]:
        """Fields of a remembered example, from those of a sample."""
        from cl_kernel.torch.loaders import input_name, label_name
        from cl_kernel.torch.split import memory_fields

        if self.keeps_features:
            return memory_fields(self.network, spec, self.device)
        return {name: spec[name] for name in (input_name(spec), label_name(spec))}

    def make_optimizer(self) -> torch.optim.Optimizer:
        """The optimiser of the part that learns."""
        return make_optimizer(self.upper, self.settings)

    @property
    def upper(self) -> nn.Module:
        """The part that learns."""
        return self.network.upper

    @property
    def memory(self) -> Memory:
        """The memory of a method that remembers."""
        assert self._memory is not None
        return self._memory

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Parameters that learn."""
        return [p for p in self.network.upper.parameters() if p.requires_grad]

    # ---- a stage ---------------------------------------------------------------------------------
    def begin(self, stage: Stage, ctx: StreamContext) -> Batches:
        """Count the stage's classes; batches of it as the learning part reads them."""
        from cl_kernel.torch.loaders import label_name
        from cl_kernel.torch.split import train_batches

        self.seen.extend(stage, label_name(stage.train.spec))
        self.network.train()
        ctx.phase("train", self.n_epochs(stage) * self.n_batches(stage))
        return train_batches(self.network, stage.train, self.device, ctx)

    def at_start(self) -> bool:
        """Whether nothing of the stage has been done yet; False when a run is taken up inside it."""
        return self.epoch == self.position == 0

    def n_epochs(self, stage: Stage) -> int:
        """Passes over a stage."""
        return (self.settings.first_epochs if stage.index == 0 else 0) or self.settings.epochs

    def n_batches(self, stage: Stage) -> int:
        """Steps of one pass over a stage, a short last batch counted."""
        return -(-len(stage.train) // self.settings.batch_size)

    def n_done(self, stage: Stage) -> int:
        """Steps of the stage that are done, wherever a run is taken up."""
        return self.epoch * self.n_batches(stage) + self.position // self.settings.batch_size

    def epochs(self, stage: Stage) -> Iterator[int]:
        """Numbers of the epochs still to do, from where the state stands."""
        while self.epoch < self.n_epochs(stage):
            yield self.epoch
            self.epoch, self.position = self.epoch + 1, 0
        self.epoch = 0

    def steps(
        self, batches: Batches, stage: Stage, ctx: StreamContext, epoch: int
    ) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        """Rows, inputs and labels of each batch of an epoch; the stream's order unless ``shuffle`` is set."""
        n = len(stage.train)
        order = ctx.rng("order", stage.index, epoch).permutation(n) if self.settings.shuffle else np.arange(n)
        yield from batches(order, self.settings.batch_size, self.position)

    def mixed_steps(
        self,
        batches: Batches,
        stage: Stage,
        ctx: StreamContext,
        epoch: int,
        extra: tuple[Tensor, Tensor] | None,
        rows: np.ndarray | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels of each batch of an epoch over new and extra examples, shuffled together; without
        ``shuffle`` the new ones in the stream's order, then the extra ones.

        :param extra: inputs and labels, the same whenever the stage is taken up.
        :param rows: the new examples that take part; None for all.
        """
        rows = np.arange(len(stage.train)) if rows is None else rows
        n_new, n_extra = len(rows), 0 if extra is None else len(extra[1])
        n = n_new + n_extra
        order = ctx.rng("order", stage.index, epoch).permutation(n) if self.settings.shuffle else np.arange(n)
        order = order[self.position :]
        size = self.settings.batch_size
        pieces = [order[at : at + size] for at in range(0, len(order), size)]
        news = batches.of([rows[piece[piece < n_new]] for piece in pieces])
        for piece, (_, inputs, labels) in zip(pieces, news, strict=False):
            if extra is None:
                yield inputs, labels
                continue
            index = torch.from_numpy(piece[piece >= n_new] - n_new).to(inputs.device)
            yield torch.cat([inputs, extra[0][index]]), torch.cat([labels, extra[1][index]])

    def descend(self, loss: Tensor) -> None:
        """One step of the optimiser down this loss."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def stepped(self, ctx: StreamContext, **values: Any) -> None:
        """A step is done and everything is consistent."""
        self.position += self.settings.batch_size
        ctx.step(**values)

    def in_order(self, batches: Batches, stage: Stage) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        """The stage once more, in order, as it is."""
        yield from batches.plain()(np.arange(len(stage.train)), self.settings.batch_size)

    # ---- the memory ------------------------------------------------------------------------------
    def decoded(self, spec: Mapping[str, Field], slots: np.ndarray, *, plain: bool = False) -> tuple[Tensor, Tensor]:
        """Remembered examples of these slots as the learning part reads them, and their labels.

        :param spec: fields of the samples. :param plain: pictures as they are, also where the run makes views of them.
        """
        return self.read(spec, self.memory.take(slots), plain=plain)

    def read(self, spec: Mapping[str, Field], old: Mapping[str, Any], *, plain: bool = False) -> tuple[Tensor, Tensor]:
        """The same for examples already taken from the memory."""
        from cl_kernel.torch.loaders import as_tensor, input_name, label_name, to_input
        from cl_kernel.torch.split import FEATURES

        label = as_tensor(old[label_name(spec)], self.device).long()
        if FEATURES in old:
            return as_tensor(old[FEATURES], self.device).float(), label
        inputs = to_input(old[input_name(spec)], spec[input_name(spec)], self.device)
        if self.network.view is not None and not plain:
            inputs = self.network.view(inputs)
        return self.network.features(inputs) if self.network.is_cut else inputs, label

    def offer(
        self, stage: Stage, rows: np.ndarray, inputs: Tensor, groups: np.ndarray, **more: np.ndarray
    ) -> np.ndarray:
        """Offer examples to the memory; ``inputs`` as the learning part reads them.

        :param more: further fields that are kept with each.
        :return: slot of each, -1 where it was not kept.
        """
        from cl_kernel.torch.loaders import input_name, label_name
        from cl_kernel.torch.split import FEATURES

        spec = stage.train.spec
        source, label = input_name(spec), label_name(spec)
        if self.network.is_cut and self.keeps_features:
            labels = stage.train.take(rows, [label])[label]
            return self.memory.add({FEATURES: inputs.detach().cpu().numpy(), label: labels, **more}, groups)
        return self.memory.add({**stage.train.take(rows, [source, label]), **more}, groups)

    def remember(self, stage: Stage, batches: Batches, ctx: StreamContext, group: int | None = None) -> None:
        """Offer the whole stage to the memory, in random order, grouped by class or all as one group."""
        order = ctx.rng("remember", stage.index).permutation(len(stage.train))
        self.network.eval()
        for rows, inputs, labels in batches.plain()(order, self.settings.predict_batch):
            groups = labels.cpu().numpy() if group is None else np.full(len(rows), group)
            self.offer(stage, rows, inputs, groups)
        self.network.train()

    # ---- prediction and state --------------------------------------------------------------------
    def predict(self, samples: Samples) -> Iterator[dict[str, Any]]:
        """``scores`` float32 [n, K], classes not seen yet at minus infinity, and ``class`` int64 [n]."""
        for out in self._tests.predict(self.network, samples, self.device, self.settings.predict_batch):
            scores = self.seen.by_label(torch.from_numpy(out["scores"])).numpy()
            yield {"scores": scores, "class": scores.argmax(1)}

    def predict_with(self, samples: Samples, score: Callable[[Tensor], Tensor]) -> Iterator[dict[str, Any]]:
        """The same with an own way to scores.

        :param score: inputs -> [n, classes seen], columns in order of appearance.
        """
        training = self.network.training
        self.network.eval()
        order, size = self.seen.order, self.settings.predict_batch
        yield from predictions(self.network, self.device, samples, score, order, self.n_classes, size)
        self.network.train(training)

    def kept(self) -> dict[str, Tree]:
        """What a method keeps beyond the common state, packed."""
        return {}

    def holds(self) -> dict[str, int]:
        """Bytes kept beyond the network and the memory, by what they are."""
        sizes = {WORDS.get(k, k): bytes_of(tree) for k, tree in self.kept().items() if k not in BOOKKEEPING}
        return {name: size for name, size in sizes.items() if size}

    def reserve(self) -> int:
        """The most that :meth:`holds` comes to in this run, as far as it does not grow with the memory."""
        return 0

    def regain(self, tree: Tree) -> None:
        """Take :meth:`kept` back from a whole state."""

    def state(self) -> Tree:
        """Weights, optimiser, memory, generators, classes seen, position, and what the method keeps."""
        from cl_kernel.torch import state

        return {
            "network": state.pack(self.network),
            "optimizer": state.pack(self.optimizer),
            "memory": None if self._memory is None else self._memory.state(),
            "generators": state.pack_generators(),
            "seen": self.seen.state(),
            "epoch": self.epoch,
            "position": self.position,
            **self.kept(),
        }

    def grow(self, tree: Tree) -> Tree:
        """The state of a learner of fewer classes, for :meth:`load`."""
        return grown_state(tree, self.state(), self.optimizer)

    def load(self, tree: Tree) -> None:
        """Go on from what :meth:`state` gave."""
        from cl_kernel.torch import state

        state.restore(self.network, tree["network"])
        state.restore(self.optimizer, tree["optimizer"])
        if self._memory is not None:
            self._memory.load(tree["memory"])
        state.restore_generators(tree["generators"])
        self.seen.load(tree["seen"])
        self.epoch, self.position = int(tree["epoch"]), int(tree["position"])
        self.regain(tree)


def grown_state(tree: Tree, fresh: Tree, optimizer: torch.optim.Optimizer) -> Tree:
    """The state of a learner of fewer classes, as one with a wider score layer holds it.

    New score columns begin as the new network's; momentum and the like of them begin at zero.

    :param fresh: the state of the new learner.
    :param optimizer: of the new learner.
    :raises BadCheckpoint: when the state holds something that cannot grow, as remembered scores of all classes.
    """
    from cl_kernel.running.growing import grown

    apart = ("memory", "optimizer")
    both = [{key: value for key, value in state.items() if key not in apart} for state in (tree, fresh)]
    made = {**grown(*both), "optimizer": _grown_optimizer(tree["optimizer"], optimizer)}
    return {**made, "memory": _same_slots(tree["memory"], fresh["memory"])} if "memory" in tree else made


def _grown_optimizer(tree: Tree, like: torch.optim.Optimizer) -> Tree:
    from cl_kernel.torch.state import pack, unpack

    kept = unpack(tree)
    parameters = [p for group in like.param_groups for p in group["params"]]
    for index, slots in kept["state"].items():
        for name, value in slots.items():
            shape = parameters[index].shape
            if torch.is_tensor(value) and value.dim() == len(shape) and value.shape != shape:
                slots[name] = value.new_zeros(shape)
                slots[name][tuple(slice(0, n) for n in value.shape)] = value
    return pack(kept)


def _same_slots(kept: Tree, fresh: Tree) -> Tree:
    """A memory goes on as it is; one that keeps something for every class of the stream cannot."""
    for name, rows in ({} if kept is None else kept["slots"]).items():
        if rows.shape[1:] != (fresh["slots"][name].shape[1:] if name in fresh["slots"] else None):
            raise BadCheckpoint(
                f"the memory keeps {name!r} of shape {list(rows.shape[1:])}, which has no room for more"
            )
    return kept


def predictions(
    network: Split,
    device: torch.device,
    samples: Samples,
    score: Callable[[Tensor], Tensor],
    order: Sequence[int],
    n_classes: int,
    size: int,
) -> Iterator[dict[str, Any]]:
    """``scores`` float32 [n, n_classes] and ``class`` int64 [n] of samples, ``size`` at a time.

    :param score: what the learning part reads -> [n, classes seen], columns in the order of ``order``.
    """
    from cl_kernel.torch import evaluate
    from cl_kernel.torch.split import split_batches

    def full(inputs: Tensor) -> Tensor:
        scores = score(inputs)
        padded = scores.new_full((len(scores), n_classes), -torch.inf)
        padded[:, list(order)] = scores
        return padded

    yield from evaluate.predict(full, split_batches(network, samples, device), size)


def old_columns(training: Training[Steps], stage: Stage) -> int:
    """How many score columns an earlier network has something to say about: classes seen before the stage.

    Variant ``crumb`` counts the classes seen that are none of the stage's, which is the same unless classes repeat.
    """
    crumb = getattr(training.settings, "variant", "paper") != "paper"
    return training.seen.n_absent(stage.index) if crumb else training.seen.n_before(stage.index)


def pack_copy(network: nn.Module | None) -> Tree:
    """An earlier network, or that there is none, for :meth:`Training.kept`."""
    from cl_kernel.torch.state import pack

    return None if network is None else pack(network)


def regain_copy(like: nn.Module, tree: Tree) -> nn.Module | None:
    """The earlier network that :func:`pack_copy` gave, frozen."""
    from cl_kernel.torch.state import restore

    if tree is None:
        return None
    network = frozen_copy(like)
    restore(network, tree)
    return network
