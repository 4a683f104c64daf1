"""Every setting with its default from the paper's configuration OVERLAPPED (spec 5, 6)."""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen, validators

from cl_kernel import doc

Protocol = Literal["sequential", "disjoint", "overlapped"]


@frozen(kw_only=True)
class Steps:
    """How a set of labelled images becomes a stream."""

    structure: str = field(
        default="15-1",
        metadata=doc("classes of step 0 and of each later step; 'joint' for all at once", source="sec. 5"),
    )
    protocol: Protocol = field(
        default="overlapped",
        metadata=doc("images and labels of later steps: sequential, disjoint or overlapped", source="sec. 5"),
    )
    protocol_first: Protocol = field(default="overlapped", metadata=doc("the same for step 0", source="config"))
    protocol_helpers: Protocol = field(
        default="overlapped", metadata=doc("the same for helper decoders", source="config")
    )
    validation: Literal["auto", "cumulative", "full"] = field(
        default="auto",
        metadata=doc(
            "validation images of a step: those whose highest class is known, or all; auto: the first if possible"
        ),
    )


@frozen(kw_only=True)
class Voc(Steps):
    """A folder in Pascal VOC's layout below the data root."""

    folder: str = field(
        default="", metadata=doc("folder with JPEGImages, SegmentationClass, ImageSets; empty to search the data roots")
    )
    train_list: str = field(
        default="", metadata=doc("image list of training; empty for trainaug if it exists, else train")
    )
    val_list: str = field(default="val", metadata=doc("image list of validation"))
    prepared: bool = field(default=False, metadata=doc("read the tfrecords written by `clk data prepare recall:voc`"))


@frozen(kw_only=True)
class Shapes(Steps):
    """The embedded stand-in: striped shapes, 5 forms x 4 hues."""

    per_class_first: int = field(
        default=40, validator=validators.ge(1), metadata=doc("training images for each class of the first fifteen")
    )
    per_class_later: int = field(
        default=40, validator=validators.ge(1), metadata=doc("training images for each later class")
    )
    n_val: int = field(default=240, validator=validators.ge(1), metadata=doc("validation images"))
    side: int = field(default=64, validator=validators.ge(1), metadata=doc("image side", unit="pixels"))
    data_seed: int = field(default=-1, metadata=doc("seed of the generator; -1 for the run's"))


@frozen(kw_only=True)
class Deeplab:
    """DeepLab-v2 with a ResNet-101."""

    divisor: int = field(default=1, validator=validators.ge(1), metadata=doc("every encoder width is divided by this"))
    units: tuple[int, ...] = field(default=(3, 4, 23, 3), metadata=doc("bottleneck units of the four blocks"))
    pretrained: str = field(
        default="", metadata=doc("checkpoint prefix or file of encoder weights; empty for random ones", source="sec. 4")
    )
    weight_source: Literal["caffe", "slim", "torchvision", "keras"] = field(
        default="caffe",
        metadata=doc("who trained them: caffe, slim, torchvision, keras; sets epsilon, mean, channel order, stride"),
    )
    legacy_mean_rgb: bool = field(
        default=False, metadata=doc("feed RGB minus the BGR mean, as the reference does (pitfall 3)")
    )


@frozen(kw_only=True)
class Small:
    """Six convolutions, trained from random weights in seconds or minutes."""

    rates: tuple[int, ...] = field(default=(1, 2, 3, 4), metadata=doc("dilations of the four decoder branches"))
    width: int = field(default=16, metadata=doc("channels of the first convolution; the others follow"))
    stride: Literal[4, 8] = field(
        default=4, metadata=doc("pixels a feature stands for: 4, or 8 for large images, where it sees twice as far")
    )


@frozen(kw_only=True)
class GanReplay:
    """Images of old classes from a class-conditional generator."""

    module: str = field(
        default="",
        metadata=doc(
            "TF-Hub folder of the generator (BigGAN); empty for the stand-in, or ready images below a data root",
            source="sec. 4.2",
        ),
    )
    mapping: str = field(
        default="", metadata=doc("JSON of `clk recall map-classes`: which generator class stands for which class")
    )
    per_class: int = field(default=500, metadata=doc("images per class", source="reference code"))
    stand_in: bool = field(default=False, metadata=doc("draw from the embedded stand-in's generator"))
    truncation: float = field(default=1.0, metadata=doc("scale of the truncated normal", source="reference code"))
    batch: int = field(
        default=5, validator=validators.ge(1), metadata=doc("images per generator call", source="reference code")
    )


@frozen(kw_only=True)
class FlickrReplay:
    """Images of old classes found by a photo search, downloaded by `clk recall make-replay flickr`."""

    folder: str = field(
        default="",
        metadata=doc("folder of class folders; empty for replay_images/flickr below a data root, or the stand-in"),
    )
    stand_in: bool = field(default=False, metadata=doc("take the embedded stand-in's photos"))
    per_class: int = field(default=1000, metadata=doc("images per class at most", source="reference code"))


@frozen(kw_only=True)
class FolderReplay:
    """Any images sorted by class."""

    path: str = field(default="", metadata=doc("folder with one folder a class: 03, 03_bird or bird"))
    per_class: int = field(default=0, metadata=doc("images per class at most; 0 for all"))


