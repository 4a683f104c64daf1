"""A step on tensors of one shape, recorded once and played again: on CUDA one launch instead of a hundred.

The first calls run as they are, so that the libraries underneath have chosen their kernels and the optimiser has its
buffers; then the work is recorded as a CUDA graph over fixed tensors, into which each later call copies its inputs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from attrs import define, field
from torch import Tensor, nn

log = logging.getLogger(__name__)

WARM_UP = 3
"""Calls before recording."""

Work = Callable[..., Tensor]
Recorder = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]


def cuda_graph(work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Record without running.

    :return: what plays the recording, and the tensor that holds its result afterwards.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return graph.replay, result


def aside(work: Callable[[], Tensor], device: torch.device) -> Tensor:
    """Run work on a stream of its own, as the calls before a recording have to; on the CPU just run it.

    Source: PyTorch's notes on CUDA graphs, "warmup".
    """
    if device.type != "cuda":
        return work()
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        result = work()
    torch.cuda.current_stream(device).wait_stream(stream)
    return result


@define(eq=False, repr=False)
class Recorded:
    """``work(*tensors)`` on inputs of one shape; None stands for an input there is none of.

    Work that cannot be recorded (a network that asks the host something, say) runs as it is from then on, and the log
    says so once.

    :param work: reads its inputs and what stays in place (weights, buffers); draws nothing, asks the host nothing.
    """

    work: Work
    record: Recorder = cuda_graph
    _calls: int = field(init=False, default=0)
    _plain: bool = field(init=False, default=False)
    _inputs: list[Tensor | None] = field(init=False, factory=list)
    _play: Callable[[], None] | None = field(init=False, default=None)
    _result: Tensor = field(init=False, factory=lambda: torch.zeros(()))

    def __call__(self, *inputs: Tensor | None) -> Tensor:
        """The result; the next call overwrites it once the work is recorded."""
        if self._plain:
            return self.work(*inputs)
        if self._calls < WARM_UP:
            self._calls += 1
            device = next(tensor.device for tensor in inputs if tensor is not None)
            return aside(lambda: self.work(*inputs), device)
        if self._play is None:
            self._inputs = [None if tensor is None else tensor.clone() for tensor in inputs]
            try:
                self._play, self._result = self.record(lambda: self.work(*self._inputs))
            except RuntimeError as error:
                log.warning("the step cannot be recorded and runs as it is: %s", str(error).splitlines()[0])
                self._plain, self._inputs = True, []
                return self.work(*inputs)
        else:
            for fixed, tensor in zip(self._inputs, inputs, strict=True):
                if fixed is not None and tensor is not None:
                    fixed.copy_(tensor, non_blocking=True)
        self._play()
        return self._result


@define(eq=False, repr=False)
class Staging:
    """Small arrays on their way to the device: through page-locked memory, so that no step waits for a copy.

    The places are used in turn; one is written again only when the copy out of it is done, which after ``depth`` others
    it nearly always is. On the CPU arrays become tensors, nothing more.
    """

    device: torch.device
    depth: int = 16
    _places: dict[tuple[Any, ...], list[tuple[Tensor, Any]]] = field(init=False, factory=dict)
    _turn: int = field(init=False, default=0)

    def __call__(self, array: np.ndarray | Tensor) -> Tensor:
        """The array as a tensor on the device."""
        tensor = torch.from_numpy(array) if isinstance(array, np.ndarray) else array
        if self.device.type != "cuda":
            return tensor
        places = self._places.setdefault((tuple(tensor.shape), tensor.dtype), [])
        if len(places) < self.depth:
            places.append((torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True), torch.cuda.Event()))
            host, done = places[-1]
        else:
            self._turn += 1
            host, done = places[self._turn % self.depth]
            done.synchronize()
        host.copy_(tensor)
        moved = host.to(self.device, non_blocking=True)
        done.record(torch.cuda.current_stream(self.device))
        return moved


def momentum_sgd(
    parameters: Sequence[nn.Parameter], buffers: Sequence[Tensor], rate: Tensor, momentum: float, weight_decay: float
) -> None:
    """``torch.optim.SGD``'s update with a rate that lies on the device, so that a recording reads it anew.

    :param buffers: momentum of each parameter, zero at first. :param rate: float32 scalar.
    """
    with torch.no_grad():
        grads = [parameter.grad for parameter in parameters]
        if weight_decay:
            grads = torch._foreach_add(grads, parameters, alpha=weight_decay)
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, grads)
        torch._foreach_sub_(parameters, torch._foreach_mul(buffers, rate))


def momentum_buffers(optimizer: torch.optim.SGD) -> list[Tensor]:
    """The optimiser's momentum of each parameter, made where there is none yet, laid out as the parameters are."""
    buffers = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state, buffer = optimizer.state[parameter], torch.zeros_like(parameter)
            if (known := state.get("momentum_buffer")) is not None:
                buffer.copy_(known)
            state["momentum_buffer"] = buffer
            buffers.append(buffer)
    return buffers
