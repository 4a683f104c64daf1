"""Settings of networks by name; light, imports no torch."""

from __future__ import annotations

from attrs import field, frozen, validators

from cl_kernel.contract.offers import doc

CUT = (
    "first layer that learns, as 'clk model' lists them; head: the classifier; maps: what pools the last maps; "
    "empty: all of them"
)


@frozen(kw_only=True)
class Backbone:
    """A network from a library, a file or a package, with its own preprocessing in front."""

    name: str = field(default="", metadata=doc("the network, as its library calls it"))
    weights: str = field(
        default="default",
        metadata=doc(
            "default: those that lie on this machine, refused when there are none; hub: may be downloaded; "
            "none: random; or a FILE (.pth, .pt, .safetensors)"
        ),
    )
    cut: str = field(default="head", metadata=doc(CUT))
    frozen: bool = field(default=True, metadata=doc("what lies below the cut keeps its weights and statistics"))
    new_head: bool = field(
        default=True, metadata=doc("a new classifier instead of the one that comes with the weights")
    )
    size: int = field(
        default=0,
        validator=validators.ge(0),
        metadata=doc("images are resized to this edge in front of the network; 0: as the data set gives them"),
    )
    mean: tuple[float, ...] = field(
        default=(), converter=tuple, metadata=doc("mean of each channel in [0, 1]; empty: that of the weights")
    )
    std: tuple[float, ...] = field(
        default=(), converter=tuple, metadata=doc("deviation of each channel in [0, 1]; empty: that of the weights")
    )
    interpolation: str = field(
        default="",
        validator=validators.in_(("", "bilinear", "bicubic")),
        metadata=doc("how images are resized; empty: as the weights were trained"),
    )
    drop: tuple[str, ...] = field(
        default=(), converter=tuple, metadata=doc("beginnings of tensor names that a weight file may hold too many")
    )


@frozen(kw_only=True)
class OwnNetwork(Backbone):
    """A network of one's own, which learns as a whole unless it is cut."""

    cut: str = field(default="", metadata=doc(CUT))
    new_head: bool = field(default=False, metadata=doc("a new classifier in place of the network's last linear layer"))
