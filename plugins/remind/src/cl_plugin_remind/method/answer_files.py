"""The files the authors' VQA code leaves, below ``snapshots/`` of the run folder.

``train_log.csv``; ``results_ep_val_<epoch>_False_all_iter_<n>.json`` (question id -> answer id) at each boundary;
``boundary_<n>.pth`` and ``latest.pth`` (model_state_dict, optim_state_dict, epoch, lr).
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cl_kernel import Stage, StreamContext, write_json
from cl_plugin_remind.evaluate.metrics import vqa_scores

if TYPE_CHECKING:
    from cl_plugin_remind.method.questions import VqaLearner

HEAD = ("Num_classes", "Data_subset", "Epoch", "Acc", "VQAAcc")


def write(learner: VqaLearner, stage: Stage, ctx: StreamContext) -> dict[str, Any]:
    """Answer all test questions and write the files of this boundary.

    :return: the scores of :func:`cl_plugin_remind.evaluate.metrics.vqa_scores`.
    """
    folder = (ctx.resources.folder or Path()) / "snapshots"
    folder.mkdir(parents=True, exist_ok=True)
    test = ctx.stream.test
    found = np.concatenate([out["class"] for out in learner.predict(test)])
    truth = test.take(np.arange(len(test)), ["answer", "qid"])
    info = ctx.stream.info
    scores = vqa_scores(found, truth["answer"][:, 0], truth["answer"][:, 1], int(info["n_types"]))
    n_seen = sum(len(earlier.train) for earlier in ctx.stages[: stage.index + 1])
    epoch = learner.settings.epochs
    title = f"results_ep_val_{epoch}_False_all_iter_{n_seen}.json"
    answers = {str(qid): int(answer) for qid, answer in zip(truth["qid"].tolist(), found.tolist(), strict=True)}
    write_json(folder / title, answers)
    log = folder / "train_log.csv"
    is_new = not log.exists()
    with log.open("a", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        if is_new:
            table.writerow(HEAD)
        table.writerow(
            (len(info["answers"]), "all", epoch, round(100 * scores["overall"], 4), round(100 * scores["vqa"], 4))
        )
    content = {
        "model_state_dict": learner.network.state_dict(),
        "optim_state_dict": learner.optimizer.state_dict(),
        "epoch": epoch,
        "lr": learner.settings.lr,
    }
    for name in (f"boundary_{n_seen}.pth", "latest.pth"):
        torch.save(content, folder / name)
    return scores
