"""Settings of data sets, models, memories and learners. Every default is the paper's; profiles make them small.

Sources name a section of the paper, or a file of the authors' code, https://github.com/MorganBDT/crumb.
"""

from __future__ import annotations

from attrs import field, frozen, validators

from cl_kernel import Asset, doc

positive = validators.gt(0)
not_negative = validators.ge(0)
share = validators.and_(validators.ge(0), validators.le(1))

ASSETS = {
    "core50": Asset(
        name="core50",
        summary="CORe50 at 128x128 with core50_dirmap.csv",
        files=("core50_dirmap.csv", "core50_128x128"),
        origin="http://bias.csr.unibo.it/maltoni/download/core50/core50_128x128.zip (https://vlomonaco.github.io/core50/)",
    ),
    "toybox": Asset(
        name="toybox",
        summary="Toybox frames with toybox_dirmap.csv (clk crumb extract, sample)",
        files=("toybox_dirmap.csv", "images"),
        origin="the three parts at https://aivaslab.github.io/toybox/ (folders households, animals, vehicles)",
    ),
    "ilab2mlight": Asset(
        name="ilab2mlight",
        summary="iLab-2M-Light in folders (clk crumb index, sample, distribute)",
        files=("ilab2mlight_dirmap.csv",),
        origin="http://ilab.usc.edu/ilab2m/iLab-2M-Light.tar.gz (https://bmobear.github.io/projects/viva/)",
    ),
    "cifar100": Asset(
        name="cifar100",
        summary="CIFAR-100 as train|test/CLASS/*.png with cifar100_dirmap.csv",
        files=("cifar100_dirmap.csv", "train", "test"),
        origin="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    ),
    "imagenet": Asset(
        name="imagenet",
        summary="ImageNet-1k as train|val/WNID/*.JPEG with imagenet_dirmap.csv",
        files=("imagenet_dirmap.csv", "train", "val"),
        origin="ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar at https://www.image-net.org/download.php "
        "(folders train and val), LOC_val_solution.csv at https://www.kaggle.com/c/imagenet-object-localization-challenge",
    ),
    "icubworldtransf": Asset(
        name="icubworldtransf",
        summary="iCubWorld Transformations with icubworldtransf_dirmap.csv",
        files=("icubworldtransf_dirmap.csv",),
        origin="parts 1 to 4 at https://robotology.github.io/iCubWorld/#icubworld-transformations-modal",
    ),
}
WEIGHTS = {
    "squeezenet": Asset(
        name="torchvision",
        summary="SqueezeNet 1.0 weights of torchvision (IMAGENET1K_V1)",
        files=("squeezenet1_0-b66bff10.pth",),
        origin="https://download.pytorch.org/models/squeezenet1_0-b66bff10.pth",
    ),
    "mobilenet": Asset(
        name="torchvision",
        summary="MobileNetV2 weights of torchvision (IMAGENET1K_V1)",
        files=("mobilenet_v2-b0353104.pth",),
        origin="https://download.pytorch.org/models/mobilenet_v2-b0353104.pth",
    ),
}
BASE_SKIP = doc("images left out at the start of each class of a base folder, for a stream with that dataset.limit")
SCENARIOS = ("iid", "class_iid", "instance", "class_instance")


# ---- data ------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Ordered:
    """What all streams of this plugin let one choose."""

    scenario: str = field(
        default="class_instance",
        validator=validators.in_(SCENARIOS),
        metadata=doc(
            "order of the images: " + ", ".join(SCENARIOS), source="MorganBDT/crumb, dataloaders/task_setup.py"
        ),
    )
    offline: bool = field(default=False, metadata=doc("each task holds everything so far, shuffled (upper bound)"))
    classes_per_task: int = field(default=0, validator=not_negative, metadata=doc("classes a task; 0: the data set's"))
    order: int = field(default=-1, metadata=doc("number of the class order; -1: the run's seed"))


@frozen(kw_only=True)
class Ministream(Ordered):
    """The toy stream."""

    classes_per_task: int = field(default=2, validator=positive, metadata=doc("classes a task"))
    clips_per_task: int = field(default=48, validator=positive, metadata=doc("clips a task, scenario instance"))
    images_per_task: int = field(default=576, validator=positive, metadata=doc("images a task, scenario iid"))
    n_objects: int = field(default=6, validator=positive, metadata=doc("objects a class"))
    data_seed: int = field(default=0, metadata=doc("seed of the images themselves"))


@frozen(kw_only=True)
class Dirmap(Ordered):
    """A data set with a dirmap."""

    size: int = field(
        default=224,
        validator=positive,
        metadata=doc("side of the square images", source="MorganBDT/crumb, dataloaders/"),
    )
    test_sessions: tuple[int, ...] = field(
        default=(),
        converter=tuple,
        metadata=doc("sessions held out; empty: the paper's", source="MorganBDT/crumb, dataloaders/task_setup.py"),
    )
    lists: str = field(
        default="",
        metadata=doc(
            "folder of task file lists, of the authors or of clk crumb lists: tasks, order and labels are theirs; "
            "{run} in it stands for the number of the class order",
            source="MorganBDT/crumb, dataloaders/task_setup.py",
        ),
    )
    clips_per_task: int = field(default=80, validator=positive, metadata=doc("clips a task, scenario instance"))
    images_per_task: int = field(default=1200, validator=positive, metadata=doc("images a task, scenario iid"))
    reduced: bool = field(
        default=False,
        metadata=doc("decode JPEGs at a half, a quarter or an eighth where they stay as large as asked: faster"),
    )


@frozen(kw_only=True)
class Folder(Ordered):
    """Images in the ImageNet layout."""

    scenario: str = field(
        default="class_iid",
        validator=validators.in_(("iid", "class_iid")),
        metadata=doc("order of the images: iid or class_iid"),
    )
    classes_per_task: int = field(default=2, validator=positive, metadata=doc("classes a task"))
    images_per_task: int = field(default=1200, validator=positive, metadata=doc("images a task, scenario iid"))
    path: str = field(default="", metadata=doc("folder with train/CLASS/ and val/CLASS/"))
    size: int = field(default=224, validator=positive, metadata=doc("side of the square images"))
    limit: int = field(default=0, validator=not_negative, metadata=doc("images a class and side; 0: all"))
    in_memory: bool = field(default=False, metadata=doc("decode everything once and keep it"))
    reduced: bool = field(
        default=False,
        metadata=doc("decode JPEGs at a half, a quarter or an eighth where they stay as large as asked: faster"),
    )


# ---- networks --------------------------------------------------------------------------------


@frozen(kw_only=True)
class Network:
    """What all networks of this plugin let one choose."""

    frozen: bool = field(default=True, metadata=doc("freeze the part below the cut", source="sec. 2"))
    weights: str = field(
        default="imagenet",
        metadata=doc("imagenet: torchvision's file below a data root; none: random; or a weight file of this plugin"),
    )


@frozen(kw_only=True)
class Squeezenet(Network):
    """SqueezeNet 1.0."""

    rectified: bool = field(
        default=True,
        metadata=doc(
            "ReLU after the class layer; off for learners that take sigmoids of scores (lwf)",
            source="MorganBDT/crumb, agents/crumb_net.py",
        ),
    )
    cut: int = field(default=12, metadata=doc("first layer that learns: 12 (late) or 3 (early)", source="sec. 2"))
    size: int = field(default=224, validator=positive, metadata=doc("images are resized to this side"))


@frozen(kw_only=True)
class Mobilenet(Network):
    """MobileNetV2."""

    cut: int = field(default=8, metadata=doc("first layer that learns", source="sec. 2"))
    size: int = field(default=224, validator=positive, metadata=doc("images are resized to this side"))
    live_batchnorm: bool = field(default=False, metadata=doc("frozen batch norm follows the data, as shipped"))


@frozen(kw_only=True)
class Tiny(Network):
    """A small network for 32x32 images."""

    rectified: bool = field(
        default=True,
        metadata=doc(
            "ReLU after the class layer; off for learners that take sigmoids of scores (lwf)",
            source="MorganBDT/crumb, agents/crumb_net.py",
        ),
    )
    weights: str = field(default="base", metadata=doc("base: pretrained on the base set; none; or a file"))
    base: str = field(
        default="main", metadata=doc("base set: main (toy, 20 classes), or a folder of your images, CLASS/*")
    )
    base_skip: int = field(default=0, validator=not_negative, metadata=BASE_SKIP)
    base_epochs: int = field(default=12, validator=positive, metadata=doc("epochs over the base set"))
    base_images: int = field(default=150, validator=positive, metadata=doc("base images a class"))
    base_seed: int = field(default=0, metadata=doc("seed of the base set and of the pretraining"))


# ---- memory ----------------------------------------------------------------------------------


@frozen(kw_only=True)
class Blocks:
    """Codec ``crumb:blocks``: numbers of memory blocks."""

    n_blocks: int = field(default=256, validator=positive, metadata=doc("memory blocks K", source="sec. 2"))
    length: int = field(
        default=0,
        validator=not_negative,
        metadata=doc("length L of a block; 0: the largest up to 16 that divides the channels", source="sec. 2"),
    )
    init: str = field(
        default="random_distmatch_sparse", metadata=doc("start values", source="MorganBDT/crumb, agents/crumbr.py")
    )
    sigma: float | None = field(
        default=None,
        validator=validators.optional(not_negative),
        metadata=doc(
            "spread of the maps that matched starts copy; left out: 14 for SqueezeNet cut 12, 0.73 for cut 3, "
            "for other networks that of their first batch of maps",
            source="MorganBDT/crumb, agents/crumbr.py",
        ),
    )
    sparsity: float | None = field(
        default=None,
        validator=validators.optional(share),
        metadata=doc(
            "share of zeros of matched starts; left out: 0.64 for SqueezeNet cut 12, 0.25 for cut 3, for other "
            "networks that of their first batch of maps",
            source="MorganBDT/crumb, agents/crumbr.py",
        ),
    )
    high: float | None = field(
        default=None,
        metadata=doc("ones of rigid_everyperm; left out: 5/3 of sigma", source="MorganBDT/crumb, agents/crumbr.py"),
    )
    low: float | None = field(default=None, metadata=doc("zeros of rigid_everyperm; left out: a twentieth of its ones"))
    jitter: float = field(default=0.1, validator=not_negative, metadata=doc("noise of rigid_everyperm"))
    seed: int = field(default=0, metadata=doc("seed of the start values: that of the pretraining, shared by all runs"))


# ---- learners --------------------------------------------------------------------------------


@frozen(kw_only=True)
class Steps:
    """What every learner of the framework has."""

    lr: float = field(
        default=1e-3, validator=positive, metadata=doc("learning rate", source="MorganBDT/crumb, experiment_aug.py")
    )
    momentum: float = field(
        default=0.9,
        validator=not_negative,
        metadata=doc("momentum of SGD", source="MorganBDT/crumb, experiment_aug.py"),
    )
    weight_decay: float = field(
        default=1e-4, validator=not_negative, metadata=doc("weight decay", source="MorganBDT/crumb, experiment_aug.py")
    )
    batch_size: int = field(
        default=21, validator=positive, metadata=doc("new examples a step", source="MorganBDT/crumb, experiment_aug.py")
    )
    first_epochs: int = field(
        default=10,
        validator=positive,
        metadata=doc("passes over the first task", source="MorganBDT/crumb, experiment_aug.py"),
    )
    epochs: int = field(
        default=1,
        validator=positive,
        metadata=doc("passes over later tasks", source="MorganBDT/crumb, experiment_aug.py"),
    )
    shuffle: bool = field(default=False, metadata=doc("shuffle a task; the papers keep the stream's order"))
    predict_batch: int = field(default=256, validator=positive, metadata=doc("examples a prediction step"))


@frozen(kw_only=True)
class Crumb(Steps):
    """The method."""

    storage: str = field(
        default="feature",
        validator=validators.in_(("feature", "image", "raw_feature", "enhanced_raw_feature", "merec")),
        metadata=doc(
            "what is kept: block numbers, images, maps, weighted maps, or moments",
            source="MorganBDT/crumb, agents/crumb.py",
        ),
    )
    replay_times: int = field(
        default=1,
        validator=not_negative,
        metadata=doc("replay steps a new batch", source="MorganBDT/crumb, experiment_aug.py"),
    )
    replay_batch: int = field(
        default=0,
        validator=not_negative,
        metadata=doc(
            "remembered examples a replay step; 0: as many as new ones", source="MorganBDT/crumb, agents/crumb.py"
        ),
    )
    replay_coef: float = field(
        default=5.0,
        validator=not_negative,
        metadata=doc("weight of the replay loss", source="MorganBDT/crumb, experiment_aug.py"),
    )
    replay_in_first_task: bool = field(
        default=False, metadata=doc("replay in the first task too", source="MorganBDT/crumb, experiment_aug.py")
    )
    w_out: float = field(
        default=1.0,
        validator=not_negative,
        metadata=doc("weight of the loss through the codebook", source="MorganBDT/crumb, agents/crumb.py"),
    )
    w_direct: float = field(
        default=0.0,
        validator=not_negative,
        metadata=doc("weight of the direct loss", source="MorganBDT/crumb, agents/crumb.py"),
    )
    freeze_codebook: bool = field(default=False, metadata=doc("the codebook does not learn in the stream"))
    extractor_epochs: int = field(
        default=0, validator=not_negative, metadata=doc("first-task epochs in which the part below the cut learns too")
    )
    pretraining_epochs: int = field(
        default=0, validator=not_negative, metadata=doc("first-task epochs with the losses of the pretraining")
    )
    lr_decrement: float = field(
        default=0.0,
        validator=not_negative,
        metadata=doc("taken off the rate after each epoch", source="MorganBDT/crumb, experiment_aug.py"),
    )
    lr_min: float = field(
        default=0.0,
        validator=not_negative,
        metadata=doc("floor of the rate", source="MorganBDT/crumb, experiment_aug.py"),
    )
    flip: bool = field(default=False, metadata=doc("mirror replayed maps at random"))
    flip_axis: str = field(
        default="width", validator=validators.in_(("width", "height")), metadata=doc("height is what the original does")
    )
    crop: bool = field(default=False, metadata=doc("random resized crops of maps"))
    keep_best: str = field(
        default="no",
        validator=validators.in_(("no", "first", "every")),
        metadata=doc("take the best epoch of the first or of every task; on test data unless validate is set"),
    )
    best_by: str = field(
        default="direct", validator=validators.in_(("direct", "mem")), metadata=doc("accuracy keep_best goes by")
    )
    validate: bool = field(default=False, metadata=doc("hold out a quarter of the test set for keep_best"))
    predict: str = field(
        default="direct",
        validator=validators.in_(("direct", "mem")),
        metadata=doc("scores from the map, or from its reconstruction", source="MorganBDT/crumb, agents/crumb_net.py"),
    )
    perturb: str = field(
        default="",
        metadata=doc(
            "disturb maps of test images: spatial, feature, ...", source="MorganBDT/crumb, agents/crumb_net.py"
        ),
    )
    start: str = field(
        default="pretrained",
        validator=validators.in_(("pretrained", "weights", "codebook", "none")),
        metadata=doc(
            "what is taken from pretraining: weights and codebook, one of them, or nothing",
            source="MorganBDT/crumb, scripts/",
        ),
    )
    pretraining: str = field(
        default="unablated",
        metadata=doc(
            "name of the pretraining: what a pretraining run writes beside its weights, and what a streaming run needs",
            harmless="a name that is written down and compared",
        ),
    )
    pretrained_as: str = field(
        default="",
        metadata=doc(
            "which pretraining the files of learner.pretrained are of, when they do not say so themselves",
            harmless="a name that is compared",
        ),
    )
    pretrained: str = field(
        default="",
        metadata=doc(
            "folder of the run that pretrained, or stem of files STEM_net.pth and STEM_mem.pth; needed unless base or "
            "start says otherwise"
        ),
    )
    base: str = field(
        default="",
        metadata=doc(
            "pretrain head and codebook on the toy base set, main (20 classes) or small (4, the CIFAR-100 arm), "
            "or on a folder of your images, CLASS/*"
        ),
    )
    base_skip: int = field(default=0, validator=not_negative, metadata=BASE_SKIP)
    pretrain_lr: float = field(
        default=1e-3,
        validator=positive,
        metadata=doc("learning rate of the pretraining", source="MorganBDT/crumb, scripts/"),
    )
    pretrain_batch: int = field(
        default=128, validator=positive, metadata=doc("examples a pretraining step", source="MorganBDT/crumb, scripts/")
    )
    pretrain_epochs: int = field(
        default=10, validator=positive, metadata=doc("passes over the base set", source="MorganBDT/crumb, scripts/")
    )
    pretrain_w_out: float = field(
        default=1.0,
        validator=not_negative,
        metadata=doc("pretraining weight of the loss through the codebook", source="MorganBDT/crumb, agents/crumb.py"),
    )
    pretrain_w_direct: float = field(
        default=1.0,
        validator=not_negative,
        metadata=doc(
            "pretraining weight of the direct loss; the released scripts have 0",
            source="MorganBDT/crumb, agents/crumb.py",
        ),
    )
    analyse: bool = field(
        default=False, metadata=doc("after the last task, also score disturbed maps and count the use of blocks")
    )
    style: str = field(
        default="",
        metadata=doc(
            "folder of the same test images in another style, as .png: analysed too",
            source="MorganBDT/crumb, experiment_aug.py",
        ),
    )
    save_every_epoch: bool = field(
        default=False, metadata=doc("keep the weights of every epoch", source="MorganBDT/crumb, experiment_aug.py")
    )
    arm: str = field(default="unablated", metadata=doc("name of the ablation arm in the csv files"))
    top_k: tuple[int, ...] = field(default=(1,), converter=tuple, metadata=doc("accuracies in the csv files"))
    write_tables: bool = field(default=True, metadata=doc("csv files of the original's form in the run folder"))
