"""Gradients as vectors.

Shapes: P parameters in all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from cl_kernel.methods.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor, nn


PER_SAMPLE_BYTES = 1 << 26
"""Gradients of single samples that are held at a time take about this much."""


def per_sample_gradients(
    model: nn.Module, inputs: Tensor, targets: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> Iterator[dict[str, Tensor]]:
    """Gradients of each sample's own loss, vectorised, some samples at a time.

    :param targets: one for each input, handed to ``loss``.
    :param loss: scores [K] and target of one sample -> its loss.
    :return: name of each parameter that learns -> gradients [n, ...] of the next n samples.
    """
    from torch.func import functional_call, grad, vmap

    learning = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    others = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
    others |= dict(model.named_buffers())

    def of_one(parameters: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
        return loss(functional_call(model, (parameters, others), (x[None],))[0], target)

    each = vmap(grad(of_one), in_dims=(None, 0, 0))
    size = max(1, PER_SAMPLE_BYTES // (4 * max(1, sum(p.numel() for p in learning.values()))))
    for x, target in zip(inputs.split(size), targets.split(size), strict=True):
        yield each(learning, x, target)


def flat_gradient(parameters: Iterable[nn.Parameter]) -> Tensor:
    """All gradients in one vector [P]; zeros where a parameter has none."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters])


def set_gradient(parameters: Iterable[nn.Parameter], gradient: Tensor) -> None:
    """Write one vector [P] back into the gradients."""
    at = 0
    for p in parameters:
        part = gradient[at : at + p.numel()].view_as(p)
        p.grad = part.clone() if p.grad is None else p.grad.copy_(part)
        at += p.numel()


def gradient_of(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """Gradient [P] of a loss, nothing accumulated; zeros where a parameter has no part in it."""
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).reshape(-1) for p, g in zip(parameters, gradients, strict=True)]
    )


def reference_gradient(model: nn.Module, memory: Sequence[tuple[Tensor, Tensor]], n_active: int, size: int) -> Tensor:
    """Gradient [P] of the sum of mean losses over mini-batches of the memory.

    :param memory: inputs and score columns of each stage.
    :param n_active: score columns of the classes seen.
    :param size: of a mini-batch.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    inputs, labels = torch.cat([x for x, _ in memory]), torch.cat([y for _, y in memory])
    total = torch.zeros((), device=inputs.device)
    for x, y in zip(inputs.split(size), labels.split(size), strict=True):
        total = total + F.cross_entropy(model(x)[:, :n_active], y)
    return gradient_of(total, parameters)
