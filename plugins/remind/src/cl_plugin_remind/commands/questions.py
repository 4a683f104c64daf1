"""CLEVR and TDIUC: annotations, image features, codes."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

Handler = Callable[[Namespace, Any], int]


def prepare(parser: ArgumentParser) -> Handler:
    """CLEVR or TDIUC annotations to HDF5."""
    _vqa_arguments(parser)
    parser.add_argument(
        "--encoder",
        default="cl_plugin_remind.data.prepare:hashed",
        help="module:function, sentences -> float32 [n, 2048]",
    )
    parser.add_argument(
        "--question-vectors",
        default="",
        metavar="FILE",
        help="finished vectors instead: .h5 (feats, qids), .npy or .pkl, {side} in the name standing for train and val",
    )

    def handle(options: Namespace, console: Any) -> int:
        from cl_plugin_remind.data.prepare import prepare as write

        sizes = write(options.dataset, options.root, _folder(options), options.encoder, options.question_vectors)
        for name, count in sizes.items():
            console.print(f"{name}: {count} questions")
        console.json(sizes)
        return 0

    return handle


def features(parser: ArgumentParser) -> Handler:
    """Image features of CLEVR or TDIUC."""
    _vqa_arguments(parser)
    parser.add_argument("--network", default="", help="resnet18 ... resnet152; default as published")
    parser.add_argument("--stage", type=int, default=0, help="last stage, 1 to 4; default as published")
    parser.add_argument("--weights", default="torchvision", help="weight file, or torchvision for its ImageNet weights")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=32)

    def handle(options: Namespace, console: Any) -> int:
        from cl_kernel.torch.device import resolve
        from cl_plugin_remind.data.features import extract

        path = extract(
            options.dataset,
            options.root,
            _folder(options),
            network=options.network,
            stage=options.stage,
            weights="" if options.weights == "random" else options.weights,
            batch_size=options.batch,
            device=resolve(options.device),
        )
        console.print(f"wrote {path}")
        console.json(str(path))
        return 0

    return handle


def encode(parser: ArgumentParser) -> Handler:
    """Image features of CLEVR or TDIUC as codes."""
    _vqa_arguments(parser)
    parser.add_argument("--order", choices=("iid", "qtype"), required=True)
    parser.add_argument("--codebooks", type=int, default=32)
    parser.add_argument("--codebook-size", type=int, default=256)
    parser.add_argument("--pq-images", choices=("base", "published"), default="base")
    parser.add_argument("--decoded", action="store_true", help="also write the authors' file of decoded floats")

    def handle(options: Namespace, console: Any) -> int:
        from cl_plugin_remind.data.features import encode as write
        from cl_plugin_remind.settings import Questions

        settings = Questions(
            order=options.order,
            codebooks=options.codebooks,
            codebook_size=options.codebook_size,
            pq_images=options.pq_images,
        )
        path = write(options.dataset, _folder(options), settings, decoded=options.decoded)
        console.print(f"wrote {path}")
        console.json(str(path))
        return 0

    return handle


def _vqa_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("dataset", choices=("clevr", "tdiuc"))
    parser.add_argument("--root", type=Path, required=True, help="folder with the published files, or one above it")
    parser.add_argument("--output", type=Path, default=None, help="default: prepared/ beside the published files")


def _folder(options: Namespace) -> Path:
    from cl_plugin_remind.data.places import raw_folder

    return options.output or raw_folder(options.dataset, options.root) / "prepared"
