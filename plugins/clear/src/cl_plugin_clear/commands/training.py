"""Commands on networks and results: moco, lincls, adapt, evaluate, results."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_plugin_clear.commands import Handler, add_settings, numbers, real, settings_of, whole

if TYPE_CHECKING:
    from cl_plugin_clear.commands import Console


TITLES = {
    "in_domain": "In-domain",
    "next_domain": "Next-domain",
    "accuracy": "accuracy",
    "backward_transfer": "backward transfer",
    "forward_transfer": "forward transfer",
    "weighted_score": "weighted score",
}


def moco(parser: ArgumentParser) -> Handler:
    """MoCo; under ``torchrun`` use ``torchrun --nproc-per-node N -m cl_plugin_clear.method.moco_main`` with the same flags."""  # noqa: E501
    add_moco(parser)

    def handle(args: Namespace, console: Console) -> int:
        return run_moco(args, console.say, console)

    return handle


def add_moco(parser: ArgumentParser) -> None:
    """Flags of the pre-training; defaults are the authors'."""
    from cl_plugin_clear.settings import Moco

    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="checkpoints; an existing run goes on")
    parser.add_argument("--seed", type=whole(), default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=whole(), default=4)
    add_settings(parser, Moco)


def run_moco(args: Namespace, say: Any, console: Console | None = None) -> int:
    """Train as the flags say."""
    import attrs

    from cl_kernel import BadSetting
    from cl_plugin_clear.method import moco as training
    from cl_plugin_clear.settings import Moco

    settings = settings_of(args, Moco)
    if not settings.data:
        raise BadSetting("which pictures?", where="--data", fix="--data FOLDER, or --data store:SPLIT/0 --root STORE")
    pictures = training.find_pictures(settings.data, settings.root)
    log = training.pretrain(
        pictures,
        settings,
        args.to,
        seed=args.seed,
        device=args.device,
        n_workers=args.workers,
        report=lambda e: say(f"epoch {e.epoch}: loss {e.loss:.4f}, top-1 {e.top1:.3f}, {e.rate:.0f} pictures/s"),
    )
    if console is not None and log:
        console.print(f"{len(log)} epochs, loss {log[-1].loss:.4f}; checkpoints in {args.to}")
        console.json([attrs.asdict(entry) for entry in log])
    return 0


def lincls(parser: ArgumentParser) -> Handler:
    """Linear classification on frozen features."""
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="train/ and val/, a sub-folder a class each"
    )
    parser.add_argument("--weights", required=True, metavar="FILE", help="pre-training checkpoint")
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR")
    parser.add_argument("--epochs", type=whole(1), default=100)
    parser.add_argument("--lr", type=real(), default=30.0)
    parser.add_argument("--steps", type=numbers, default="60,80")
    parser.add_argument("--batch-size", type=whole(1), default=256)
    parser.add_argument("--image-size", type=whole(1), default=224)
    parser.add_argument(
        "--cached", action="store_true", help="features once, of centre crops, instead of random crops each epoch"
    )
    parser.add_argument("--seed", type=whole(), default=0)
    parser.add_argument("--device", default="auto")

    def handle(args: Namespace, console: Console) -> int:
        import json

        from cl_plugin_clear.method.linear import evaluate_linear

        top1 = evaluate_linear(
            args.data,
            args.weights,
            args.to,
            arch=args.arch,
            epochs=args.epochs,
            lr=args.lr,
            steps=tuple(args.steps),
            batch_size=args.batch_size,
            size=args.image_size,
            cached=args.cached,
            seed=args.seed,
            device=args.device,
            report=console.say,
        )
        classes = json.loads((args.to / "result.json").read_text())["classes"]
        console.table(
            "linear evaluation",
            ("figure", "value"),
            [
                ("top-1 on val", f"{100 * top1:.2f} %"),
                ("chance", f"{100 / len(classes):.2f} %"),
                ("classes", len(classes)),
                ("backbone", f"{args.arch}, {args.weights}"),
                ("epochs", args.epochs),
            ],
        )
        console.print(f"head and result in {args.to}")
        console.json({"top1": top1})
        return 0

    return handle


