"""The state of a shorter stream in a network with room for more tasks.

Shapes: t tasks learnt, T tasks there is room for, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cl_kernel import BadCheckpoint

TABLES = ("task_mean", "task_var", "task_stored")


def grown(kept: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, Any]:
    """A kept network with the parts of further tasks as they begin: heads, modulations, rows of statistics.

    :param kept: packed tensors of a network of t tasks; equal to ``fresh`` in names and shapes where t = T.
    :param fresh: packed tensors of a new network of T tasks.
    :raises BadCheckpoint: when the kept network has more tasks, or is another one.
    """
    if set(kept) == set(fresh) and all(np.shape(kept[name]) == np.shape(fresh[name]) for name in fresh):
        return dict(kept)
    if surplus := sorted(set(kept) - set(fresh)):
        raise BadCheckpoint(
            f"the state holds tasks or parts that the network lacks: {', '.join(surplus[:3])}",
            fix="keep the stages already learnt at the beginning of the stream",
        )
    made = {}
    for name, value in fresh.items():
        old = kept.get(name)
        if old is None and name.startswith(("heads.", "modulations.", "net.td.top.")):
            made[name] = value
        elif old is not None and np.shape(old) == np.shape(value):
            made[name] = old
        elif old is not None and name.rpartition(".")[2] in TABLES and np.shape(old)[1:] == np.shape(value)[1:]:
            made[name] = np.concatenate([old, np.asarray(value)[len(old) :]])
        else:
            raise BadCheckpoint(f"{name} of another network", fix="go on with the settings of the run")
    return made
