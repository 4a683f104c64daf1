"""What holds on to the past besides the training set: LwF, EWC, SI, GEM, A-GEM, CWR*, CoPE.

Shapes: n a batch, C classes, P parameters.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attrs import define, field
from torch import Tensor, nn
from torch.nn import functional

from cl_kernel.methods.agem import agem
from cl_kernel.methods.cope import ppp_loss
from cl_kernel.methods.cwr import consolidated
from cl_kernel.methods.gem import gem
from cl_kernel.methods.gradients import flat_gradient, set_gradient
from cl_kernel.methods.online_ewc import OnlineEwc
from cl_kernel.methods.penalty import Consolidation
from cl_kernel.methods.si import PathIntegral, Si
from cl_kernel.torch import state
from cl_kernel.torch.loaders import Batches

if TYPE_CHECKING:
    from cl_plugin_clear.settings import Buckets

STRENGTH = {"ewc": 0.4, "si": 1e-4, "gem": 0.5}
"""The fork's values."""
EWC_DECAY = 0.1
"""Online EWC: how much of earlier importance is left after a bucket."""


def reinitialise(network: nn.Module, rng: np.random.Generator) -> None:
    """Fresh weights for every layer that learns and can make its own, from a generator of their own."""
    with torch.random.fork_rng():
        torch.manual_seed(int(rng.integers(2**62)))
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            own = list(module.parameters())
            frozen = bool(own) and not any(parameter.requires_grad for parameter in own)
            if callable(reset) and not frozen:
                reset()


