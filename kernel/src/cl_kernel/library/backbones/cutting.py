"""Cut any network at a named layer: below it frozen, from it on learning.

A network is followed symbolically (``torch.fx``), but only through the modules that contain the layer; all others
stay whole, so that dropout, norms and layers with branches of their own keep their training mode. The layer is a good
cut when
a single tensor crosses; inside a residual block several do, and the cut is refused with the names of layers that work.

Shapes: B batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.hooks import RemovableHandle

from cl_kernel.contract.errors import BadSetting, ClkError, UnknownName, nearest

WHERE = "model.cut"


class _Ancestors(fx.Tracer):
    """Follows calls only into the modules that contain the layer."""

    def __init__(self, layer: str) -> None:
        super().__init__(autowrap_functions=())
        self.layer = layer

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether the module is called as a whole."""
        return not self.layer.startswith(f"{module_qualified_name}.")


def head_name(network: nn.Module) -> str:
    """Name of the last linear layer, which gives the scores.

    :raises BadSetting: for a network without one.
    """
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise BadSetting(
            f"{type(network).__name__} has no linear layer that could give the scores",
            where="--model",
            fix="let the network end in torch.nn.Linear",
        )
    name: str = names[-1]
    return name


def maps_name(network: nn.Module, example: Tensor) -> str:
    """Name of the last layer to cut at that one forward pass gives maps, as a rule the one that pools them.

    :param example: float32 [B, C, H, W], what the network reads.
    :raises BadSetting: for a network that makes no maps, such as a transformer over patches.
    """
    given: list[tuple[str, torch.Size]] = []
    handles = [
        module.register_forward_pre_hook(
            lambda _module, inputs, name=name: given.extend(
                (name, value.shape) for value in inputs[:1] if isinstance(value, Tensor) and value is not example
            )
        )
        for name, module in network.named_modules()
        if name
    ]
    _watched(network, example, handles)
    maps = [name for name, shape in given if len(shape) == 4 and shape[2] * shape[3] > 1]
    last = next((name for name in reversed(maps) if cuts(network, name)), None)
    if last is None:
        raise BadSetting(
            f"{type(network).__name__} makes no maps of {'x'.join(map(str, example.shape[2:]))} pictures",
            where=WHERE,
            fix="model.cut=head, a layer that 'clk model NAME' lists, or a larger picture (dataset.size, model.size)",
        )
    return last


def _watched(network: nn.Module, example: Tensor, handles: Sequence[RemovableHandle]) -> None:
    """One forward pass in evaluation mode with hooks that are taken away afterwards."""
    training = network.training
    try:
        network.eval()
        with torch.no_grad():
            network(example)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()


def cuts(network: nn.Module, layer: str) -> bool:
    """Whether a network can be cut there."""
    try:
        cut_at(network, layer)
    except ClkError:
        return False
    return True


def replace_head(network: nn.Module, name: str, n_outputs: int) -> nn.Linear:
    """Put a new, randomly initialised head of ``n_outputs`` scores in place of a linear layer."""
    parent = network.get_submodule(name.rpartition(".")[0])
    old = network.get_submodule(name)
    assert isinstance(old, nn.Linear)
    new = nn.Linear(old.in_features, n_outputs, bias=old.bias is not None)
    setattr(parent, name.rpartition(".")[2], new)
    return new


def cut_at(network: nn.Module, layer: str) -> tuple[nn.Module, nn.Module]:
    """``upper(lower(x))`` equals ``network(x)``; ``layer`` is the first part of the upper one.

    Both share the network's tensors under the network's own names.

    :raises UnknownName: for a layer the network has not.
    :raises BadSetting: when more than one value crosses there, or the network cannot be followed to it.
    """
    known = [name for name, _ in network.named_modules() if name]
    if layer not in known:
        named = known if nearest(layer, known) else [name for name in known if "." not in name]
        raise UnknownName.of("layer", layer, named, where=WHERE, fix="clk model NAME lists the layers")
    graph = _follow(network, layer)
    nodes = list(graph.nodes)
    first = next((i for i, node in enumerate(nodes) if node.op == "call_module" and node.target == layer), None)
    if first is None:
        raise BadSetting(f"layer {layer!r} takes no part in the network's scores", where=WHERE)
    crossing = _crossing(nodes, first)
    if len(crossing) != 1:
        raise BadSetting(
            f"{len(crossing)} values cross in front of {layer!r} ({', '.join(map(str, crossing))}): it lies inside a "
            "residual block or beside another branch",
            where=WHERE,
            fix=f"cut at a whole block: {', '.join(_blocks(network, layer)) or 'a layer above it'}",
        )
    return _part(network, graph, nodes[:first], crossing[0]), _rest(network, graph, nodes[first:], crossing[0])


