"""Every setting with its default from the paper's configuration OVERLAPPED."""

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
        metadata=doc(
            "classes of step 0 and of each later step, as 15-1, 10-3-7; 'joint' for all at once, 'order' for the steps "
            "of dataset.order",
            source="sec. 5",
        ),
    )
    order: str = field(
        default="",
        metadata=doc(
            "order in which classes are learnt: numbers or names parted by commas, a slash where a step ends; or a "
            "published order by name (voc-b ... voc-w, ade-b, ade-c); empty for the data's own",
            counted="the rows and labels of each stage",
        ),
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
        default="",
        metadata=doc(
            "folder with JPEGImages, SegmentationClass, ImageSets; empty to search the data roots",
            counted="the images in it",
        ),
    )
    train_list: str = field(
        default="",
        metadata=doc(
            "image list of training, or several parted by commas; empty for trainaug or train_aug if there is one, "
            "else train"
        ),
    )
    val_list: str = field(default="val", metadata=doc("image list of validation"))
    prepared: bool = field(default=False, metadata=doc("read the tfrecords written by `clk data prepare recall:voc`"))


@frozen(kw_only=True)
class Folder(Steps):
    """Any images with label pictures, index values or colours."""

    folder: str = field(
        default="",
        metadata=doc(
            "folder with images/train, masks/train, the same for val, and classes.txt; empty for the first data root",
            counted="the images and masks in it",
        ),
    )
    background: bool = field(
        default=True,
        metadata=doc("whether label 0 is background; otherwise label 0 is the first class, and none is background"),
    )


@frozen(kw_only=True)
class Ade20k(Steps):
    """ADE20K of the scene parsing benchmark, 150 classes."""

    structure: str = field(
        default="100-10", metadata=doc("classes of each step: 100-50, 100-10, 100-5, 50-50", source="arXiv 2002.00718")
    )
    folder: str = field(
        default="",
        metadata=doc("ADEChallengeData2016, or its parent; empty to search the data roots", counted="the images in it"),
    )


@frozen(kw_only=True)
class Cityscapes(Steps):
    """Cityscapes, 19 classes, by classes or by cities."""

    structure: str = field(default="13-1", metadata=doc("classes, or cities, of each step", source="arXiv 2011.11390"))
    by: Literal["class", "city"] = field(
        default="class", metadata=doc("what the steps bring: classes, or cities with all classes")
    )
    folder: str = field(
        default="",
        metadata=doc("folder with leftImg8bit and gtFine; empty to search the data roots", counted="the images in it"),
    )


@frozen(kw_only=True)
class Shapes(Steps):
    """The toy data: striped shapes, 5 forms x 4 hues."""

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
        default="", metadata=doc("checkpoint prefix or file of encoder weights, or the word random", source="sec. 4")
    )
    weight_source: Literal["caffe", "slim", "torchvision", "keras"] = field(
        default="caffe",
        metadata=doc("who trained them: caffe, slim, torchvision, keras; sets epsilon, mean, channel order, stride"),
    )
    legacy_mean_rgb: bool = field(default=False, metadata=doc("feed RGB minus the BGR mean, as the reference does"))


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
            "TF-Hub folder of the generator (BigGAN); empty for the toy data, or ready images below a data root",
            source="sec. 4.2",
        ),
    )
    mapping: str = field(
        default="", metadata=doc("JSON of `clk recall map-classes`: which generator class stands for which class")
    )
    per_class: int = field(default=500, metadata=doc("images per class", source="reference code"))
    stand_in: bool = field(default=False, metadata=doc("draw from the toy data's generator"))
    truncation: float = field(default=1.0, metadata=doc("scale of the truncated normal", source="reference code"))
    batch: int = field(
        default=5, validator=validators.ge(1), metadata=doc("images per generator call", source="reference code")
    )


