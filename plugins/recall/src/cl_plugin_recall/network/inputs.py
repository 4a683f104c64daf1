"""What a set of weights expects to see: mean, deviation and order of the colours."""

from __future__ import annotations

from attrs import frozen

from cl_plugin_recall.backend import tf

CAFFE_MEAN = (104.00698793, 116.66876762, 122.67891434)
"""Mean colour of the Caffe-style weights, in B G R order."""


@frozen(kw_only=True)
class InputSpec:
    """What a set of weights expects to see: a property of the weight source.

    :param mean: subtracted channel by channel, in the order given by ``order``, of values 0..255.
    :param std: divided by afterwards; ones for Caffe-style weights.
    :param order: ``"rgb"`` or ``"bgr"``, the channel order of the network's input.
    """

    mean: tuple[float, float, float] = CAFFE_MEAN
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    order: str = "bgr"

    def apply(self, rgb: tf.Tensor) -> tf.Tensor:
        """Decoded RGB, any leading shape, -> what the network reads, float32."""
        x = tf.cast(rgb, tf.float32)
        if self.order == "bgr":
            x = tf.reverse(x, [-1])
        x = x - tf.constant(self.mean, tf.float32)
        return x if self.std == (1.0, 1.0, 1.0) else x / tf.constant(self.std, tf.float32)


LEGACY_INPUT = InputSpec(order="rgb")
"""The reference's input: RGB images minus a mean meant for BGR."""
