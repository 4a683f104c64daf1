"""Which device a run uses, decided in one place."""

from __future__ import annotations

import torch

from cl_kernel.contract.errors import BadSetting


def resolve(name: str = "auto") -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:1`` into a device that exists.

    :raises BadSetting: for a name torch does not know or a device this machine lacks.
    """
    if name in ("", "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadSetting(f"device {name!r} is none", where="run.device", fix="--device auto|cpu|cuda|cuda:N") from error
    if device.type == "cuda":
        n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= n_devices:
            raise BadSetting(
                f"device {name!r} asked for, but there are {n_devices} CUDA devices here",
                where="run.device",
                fix="--device auto",
            )
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise BadSetting(
            "device 'mps' asked for, but it is not available here", where="run.device", fix="--device auto"
        )
    return device
