"""TensorFlow, imported in one place, with what has to be said before its first import.

oneDNN more than halves the time of a training step on CPUs where TensorFlow does not choose it by itself; its results
are as repeatable. The log level drops the start-up chatter. A user's own environment variables win.

TensorFlow imports Keras for its optimisers and goes on without when there is none. Nothing here uses them, and they
are half of its start-up: so there is none while it is imported. TF-Hub, which does need Keras 2, finds it afterwards.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

_hidden = [name for name in ("keras", "tf_keras") if name not in sys.modules]
sys.modules.update(dict.fromkeys(_hidden))  # type: ignore[arg-type]  # None refuses an import
try:
    import tensorflow as tf
finally:
    for _name in _hidden:
        del sys.modules[_name]

__all__ = ["tf"]
