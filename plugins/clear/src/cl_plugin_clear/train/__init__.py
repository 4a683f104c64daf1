"""The loops: bucket after bucket of the benchmark, MoCo pre-training, linear evaluation."""

from cl_plugin_clear.train.buckets import build

__all__ = ["build"]
