"""``cl_kernel.run`` with objects in place of names: a network, a data set.

What a run is made of is named in its folder, so that it can be resumed and reproduced. Data become arrays in the cache,
which any process reads again; a network is named by where its class or function lies when it is given as that, and is
kept by this process alone when it is given as an object. The run says which.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cl_kernel.contract.errors import BadInput, BadSetting, MissingAsset
from cl_kernel.running import session
from cl_kernel.storage.cache import Cache
from cl_kernel.storage.identity import identify

if TYPE_CHECKING:
    from torch import nn

PREFIX = "network_"
_networks: dict[str, nn.Module] = {}


def run(test: str = "", *, model: Any = "", dataset: Any = "", **asked: Any) -> session.Outcome:
    """``clk run`` as one call, with the flags' names: ``run("ADD_ONE_FIVE_TIMES", plugin="recall", seed=1)``.

    >>> run(model=net, dataset=(x, y), learner="er", memory="200")  # doctest: +SKIP

    :param model: a name as for ``--model``; a ``torch.nn.Module``; or a class or function of a module that makes one.
    :param dataset: a name as for ``--dataset``; arrays ``(x, y)``; a mapping with ``x``, ``y``, ``stage`` and
        ``split``; a torch data set of (picture, class); one of the library ``datasets``; or ``train`` and ``test`` of
        these.
    :param asked: the other flags, see :func:`cl_kernel.running.plan.make_request`; and ``output``, ``listen``,
        ``comparisons`` of :func:`cl_kernel.running.session.run`.
    :raises ClkError: for an object that is neither, before anything runs.
    """
    model = model if isinstance(model, str) else name_network(model)
    dataset = dataset if isinstance(dataset, (str, Path)) else name_data(dataset)
    return session.run(test, model=model, dataset=str(dataset), **asked)


def name_data(given: Any) -> str:
    """The name of arrays in the cache that hold what was given."""
    from cl_kernel.library.datasets.own import as_arrays

    arrays = as_arrays(given, where="dataset=...")
    kind = "vectors" if arrays["x"].ndim == 2 else "arrays"
    cache = Cache(session.default_cache())
    folder = cache.artefact(identify("given-data", arrays=arrays)).make(lambda place: _save(place, arrays))
    return f"{kind}:{folder / 'data.npz'}"


def _save(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise BadInput(f"{name} holds Python objects: classes are integers or text", where="dataset=...")
    np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]


def name_network(given: Any) -> str:
    """The name of a network: where its maker lies, or that of an object of this process.

    :raises BadSetting: for anything that is no network and makes none.
    """
    from torch import nn

    if isinstance(given, nn.Module):
        from cl_kernel.storage.checkpoint import digest_tree
        from cl_kernel.torch.state import pack

        name = PREFIX + digest_tree({"modules": str(given), "tensors": pack(given)})[:12]
        _networks[name] = given
        return f"module:{__name__}:{name}"
    if not callable(given):
        raise BadSetting(
            f"a {type(given).__name__} is no network", where="model=...", fix="give a torch.nn.Module, or a name"
        )
    place, name = getattr(given, "__module__", ""), getattr(given, "__qualname__", "")
    if place in ("", "__main__") or not name.isidentifier():
        raise BadSetting(
            f"{name or given!r} lies in no module that another process could import",
            where="model=...",
            fix="give the network itself, or put the function into a file: model='module:FILE.py:CALLABLE'",
        )
    return f"module:{place}:{name}"


def __getattr__(name: str) -> Callable[[], nn.Module]:
    if not name.startswith(PREFIX):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in _networks:
        raise MissingAsset(
            "this run's network was an object of a Python process, which has ended or did not get it",
            where=f"--model module:{__name__}:{name}",
            fix="run it again from Python with the same object: cl_kernel.run(model=net, ...); or put what makes the "
            "network into a file: --model module:FILE.py:CALLABLE",
        )
    made = _networks[name]

    def copied() -> nn.Module:
        """A copy, so that the object stays as it was."""
        return copy.deepcopy(made)

    return copied