def _follow(network: nn.Module, layer: str) -> fx.Graph:
    try:
        return _Ancestors(layer).trace(network, _defaults(network))
    except Exception as error:
        raise BadSetting(
            f"the way to layer {layer!r} cannot be followed: {error}",
            where=WHERE,
            fix=f"cut at the head ({head_name(network)}), or give a network whose forward has no branches on the way",
        ) from error


def _defaults(network: nn.Module) -> dict[str, Any]:
    """Optional arguments of the network, which keep their defaults."""
    parameters = list(inspect.signature(network.forward).parameters.values())[1:]
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _crossing(nodes: list[fx.Node], first: int) -> list[fx.Node]:
    """Values computed before ``first`` and read from there on; parameters read by name are no values of the input."""
    before = set(nodes[:first])
    read: dict[fx.Node, None] = {}
    for node in nodes[first:]:
        read |= {source: None for source in node.all_input_nodes if source in before and source.op != "get_attr"}
    return list(read)


def _part(network: nn.Module, graph: fx.Graph, nodes: list[fx.Node], output: fx.Node) -> fx.GraphModule:
    made = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        copied[node] = made.node_copy(node, copied.__getitem__)
    made.output(copied[output])
    return _module(network, made)


def _rest(network: nn.Module, graph: fx.Graph, nodes: list[fx.Node], source: fx.Node) -> fx.GraphModule:
    made = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {source: made.placeholder("features")}

    def get(node: fx.Node) -> fx.Node:
        if node not in copied:  # a parameter read by name below the cut and used above it
            copied[node] = made.node_copy(node, get)
        return copied[node]

    for node in nodes:
        if node.op == "output":
            made.output(fx.node.map_arg(node.args[0], get))
        else:
            copied[node] = made.node_copy(node, get)
    return _module(network, made)


def _module(network: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    made = fx.GraphModule(network, graph, type(network).__name__)
    made.graph.eliminate_dead_code()
    made.recompile()
    made.delete_all_unused_submodules()
    return made


def _blocks(network: nn.Module, layer: str) -> Iterator[str]:
    """Parents of a layer where a cut works, the nearest first."""
    while "." in layer:
        layer = layer.rpartition(".")[0]
        try:
            graph = _follow(network, layer)
        except BadSetting:
            continue
        nodes = list(graph.nodes)
        first = next((i for i, n in enumerate(nodes) if n.op == "call_module" and n.target == layer), None)
        if first is not None and len(_crossing(nodes, first)) == 1:
            yield layer


def layer_shapes(network: nn.Module, example: Tensor) -> list[dict[str, Any]]:
    """What crosses in front of every layer that one forward pass calls.

    :param example: float32 [1, ...], what the network reads.
    :return: in order of the calls: name, kind, input shape without the batch, own parameters, bytes of a float32 map.
    """
    rows: list[dict[str, Any]] = []

    def watch(name: str, module: nn.Module) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Any, ...], _output: Any) -> None:
            tensors = [value for value in inputs if isinstance(value, Tensor)]
            shape = tuple(tensors[0].shape[1:]) if tensors else ()
            rows.append(
                {
                    "layer": name,
                    "kind": type(module).__name__,
                    "input": shape,
                    "parameters": sum(p.numel() for p in module.parameters()),
                    "bytes": 4 * int(torch.tensor(shape).prod()) if shape else 0,
                }
            )

        return hook

    handles = [module.register_forward_hook(watch(name, module)) for name, module in network.named_modules() if name]
    _watched(network, example, handles)
    order = {name: i for i, (name, _) in enumerate(network.named_modules())}
    return sorted(rows, key=lambda row: order[row["layer"]])
