"""Linear classification on frozen features of a pre-trained encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from cl_kernel import BadInput, atomic, write_json
from cl_kernel.torch import device as devices
from cl_kernel.torch.loaders import ahead
from cl_plugin_clear.curation.store import remove_stale
from cl_plugin_clear.data.release import read_picture
from cl_plugin_clear.method.moco import Pictures, find_pictures, learning_rate
from cl_plugin_clear.network.augment import normalised, random_crop
from cl_plugin_clear.network.backbones import backbone
from cl_plugin_clear.weights.checkpoints import load_backbone


def evaluate_linear(
    data: Path,
    weights: str,
    out: Path,
    *,
    arch: str = "resnet50",
    epochs: int = 100,
    lr: float = 30.0,
    steps: tuple[int, ...] = (60, 80),
    batch_size: int = 256,
    size: int = 224,
    cached: bool = False,
    seed: int = 0,
    device: str = "auto",
    n_workers: int = 2,
    report: Callable[[str], None] = lambda text: None,
) -> float:
    """Train a linear layer on frozen features of ``data/train``; :return: top-1 share on ``data/val``.

    Head weights begin as N(0, 0.01), biases at 0; SGD with momentum 0.9 and no decay. Every epoch is checkpointed.

    :param cached: features once, of centre crops; otherwise a random crop and flip of each picture every epoch.
    :raises BadInput: when training and validation folders have other classes.
    """
    where = devices.resolve(device)
    train, val = find_pictures(str(data / "train")), find_pictures(str(data / "val"))
    names = [sorted(p.name for p in (data / side).iterdir() if p.is_dir()) for side in ("train", "val")]
    if names[0] != names[1]:
        raise BadInput("train and val have other classes", where=str(data))
    network, width = backbone(arch)
    load_backbone(network, weights)
    network = network.to(where).eval()
    head = nn.Linear(width, len(names[0])).to(where)
    rng = np.random.default_rng([seed, 30])
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(rng.normal(0, 0.01, tuple(head.weight.shape)).astype(np.float32)))
        head.bias.zero_()
    optimizer = torch.optim.SGD(head.parameters(), lr, momentum=0.9)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    checkpoint = out / "linear.pt"
    first = 0
    remove_stale(out, below=False)
    if checkpoint.exists():
        content = torch.load(checkpoint, weights_only=True, map_location=where)
        head.load_state_dict(content["head"])
        optimizer.load_state_dict(content["optimizer"])
        first = int(content["epoch"])

    def features(pictures: Pictures, rows: np.ndarray, epoch: int | None) -> Tensor:
        views = []
        for row in rows.tolist():
            if epoch is None:
                views.append(normalised(Image.fromarray(read_picture(pictures.files[row], size))))
            else:
                draw = np.random.default_rng([seed, epoch, row])
                picture = random_crop(pictures[row], size, draw, scale=(0.08, 1.0))
                views.append(
                    normalised(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draw.random() < 0.5 else picture)
                )
        with torch.no_grad():
            return network(torch.from_numpy(np.stack(views)).to(where))  # type: ignore[no-any-return]

    def whole(pictures: Pictures) -> Tensor:
        pieces = np.array_split(np.arange(len(pictures)), -(-len(pictures) // batch_size))
        return torch.cat(list(ahead(lambda rows: features(pictures, rows, None), pieces, n_workers)))

    labels = torch.tensor(train.labels, device=where)
    val_x, val_y = whole(val), torch.tensor(val.labels, device=where)
    kept = whole(train) if cached else None
    top1 = float((head(val_x).argmax(1) == val_y).float().mean())
    for epoch in range(first, epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(epoch, lr, epochs, cosine=False, steps=steps)
        order = np.random.default_rng([seed, epoch, 1]).permutation(len(train))
        for rows in np.split(order, range(batch_size, len(order), batch_size)):
            inputs = kept[torch.from_numpy(rows).to(where)] if kept is not None else features(train, rows, epoch)
            loss = functional.cross_entropy(head(inputs), labels[torch.from_numpy(rows).to(where)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        top1 = float((head(val_x).argmax(1) == val_y).float().mean())
        with atomic(checkpoint) as file:
            torch.save({"epoch": epoch + 1, "head": head.state_dict(), "optimizer": optimizer.state_dict()}, file)
        report(f"epoch {epoch}: top-1 {top1:.4f}")
    if any(not torch.equal(value, before[name]) for name, value in network.state_dict().items()):
        raise BadInput("the frozen backbone changed", where=weights)
    write_json(out / "result.json", {"top1": top1, "epochs": epochs, "classes": names[0]})
    return top1