@frozen(kw_only=True)
class Recall:
    """The method; names as in the reference's gin files."""

    config: str = field(
        default="", metadata=doc("one of the nine shipped configurations, stated for reports; set by --config")
    )
    test_name: str = field(default="OVERLAPPED", metadata=doc("name of the configuration in reports"))
    helper_decoders_one_class: bool = field(default=False, metadata=doc("one helper decoder a class"))
    validate: bool = field(default=True, metadata=doc("write the text report after each step"))

    parameters_common_index: int = field(default=3, metadata=doc("label of the common section"))
    batch_size: int = field(default=4, validator=validators.ge(1), metadata=doc("images per step", source="config"))
    train_image_size: int = field(
        default=321,
        validator=validators.ge(1),
        metadata=doc("side of the training crop", unit="pixels", source="config"),
    )
    momentum: float = field(default=0.9, validator=validators.ge(0), metadata=doc("of heavy-ball SGD", source="config"))
    start_decay_step: int = field(
        default=0, validator=validators.ge(0), metadata=doc("step at which the learning rate starts to fall")
    )
    decay_power: float = field(
        default=0.9, validator=validators.ge(0), metadata=doc("exponent of the polynomial decay", source="config")
    )
    l2_decay: float = field(
        default=1e-4, validator=validators.ge(0), metadata=doc("weight decay on convolution kernels", source="config")
    )

    parameters_first_step_index: int = field(default=1, metadata=doc("label of the first-step section"))
    lr_initial_value: float = field(
        default=5e-4, validator=validators.ge(0), metadata=doc("learning rate at the start of step 0", source="config")
    )
    lr_final_value: float = field(default=5e-6, validator=validators.ge(0), metadata=doc("and at its end"))
    training_steps_per_class: int = field(
        default=1500, validator=validators.ge(1), metadata=doc("training steps of step 0 per class")
    )
    decay_steps_per_class: int = field(
        default=1500, validator=validators.ge(1), metadata=doc("horizon of the decay per class, background counted")
    )

    parameters_helper_index: int = field(default=0, metadata=doc("label of the helper section"))
    lr_initial_value_helper: float = field(
        default=2e-4, validator=validators.ge(0), metadata=doc("learning rate of helpers at the start")
    )
    lr_final_value_helper: float = field(default=2e-6, validator=validators.ge(0), metadata=doc("and at the end"))
    training_steps_per_class_helper: int = field(
        default=1000, validator=validators.ge(1), metadata=doc("training steps of a helper per class")
    )
    decay_steps_per_class_helper: int = field(
        default=1000, validator=validators.ge(1), metadata=doc("horizon of the decay per class")
    )

    parameters_incremental_index: int = field(default=0, metadata=doc("label of the incremental section"))
    mix_labels: bool = field(
        default=True, metadata=doc("inpaint the background of new images with the model of before", source="sec. 4.3")
    )
    lr_initial_value_incremental: float = field(
        default=5e-4, validator=validators.ge(0), metadata=doc("learning rate of later steps at the start")
    )
    lr_final_value_incremental: float = field(default=5e-6, validator=validators.ge(0), metadata=doc("and at the end"))
    training_steps_per_class_incremental: int = field(
        default=1500, validator=validators.ge(1), metadata=doc("training steps per new class")
    )
    decay_steps_per_class_incremental: int = field(
        default=1500, validator=validators.ge(1), metadata=doc("horizon of the decay per new class")
    )
    interleave_ratio_old: int = field(
        default=4, validator=validators.ge(0), metadata=doc("replay images in a row; 0 switches replay off")
    )
    interleave_ratio_new: int = field(default=4, validator=validators.ge(0), metadata=doc("new images in a row"))

    optimiser: Literal["momentum", "adam"] = field(
        default="momentum", metadata=doc("momentum (the paper's) or adam (the stand-in's)")
    )
    lr_floor: Literal["legacy", "own"] = field(
        default="legacy",
        metadata=doc("constant added to every schedule: legacy, that of step 0 (pitfall 6); own, the phase's"),
    )
    augment_scale: tuple[float, float] = field(
        default=(0.5, 1.5), metadata=doc("range of the random scale", source="reference code")
    )
    legacy_batching: bool = field(
        default=False, metadata=doc("batch before shuffling in step 0 and helpers (pitfall 12)")
    )
    legacy_replay_preproc: bool = field(
        default=False, metadata=doc("pseudo-label raw images without mean subtraction (pitfall 2)")
    )
    legacy_jpeg: bool = field(
        default=False, metadata=doc("re-encode replay and inpainted images at quality 75 (pitfall 10)")
    )
    helper_ignore_void: bool = field(
        default=False, metadata=doc("leave 255 out of helper training instead of calling it background (pitfall 7)")
    )
    inpaint_void: bool = field(default=True, metadata=doc("inpaint 255 too, as the method was run (pitfall 8)"))
    reuse: bool = field(
        default=True, metadata=doc("take step-0 models and helpers from the cache when all they depend on is equal")
    )
    devices: int = field(
        default=1, validator=validators.ge(1), metadata=doc("devices that share a batch through tf.distribute")
    )
    debug_every: int = field(
        default=20,
        validator=validators.ge(0),
        metadata=doc("every n-th pseudo-labelled image is kept as pictures; 0 for none", source="reference code"),
    )
    overlays: int = field(
        default=6,
        validator=validators.ge(0),
        metadata=doc("validation pictures with prediction beside truth written after the last step"),
    )