@frozen(kw_only=True)
class FlickrReplay:
    """Images of old classes found by a photo search, downloaded by `clk recall make-replay flickr`."""

    folder: str = field(
        default="",
        metadata=doc("folder of class folders; empty for replay_images/flickr below a data root, or the toy data"),
    )
    stand_in: bool = field(default=False, metadata=doc("take the toy data's photos"))
    per_class: int = field(default=1000, metadata=doc("images per class at most", source="reference code"))


@frozen(kw_only=True)
class FolderReplay:
    """Any images sorted by class."""

    path: str = field(default="", metadata=doc("folder with one folder a class: 03, 03_bird or bird"))
    per_class: int = field(default=0, metadata=doc("images per class at most; 0 for all"))


TRAINED = ("first", "helper", "later")
"""Phases in which a network is trained."""
LABEL = "a label in reports and file names"


@frozen(kw_only=True)
class Training:
    """Step 0 and the later steps of any method; names as in the reference's gin files."""

    config: str = field(
        default="",
        metadata=doc(
            "one of the nine shipped configurations, stated for reports; set by --config",
            harmless="what it sets counts",
        ),
    )
    test_name: str = field(default="OVERLAPPED", metadata=doc("name of the configuration in reports", harmless=LABEL))
    validate: bool = field(default=True, metadata=doc("write the text report after each step", harmless="a report"))

    parameters_common_index: int = field(default=3, metadata=doc("label of the common section", harmless=LABEL))
    batch_size: int = field(
        default=4, validator=validators.ge(1), metadata=doc("images per step", source="config", only=TRAINED)
    )
    train_image_size: int = field(
        default=321,
        validator=validators.ge(1),
        metadata=doc("side of the training crop", unit="pixels", source="config", only=TRAINED),
    )
    momentum: float = field(
        default=0.9, validator=validators.ge(0), metadata=doc("of heavy-ball SGD", source="config", only=TRAINED)
    )
    start_decay_step: int = field(
        default=0,
        validator=validators.ge(0),
        metadata=doc("step at which the learning rate starts to fall", only=TRAINED),
    )
    decay_power: float = field(
        default=0.9,
        validator=validators.ge(0),
        metadata=doc("exponent of the polynomial decay", source="config", only=TRAINED),
    )
    l2_decay: float = field(
        default=1e-4,
        validator=validators.ge(0),
        metadata=doc("weight decay on convolution kernels", source="config", only=TRAINED),
    )

    parameters_first_step_index: int = field(default=1, metadata=doc("label of the first-step section", harmless=LABEL))
    lr_initial_value: float = field(
        default=5e-4,
        validator=validators.ge(0),
        metadata=doc("learning rate at the start of step 0", source="config", only="first"),
    )
    lr_final_value: float = field(
        default=5e-6, validator=validators.ge(0), metadata=doc("and at its end", only=TRAINED)
    )
    training_steps_per_class: int = field(
        default=1500, validator=validators.ge(1), metadata=doc("training steps of step 0 per class", only="first")
    )
    decay_steps_per_class: int = field(
        default=1500,
        validator=validators.ge(1),
        metadata=doc("horizon of the decay per class, background counted", only="first"),
    )

    parameters_incremental_index: int = field(
        default=0, metadata=doc("label of the incremental section", harmless=LABEL)
    )
    lr_initial_value_incremental: float = field(
        default=5e-4,
        validator=validators.ge(0),
        metadata=doc("learning rate of later steps at the start", only="later"),
    )
    lr_final_value_incremental: float = field(
        default=5e-6, validator=validators.ge(0), metadata=doc("and at the end", only="later")
    )
    training_steps_per_class_incremental: int = field(
        default=1500, validator=validators.ge(1), metadata=doc("training steps per new class", only="later")
    )
    decay_steps_per_class_incremental: int = field(
        default=1500, validator=validators.ge(1), metadata=doc("horizon of the decay per new class", only="later")
    )

    optimiser: Literal["momentum", "adam"] = field(
        default="momentum", metadata=doc("momentum (the papers') or adam (the toy data's)", only=TRAINED)
    )
    lr_floor: Literal["legacy", "own"] = field(
        default="legacy",
        metadata=doc(
            "constant added to every schedule: legacy, that of step 0, as RECALL's code does; own, the phase's",
            only=TRAINED,
        ),
    )
    augment_scale: tuple[float, float] = field(
        default=(0.5, 1.5), metadata=doc("range of the random scale", source="reference code", only=TRAINED)
    )
    legacy_batching: bool = field(
        default=False, metadata=doc("batch before shuffling in step 0 and helpers", only=("first", "helper"))
    )
    reuse: bool = field(
        default=True,
        metadata=doc(
            "take step-0 models and helpers from the cache when all they depend on is equal",
            harmless="what is reused is what would be made",
        ),
    )
    devices: int = field(
        default=1,
        validator=validators.ge(1),
        metadata=doc("devices that share a batch through tf.distribute", only=TRAINED),
    )
    precision: Literal["float32", "bfloat16", "float16"] = field(
        default="float32",
        metadata=doc("type of activations while training; weights, loss and normalisation stay float32", only=TRAINED),
    )
    xla: bool = field(
        default=False,
        metadata=doc(
            "compile the training step with XLA, which has no deterministic gradient of max pooling, on a CPU neither",
            only=TRAINED,
            when={"deterministic": False},
        ),
    )
    deterministic: bool = field(
        default=True, metadata=doc("only operations that repeat bit for bit; some are slower on GPUs", only=TRAINED)
    )
    overlays: int = field(
        default=6,
        validator=validators.ge(0),
        metadata=doc(
            "validation pictures with prediction beside truth written after the last step", harmless="pictures"
        ),
    )


