"""Commands on classes: concept groups, retrieval, labelled folders, features, labels."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_kernel import BadInput, BadSetting
from cl_plugin_clear.commands import Handler, add_root, numbers, real, whole

if TYPE_CHECKING:
    from cl_plugin_clear.commands import Console


def concepts(parser: ArgumentParser) -> Handler:
    """Write or check a concept-group file."""
    parser.add_argument("action", choices=("init", "check"))
    parser.add_argument("file", type=Path)
    parser.add_argument(
        "--published", choices=("", "clear10", "clear100"), default="", help="begin with a published group"
    )
    parser.add_argument("--name", default="")
    parser.add_argument(
        "--group", default="", metavar="PROMPT;PROMPT;... | FILE", help="prompts, or a file with one a line"
    )
    parser.add_argument("--prefix", default="", help="put before each prompt, e.g. 'a photo of '")
    parser.add_argument("--split", default="equal-11")
    parser.add_argument(
        "--model", "--encoder", default="RN101", help="of the features; prompts of a network without text are pictures"
    )
    parser.add_argument("--class-size", type=whole(), default=0)
    parser.add_argument("--pool", type=whole(), default=0)
    parser.add_argument("--allow-overlap", action="store_true")
    parser.add_argument("--background", action="store_true")
    parser.add_argument("--negative-ratio", type=real(), default=0.1)

    def handle(args: Namespace, console: Console) -> int:
        from cl_plugin_clear.curation.concepts import Concepts, known_group, read_concepts, write_concepts

        if args.action == "init":
            changes: dict[str, Any] = {"model": args.model, "split": args.split}
            if args.class_size:
                changes["class_size"] = args.class_size
            if args.pool:
                changes["pool"] = args.pool
            if args.published:
                group = known_group(args.published, **changes)
            else:
                if not args.group or not args.name:
                    raise BadSetting(
                        "a group needs a name and prompts",
                        where="clk clear concepts init",
                        fix="--name NAME --group 'ring; disc'",
                    )
                text = Path(args.group).read_text().replace("\n", ";") if Path(args.group).is_file() else args.group
                group = Concepts(
                    name=args.name,
                    group=tuple(p.strip() for p in text.split(";") if p.strip()),
                    prefix=args.prefix,
                    allow_overlap=args.allow_overlap,
                    background=args.background,
                    negative_ratio=args.negative_ratio,
                    **changes,
                )
            write_concepts(args.file, group)
        group = read_concepts(args.file)
        console.table(
            group.name,
            ("setting", "value"),
            [(k, v if k != "GROUP" else f"{len(v)} prompts") for k, v in group.as_json().items()],
        )
        console.print(f"next: clk clear retrieve --root STORE --concepts {args.file} --out {group.name}")
        console.json(group.as_json())
        return 0

    return handle


def _label_map(path: Path | None) -> dict[str, str] | None:
    from cl_plugin_clear.data.members import read_json_object

    if path is None:
        return None
    content = read_json_object(path)
    if not all(isinstance(v, str) for v in content.values()):
        raise BadInput("a label map is prompt -> label", where=str(path))
    return content


def retrieve(parser: ArgumentParser) -> Handler:
    """Pictures of every class in every bucket."""
    add_root(parser)
    parser.add_argument("--concepts", type=Path, required=True, metavar="JSON")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--label-map", type=Path, default=None, metavar="JSON", help="prompt -> label")
    parser.add_argument(
        "--label-map-default", choices=("", "slug"), default="", help="label of a prompt that the map lacks"
    )
    parser.add_argument("--weights", default="openai")
    parser.add_argument("--buckets", type=numbers, default=None, help="e.g. 1-10 (default all)")
    parser.add_argument("--allow-short", action="store_true", help="go on when a class gets fewer pictures")
    parser.add_argument(
        "--never", type=Path, default=None, metavar="FILE", help="photo ids that no class may get, one a line"
    )

    def handle(args: Namespace, console: Console) -> int:
        from cl_plugin_clear.curation.concepts import read_concepts
        from cl_plugin_clear.curation.features import open_model
        from cl_plugin_clear.curation.retrieve import retrieve_group
        from cl_plugin_clear.curation.review import read_ids

        group = read_concepts(args.concepts)
        done = retrieve_group(
            args.root,
            args.out,
            group,
            open_model(group.model, weights=args.weights),
            never=read_ids(args.never) if args.never else (),
            label_map=_label_map(args.label_map),
            label_default=args.label_map_default,
            buckets=args.buckets,
            allow_short=args.allow_short,
            report=lambda b: console.say(f"bucket {b}"),
        )
        for line in _scores(console, args.out):
            console.print(line)
        console.print(f"{len(done.made)} buckets searched now, {len(done.reused)} were done")
        console.print(f"next: clk clear build --root {args.root} --out {args.out}")
        console.json({"made": done.made, "reused": done.reused})
        return 0

    return handle


def _scores(console: Console, out: Path) -> list[str]:
    """Table of the classes retrieved so far; :return: what is odd about them."""
    from cl_plugin_clear.data.members import read_json_object

    found: dict[str, list[list[float]]] = {}
    buckets = [read_json_object(out / path) for path in read_json_object(out / "clip_result.json").values()]
    for bucket in buckets:
        for label, hits in bucket.items():
            found.setdefault(label, []).append([hit["score"] for hit in hits])
    rows = [
        (label, sum(map(len, lists)), max(map(max, full)) if full else None, min(map(min, full)) if full else None)
        for label, lists in found.items()
        for full in [[scores for scores in lists if scores]]
    ]
    console.table(f"classes over {len(buckets)} buckets", ("class", "pictures", "best score", "lowest"), rows)
    return [
        f"{label} has no picture: int(class size x negative ratio) is 0, or its pool is used up"
        for label, n, *_ in rows
        if not n
    ]


def build(parser: ArgumentParser) -> Handler:
    """The labelled folder of what was retrieved."""
    add_root(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--save-all-metadata", action="store_true")
    parser.add_argument("--save-all-images", action="store_true")
    parser.add_argument("--test-ratio", type=real(0, 1), default=0.0, help="also splits for seeds 0-4 (released: 0.3)")
    parser.add_argument("--stratified", action="store_true", help="split each class alone; the release does not")
    parser.add_argument(
        "--feature-set", action="append", default=[], metavar="NAME", help="also feature lists; repeatable"
    )

    def handle(args: Namespace, console: Console) -> int:
        from cl_plugin_clear.curation.labelled import build_folder
        from cl_plugin_clear.curation.training_folder import write_training_folder

        totals = build_folder(
            args.root,
            args.out,
            save_all_metadata=args.save_all_metadata,
            save_all_images=args.save_all_images,
            report=lambda b: console.say(f"bucket {b}"),
        )
        sizes = write_training_folder(
            args.out, ratio=args.test_ratio, stratified=args.stratified, feature_sets=args.feature_set
        )
        console.table("pictures", ("class", "over all buckets"), sorted(totals.items()))
        console.print(f"labelled folder {args.out}: {sum(totals.values()):,} pictures in {len(totals)} classes")
        console.json({"classes": totals, "buckets": sizes})
        return 0

    return handle


def features(parser: ArgumentParser) -> Handler:
    """A named feature set."""
    parser.add_argument(
        "--folder", type=Path, required=True, metavar="DIR", help="labelled folder (or its train/ and test/)"
    )
    parser.add_argument("--name", required=True, help="clip, moco_b0, imagenet, ...")
    parser.add_argument("--clip", default="", metavar="MODEL", help="CLIP model instead of a backbone")
    parser.add_argument(
        "--encoder",
        default="",
        metavar="MODEL",
        help="any network instead: clk:efficientnet-lite0, torchvision:NAME, timm:NAME, hf:DIR, module:FILE:CALLABLE",
    )
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument(
        "--weights", default="", help="file of backbone weights; empty: random; torchvision: supervised ImageNet"
    )
    parser.add_argument("--batch-size", type=whole(1), default=256)
    parser.add_argument("--image-size", type=whole(1), default=224)
    parser.add_argument("--device", default="auto")

    def handle(args: Namespace, console: Console) -> int:
        from cl_kernel import identify
        from cl_plugin_clear.curation.feature_sets import write_features
        from cl_plugin_clear.curation.features import weights_name
        from cl_plugin_clear.network.extract import backbone_extractor, clip_extractor, encoder_extractor

        state = None
        weights = args.weights or ("openai" if args.clip else "")
        size = {} if args.clip else {"size": args.image_size}
        encoder = args.encoder or args.clip or args.arch
        made_from = identify("clear-features", encoder=encoder, weights=weights_name(weights), **size)
        if args.encoder and args.clip:
            raise BadSetting("two encoders", where="--encoder/--clip", fix="give one of them")
        if args.encoder:
            extract = encoder_extractor(args.encoder, args.weights, args.image_size, args.device)
        elif args.clip:
            extract = clip_extractor(args.clip, weights, args.device)
        else:
            extract, state = backbone_extractor(args.arch, args.weights, args.image_size, args.device)
        folders = [
            args.folder / part for part in ("train", "test") if (args.folder / part / "class_names.txt").exists()
        ] or [args.folder]
        n = sum(
            write_features(
                folder, args.name, extract, made_from=made_from, batch_size=args.batch_size, state_dict=state
            )
            for folder in folders
        )
        places = ", ".join(str(folder / "features" / args.name) for folder in folders)
        console.print(f"feature set {args.name}: {n:,} pictures read now, what was there is kept; in {places}")
        console.json({"pictures": n, "name": args.name})
        return 0

    return handle


def relabel(parser: ArgumentParser) -> Handler:
    """Rename classes."""
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR")
    parser.add_argument("--label-map", type=Path, required=True, metavar="JSON", help="old label -> new label")

    def handle(args: Namespace, console: Console) -> int:
        from cl_plugin_clear.curation.relabel import relabel as run

        changed = run(args.folder, _label_map(args.label_map) or {})
        console.table("renamed", ("was", "is"), list(changed.items()))
        console.json(changed)
        return 0

    return handle


def images(parser: ArgumentParser) -> Handler:
    """All pictures of the buckets, from saved metadata."""
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR", help="labelled folder with all_metadata")
    parser.add_argument("--url-template", default="{DOWNLOAD_URL}", help="with the record's keys")
    parser.add_argument("--threads", type=whole(1), default=128)
    parser.add_argument("--retry-wait", type=real(), default=1.0)

    def handle(args: Namespace, console: Console) -> int:
        from cl_plugin_clear.curation.allimages import fetch_all_images

        got, failed = fetch_all_images(
            args.folder, template=args.url_template, n_threads=args.threads, wait_s=args.retry_wait
        )
        console.print(f"{got:,} pictures are in {args.folder / 'all_images'}, {failed:,} could not be had")
        if failed:
            console.print(
                f"which: {args.folder / 'all_images' / 'failed'}/BUCKET.json; run the same again to try them once more"
            )
        console.json({"pictures": got, "failed": failed})
        return 0 if not failed else 1

    return handle