@define
class Past:
    """One of the baselines at work; ``plain`` does nothing."""

    settings: Buckets
    n_stages: int
    stage: int = 0
    keeper: Consolidation = field(init=False)
    teacher: nn.Module | None = None  # LwF: the network after the last bucket
    patterns: list[tuple[Tensor, Tensor]] = field(factory=list)  # GEM, A-GEM: pictures of each earlier bucket
    head: dict[str, Tensor] = field(factory=dict)  # CWR*: the consolidated head
    seen: Tensor | None = None  # CWR*: how often each class was seen
    prototypes: Tensor | None = None  # CoPE: unit vectors [C, e]

    def __attrs_post_init__(self) -> None:
        method = self.settings.method
        strength = self.settings.strength or STRENGTH.get(method, 1.0)
        if method == "si":
            self.keeper = Si(strength, path=PathIntegral(signed=True))
        else:
            self.keeper = OnlineEwc(strength, per_sample=False, decay=EWC_DECAY)

    @property
    def method(self) -> str:
        """Which baseline."""
        return self.settings.method

    def begin(self, network: nn.Module, stage: int) -> None:
        """A bucket begins: its optimiser is new, its weights may be."""
        self.stage = stage
        if self.method in ("ewc", "si"):
            self.keeper.begin(network)
        if self.method == "cwr" and stage:  # the head of a bucket starts at nothing, the rest goes on
            with torch.no_grad():
                for parameter in head_of(network).parameters():
                    parameter.zero_()

    def step(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        inputs: Tensor,
        labels: Tensor,
        scores: Tensor,
        loss: Tensor,
    ) -> None:
        """One optimiser step."""
        settings = self.settings
        if self.method == "cope":
            loss = self._to_prototypes(functional.normalize(scores, dim=1), labels)
        if self.method in ("ewc", "si"):
            self.keeper.step(network, optimizer, loss)
            return
        if self.method == "lwf" and self.teacher is not None:
            weight = settings.lwf_alpha * self.stage / max(self.n_stages - 1, 1)
            with torch.no_grad():
                target = functional.softmax(self.teacher(inputs) / settings.lwf_temperature, 1)
            old = functional.log_softmax(scores / settings.lwf_temperature, 1)
            loss = loss + weight * functional.kl_div(old, target, reduction="batchmean")
        optimizer.zero_grad()
        if self.method in ("gem", "agem") and self.patterns:
            self._project(network, loss)
        else:
            loss.backward()
        optimizer.step()

    def _to_prototypes(self, embedded: Tensor, labels: Tensor) -> Tensor:
        """CoPE's loss of a batch; prototypes move with it, a class seen for the first time begins at its mean."""
        n_classes = embedded.shape[1]
        if self.prototypes is None:
            self.prototypes = embedded.new_zeros(n_classes, n_classes)
        here, m = labels.unique(), self.settings.cope_momentum
        means = torch.stack([functional.normalize(embedded.detach()[labels == c].sum(0), dim=0) for c in here])
        new = ~self.prototypes[here].any(1)
        self.prototypes[here[new]] = means[new]
        known = self.prototypes.any(1)
        columns = (known.cumsum(0) - 1)[labels]
        loss = ppp_loss(embedded, columns, self.prototypes[known], self.settings.cope_temperature)
        self.prototypes[here] = functional.normalize(m * self.prototypes[here] + (1 - m) * means, dim=1)
        return loss

    def _project(self, network: nn.Module, loss: Tensor) -> None:
        parameters = [p for p in network.parameters() if p.requires_grad]
        loss.backward(retain_graph=True)
        gradient = flat_gradient(parameters).clone()
        if self.method == "agem":
            inputs, labels = (torch.cat(parts) for parts in zip(*self.patterns, strict=True))
            gradient = agem(gradient, self._reference(network, parameters, inputs, labels))
        else:
            tasks = torch.stack([self._reference(network, parameters, *pattern) for pattern in self.patterns])
            if bool(((tasks @ gradient) < 0).any()):
                gradient = gem(gradient, tasks, margin=self.keeper.strength)
        set_gradient(parameters, gradient)

    @staticmethod
    def _reference(network: nn.Module, parameters: list[nn.Parameter], inputs: Tensor, labels: Tensor) -> Tensor:
        grads = torch.autograd.grad(functional.cross_entropy(network(inputs), labels), parameters)
        return torch.cat([g.reshape(-1) for g in grads])

    def end(self, network: nn.Module, batches: Batches, n: int, batch_size: int) -> None:
        """A bucket is learnt: what has to be known about it later."""
        if self.method == "plain":
            return
        whole = np.arange(n)
        if self.method in ("ewc", "si"):
            n_classes = next(reversed(list(network.parameters()))).shape[0]
            self.keeper.end(network, ((inputs, labels) for _, inputs, labels in batches(whole, batch_size)), n_classes)
        elif self.method == "lwf":
            self.teacher = copy.deepcopy(network).eval()
            for parameter in self.teacher.parameters():
                parameter.requires_grad_(False)
        elif self.method in ("gem", "agem"):
            parts = [(inputs, labels) for _, inputs, labels in batches(whole, batch_size)]
            self.patterns.append((torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])))
        elif self.method == "cwr":
            self._consolidate(network, torch.cat([labels for _, _, labels in batches(whole, batch_size)]))

    def _consolidate(self, network: nn.Module, labels: Tensor) -> None:
        """CWR*: weights of a class are averaged with its past, by how often it was seen, after centring."""
        own = {name: value.detach() for name, value in head_of(network).named_parameters()}
        counts = torch.bincount(labels, minlength=len(own["bias"])).float()
        if self.seen is None:
            self.seen = torch.zeros_like(counts)
            self.head = {name: torch.zeros_like(value) for name, value in own.items()}
        self.head = {name: consolidated(self.head[name], value, self.seen, counts) for name, value in own.items()}
        self.seen = self.seen + counts

    def scores(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Logits [n, C]; CWR* puts the consolidated head on, CoPE compares with its prototypes."""
        if self.prototypes is not None:
            return functional.normalize(network(inputs), dim=1) @ self.prototypes.T / self.settings.cope_temperature
        if self.method != "cwr" or not self.head:
            return network(inputs)  # type: ignore[no-any-return]
        head = head_of(network)
        own = head.weight.detach().clone(), head.bias.detach().clone()
        try:
            head.weight.data.copy_(self.head["weight"])
            head.bias.data.copy_(self.head["bias"])
            return network(inputs)  # type: ignore[no-any-return]
        finally:
            head.weight.data.copy_(own[0])
            head.bias.data.copy_(own[1])

    def weights(self, network: nn.Module) -> dict[str, Tensor]:
        """The network's tensors as they predict: CWR*'s head is the consolidated one."""
        tensors = dict(network.state_dict())
        if self.head:
            place = next(name for name, module in network.named_modules() if module is head_of(network))
            tensors |= {f"{place}.{name}".lstrip("."): value for name, value in self.head.items()}
        return tensors

    def state(self) -> dict[str, Any]:
        """Everything, as arrays and plain values."""
        kept = state.pack(self.keeper.state())
        return {
            "stage": self.stage,
            "slots": kept["slots"],
            "path": {"omega": kept["omega"], "start": kept["start"]},
            "teacher": state.pack(self.teacher) if self.teacher is not None else None,
            "patterns": [state.pack(list(pattern)) for pattern in self.patterns],
            "head": state.pack(self.head),
            "seen": state.pack(self.seen) if self.seen is not None else None,
            "prototypes": state.pack(self.prototypes) if self.prototypes is not None else None,
        }

    def load(self, tree: dict[str, Any], network: nn.Module) -> None:
        """Take over what :meth:`state` gave."""
        device = next(network.parameters()).device

        def moved(value: Any) -> Any:
            return {name: tensor.to(device) for name, tensor in state.unpack(value).items()}

        self.stage = int(tree["stage"])
        self.keeper.load(state.unpack({"slots": tree["slots"], **tree["path"]}), device)
        if tree["teacher"] is not None:
            self.teacher = copy.deepcopy(network).eval()
            state.restore(self.teacher, tree["teacher"])
        self.patterns = [tuple(tensor.to(device) for tensor in state.unpack(p)) for p in tree["patterns"]]  # type: ignore[misc]
        self.head = moved(tree["head"])
        self.seen = state.unpack(tree["seen"]).to(device) if tree["seen"] is not None else None
        self.prototypes = state.unpack(tree["prototypes"]).to(device) if tree["prototypes"] is not None else None


def head_of(network: nn.Module) -> nn.Linear:
    """The last linear layer."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
