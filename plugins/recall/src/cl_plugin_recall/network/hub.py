"""TF-Hub modules: the image generator and the classifier."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

from cl_kernel import BadInput, MissingAsset
from cl_plugin_recall.backend import tf

GENERATOR_ORIGIN = "tfhub.dev/deepmind/biggan-deep-512/1 (now on Kaggle Models), unpacked into a folder"
CLASSIFIER_ORIGIN = "tfhub.dev/google/efficientnet/b2/classification/1 (now on Kaggle Models), unpacked into a folder"


def tensorflow_hub() -> Any:
    """The library; where setuptools no longer ships ``pkg_resources``, a small module with the one name it needs."""
    if "pkg_resources" not in sys.modules and importlib.util.find_spec("pkg_resources") is None:
        from packaging.version import parse

        shim = types.ModuleType("pkg_resources")
        shim.parse_version = parse  # type: ignore[attr-defined]
        sys.modules["pkg_resources"] = shim
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow_hub as hub
    return hub


def load(folder: Path, origin: str) -> Any:
    """Load a module of either TF-Hub format from a local folder.

    :raises MissingAsset: when there is no module.
    :raises BadInput: when it cannot be loaded.
    """
    if not any((folder / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        raise MissingAsset("TF-Hub module is missing (no saved_model.pb)", where=str(folder), fix=f"get {origin}")
    try:
        return tensorflow_hub().load(str(folder))
    except (tf.errors.OpError, ValueError, RuntimeError, OSError) as error:
        raise BadInput(
            f"TF-Hub module cannot be loaded: {str(error).splitlines()[0][:160]}", where=str(folder)
        ) from error


class Generator:
    """Class-conditional generator: noise and class numbers -> images in [-1, 1]."""

    def __init__(self, module: Any, where: Path) -> None:
        signatures = getattr(module, "signatures", {})
        wanted = {"z", "y", "truncation"}
        if "default" not in signatures:
            raise BadInput(
                f"module has no signature 'default', only {sorted(signatures)}",
                where=str(where),
                fix=f"use a generator with the signature of BigGAN: {GENERATOR_ORIGIN}",
            )
        self._module, self._call = module, signatures["default"]
        inputs = self._call.structured_input_signature[1]
        if set(inputs) != wanted:
            raise BadInput(f"signature 'default' takes {sorted(inputs)}, expected {sorted(wanted)}", where=str(where))
        self.depth = int(inputs["z"].shape[-1] or 128)
        self.n_classes = int(inputs["y"].shape[-1] or 1000)

    def images(self, z: np.ndarray, class_ids: np.ndarray, truncation: float) -> np.ndarray:
        """Float images [n, H, W, 3] for noise [n, depth] and class numbers [n]."""
        y = tf.one_hot(np.asarray(class_ids, np.int64), self.n_classes)
        out = self._call(z=tf.constant(z, tf.float32), y=y, truncation=tf.constant(truncation, tf.float32))
        return next(iter(out.values())).numpy() if "default" not in out else out["default"].numpy()


def load_generator(folder: Path) -> Generator:
    """Generator from a local TF-Hub folder."""
    return Generator(load(folder, GENERATOR_ORIGIN), folder)


def truncated_normal(rng: np.random.Generator, shape: tuple[int, ...], truncation: float) -> np.ndarray:
    """Normal draws, redrawn beyond two standard deviations, times ``truncation``."""
    values = rng.standard_normal(shape)
    while (outside := np.abs(values) > 2).any():
        values[outside] = rng.standard_normal(int(outside.sum()))
    return (truncation * values).astype(np.float32)


class Classifier:
    """Image classifier: RGB in [0, 1] -> logits, by a signature or by calling the module."""

    def __init__(self, module: Any, where: Path) -> None:
        signatures = getattr(module, "signatures", {})
        self._module = module
        self.side = 260
        self._argument = ""
        self._call = signatures["serving_default"] if "serving_default" in signatures else signatures.get("default")
        if self._call is None and callable(module):
            self._call = module
            return
        if self._call is None:
            raise BadInput(
                f"module has no signature 'serving_default' or 'default', only {sorted(signatures)}, and is none",
                where=str(where),
                fix=f"use {CLASSIFIER_ORIGIN}",
            )
        inputs = self._call.structured_input_signature[1]
        if len(inputs) != 1:
            raise BadInput(f"the classifier takes {sorted(inputs)}, expected images alone", where=str(where))
        ((self._argument, spec),) = inputs.items()
        self.side = int(spec.shape[1] or self.side)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """[n, side, side, 3] in [0, 1] -> [n, K]."""
        x = tf.constant(images, tf.float32)
        out = self._call(**{self._argument: x}) if self._argument else self._call(x)
        found = next(iter(out.values())) if isinstance(out, dict) else out
        return np.asarray(found.numpy())


def load_classifier(folder: Path) -> Classifier:
    """Classifier from a local TF-Hub folder."""
    return Classifier(load(folder, CLASSIFIER_ORIGIN), folder)