@frozen(kw_only=True)
class Recall(Training):
    """The method; names as in the reference's gin files."""

    helper_decoders_one_class: bool = field(default=False, metadata=doc("one helper decoder a class", only="later"))
    parameters_helper_index: int = field(default=0, metadata=doc("label of the helper section", harmless=LABEL))
    lr_initial_value_helper: float = field(
        default=2e-4, validator=validators.ge(0), metadata=doc("learning rate of helpers at the start", only="helper")
    )
    lr_final_value_helper: float = field(
        default=2e-6, validator=validators.ge(0), metadata=doc("and at the end", only="helper")
    )
    training_steps_per_class_helper: int = field(
        default=1000, validator=validators.ge(1), metadata=doc("training steps of a helper per class", only="helper")
    )
    decay_steps_per_class_helper: int = field(
        default=1000, validator=validators.ge(1), metadata=doc("horizon of the decay per class", only="helper")
    )
    mix_labels: bool = field(
        default=True,
        metadata=doc("inpaint the background of new images with the model of before", source="sec. 4.3", only="later"),
    )
    interleave_ratio_old: int = field(
        default=4,
        validator=validators.ge(0),
        metadata=doc("replay images in a row; 0 switches replay off", only="later"),
    )
    interleave_ratio_new: int = field(
        default=4, validator=validators.ge(0), metadata=doc("new images in a row", only="later")
    )
    legacy_replay_preproc: bool = field(
        default=False,
        metadata=doc("pseudo-label raw images without mean subtraction, as the reference's code", only="labels"),
    )
    legacy_jpeg: bool = field(
        default=False,
        metadata=doc("re-encode replay and inpainted images at quality 75", only=("labels", "inpainting")),
    )
    helper_ignore_void: bool = field(
        default=False, metadata=doc("leave 255 out of helper training instead of calling it background", only="helper")
    )
    inpaint_void: bool = field(default=True, metadata=doc("inpaint 255 too, as the method was run", only="inpainting"))
    debug_every: int = field(
        default=20,
        validator=validators.ge(0),
        metadata=doc(
            "every n-th pseudo-labelled image is kept as pictures; 0 for none", source="reference code", only="labels"
        ),
    )


@frozen(kw_only=True)
class RecallMib(Recall):
    """RECALL's replay and inpainting with MiB's losses on the decoder."""

    distillation: float = field(
        default=10.0,
        validator=validators.ge(0),
        metadata=doc("weight of the distillation", source="arXiv 2002.00718", only="later"),
    )