def adapt(parser: ArgumentParser) -> Handler:
    """Checkpoint to backbone weights."""
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("to", type=Path, help=".safetensors or .pth.tar; for Detectron2 .pkl")
    parser.add_argument("--detectron2", action="store_true", help="write names and file form of Detectron2's ResNets")

    def handle(args: Namespace, console: Console) -> int:
        from cl_plugin_clear.weights.checkpoints import convert

        n = convert(args.checkpoint, args.to, detectron2=args.detectron2)
        console.print(f"{n} tensors in {args.to}")
        console.json({"tensors": n, "file": str(args.to)})
        return 0

    return handle


def evaluate(parser: ArgumentParser) -> Handler:
    """Matrix of saved models."""
    from cl_plugin_clear.settings import Challenge

    parser.add_argument("--to", type=Path, required=True, metavar="DIR")
    parser.add_argument("--device", default="auto")
    add_settings(parser, Challenge)

    def handle(args: Namespace, console: Console) -> int:
        from cl_plugin_clear.evaluate.challenge import evaluate_models

        settings = settings_of(args, Challenge)
        scores = evaluate_models(settings, args.to, device=args.device)
        R = scores["matrix"]
        console.table(
            "accuracy in per cent; row: model of a bucket, column: tested on it",
            ("model", *map(str, range(1, len(R) + 1))),
            [(str(i), *(f"{100 * value:.1f}" for value in row)) for i, row in enumerate(R, 1)],
        )
        console.table(
            "challenge", ("figure", "per cent"), [(TITLES[k], f"{100 * scores[k]:.2f}") for k in TITLES if k in scores]
        )
        if not settings.data:
            console.print("this was toy data; your own: --data FOLDER --models FOLDER")
        if not scores["trained"]:
            console.print("the networks were random: their accuracy is chance")
        console.print(f"matrix, figures and heat map in {args.to}")
        console.json(scores)
        return 0

    return handle


def results(parser: ArgumentParser) -> Handler:
    """Many runs in one table; matrices of other programs in."""
    parser.add_argument("runs", type=Path, nargs="*", help="run folders: mean and spread over them")
    parser.add_argument(
        "--import",
        dest="imported",
        type=Path,
        nargs="*",
        default=[],
        metavar="FILE",
        help="text logs of Avalanche, test_metric json, or results_dict pickles",
    )
    parser.add_argument("--protocol", choices=("iid", "streaming"), default="iid")
    parser.add_argument("--compat-next", action="store_true")
    parser.add_argument("--mixed", action="store_true", help="also over runs that differ in more than their seed")
    parser.add_argument("--name", default="method")

    def handle(args: Namespace, console: Console) -> int:
        from cl_kernel import BadInput
        from cl_plugin_clear.evaluate import metrics
        from cl_plugin_clear.evaluate.oldresults import read_matrix
        from cl_plugin_clear.evaluate.runs import matrices as matrices_of

        matrices = matrices_of(args.runs, mixed=args.mixed)
        matrices += [read_matrix(path) for path in args.imported]
        if not matrices:
            raise BadInput("no runs and no files", where="clk clear results")
        per_run = [metrics.clear_metrics(m, protocol=args.protocol, compat_next=args.compat_next) for m in matrices]
        scores = metrics.over_seeds(per_run)
        console.table(
            f"{args.name}: {len(matrices)} run{'s' * (len(matrices) > 1)}, {args.protocol} protocol, per cent",
            ("figure", "mean", "std"),
            [(TITLES[k], *(f"{100 * value:.2f}" for value in v or ())) if v else (TITLES[k], None, None)
             for k, v in scores.items()],
        )  # fmt: skip
        if args.protocol == "streaming":
            console.print("figures with a dash are not defined: a bucket's training and test data are the same")
        console.print("row of the paper's table (In, Next, Acc, BwT, FwT):")
        console.print(metrics.latex_row(args.name, scores))
        console.json({"mean_std": scores, "runs": per_run, "latex": metrics.latex_row(args.name, scores)})
        return 0

    return handle
