"""TensorFlow, imported in one place, with what has to be said before its first import.

oneDNN more than halves the time of a training step on CPUs where TensorFlow does not choose it by itself; its results
are as repeatable. The log level drops the start-up chatter. Keras, which nothing here uses, is not imported along: a
third of TensorFlow's start-up. A user's own environment variables win.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import tensorflow as tf

__all__ = ["tf"]