@frozen(kw_only=True)
class Distilled(Training):
    """Methods that keep old classes by distillation: schedule of their common code base."""

    batch_size: int = field(
        default=24, validator=validators.ge(1), metadata=doc("images per step", source="arXiv 2002.00718", only=TRAINED)
    )
    train_image_size: int = field(
        default=512,
        validator=validators.ge(1),
        metadata=doc("side of the training crop", unit="pixels", source="arXiv 2002.00718", only=TRAINED),
    )
    lr_initial_value: float = field(
        default=1e-2,
        validator=validators.ge(0),
        metadata=doc("learning rate at the start of step 0", source="arXiv 2002.00718", only="first"),
    )
    lr_final_value: float = field(default=0.0, validator=validators.ge(0), metadata=doc("and at its end", only=TRAINED))
    training_steps_per_class: int = field(
        default=800,
        validator=validators.ge(1),
        metadata=doc("training steps of step 0 per class; thirty epochs of VOC's 15 classes", only="first"),
    )
    decay_steps_per_class: int = field(
        default=750,
        validator=validators.ge(1),
        metadata=doc("horizon of the decay per class, background counted", only="first"),
    )
    lr_initial_value_incremental: float = field(
        default=1e-3,
        validator=validators.ge(0),
        metadata=doc("learning rate of later steps at the start", source="arXiv 2002.00718", only="later"),
    )
    lr_final_value_incremental: float = field(
        default=0.0, validator=validators.ge(0), metadata=doc("and at the end", only="later")
    )
    training_steps_per_class_incremental: int = field(
        default=600,
        validator=validators.ge(1),
        metadata=doc("training steps per new class; about thirty epochs of VOC's later classes", only="later"),
    )
    decay_steps_per_class_incremental: int = field(
        default=600, validator=validators.ge(1), metadata=doc("horizon of the decay per new class", only="later")
    )
    augment_scale: tuple[float, float] = field(
        default=(0.5, 2.0), metadata=doc("range of the random scale", source="arXiv 2002.00718", only=TRAINED)
    )


@frozen(kw_only=True)
class Lwf(Distilled):
    """Learning without forgetting, on pixels."""

    distillation: float = field(
        default=100.0,
        validator=validators.ge(0),
        metadata=doc("weight of the distillation", source="MiB's code", only="later"),
    )


@frozen(kw_only=True)
class Ilt(Distilled):
    """Distillation of logits and of features."""

    distillation: float = field(
        default=100.0,
        validator=validators.ge(0),
        metadata=doc("weight of the logits' distillation", source="MiB's code", only="later"),
    )
    features: float = field(
        default=100.0,
        validator=validators.ge(0),
        metadata=doc("weight of the features' distance", source="MiB's code", only="later"),
    )


@frozen(kw_only=True)
class Mib(Distilled):
    """Modelling the background."""

    distillation: float = field(
        default=10.0,
        validator=validators.ge(0),
        metadata=doc("weight of the distillation", source="arXiv 2002.00718", only="later"),
    )


@frozen(kw_only=True)
class Plop(Distilled):
    """Pooled distillation at several scales, pseudo-labels by entropy."""

    pooling: float = field(
        default=0.01,
        validator=validators.ge(0),
        metadata=doc("weight of the features' distance", source="PLOP's code", only="later"),
    )
    pooling_logits: float = field(
        default=5e-4,
        validator=validators.ge(0),
        metadata=doc("weight of the logits' distance", source="PLOP's code", only="later"),
    )
    scales: tuple[int, ...] = field(
        default=(1, 2, 4), metadata=doc("parts a side into which maps are cut", source="arXiv 2011.11390", only="later")
    )
    least_entropy: float = field(
        default=1e-3,
        validator=validators.ge(0),
        metadata=doc(
            "lowest threshold of a class, where its median entropy is lower", source="PLOP's code", only="later"
        ),
    )
