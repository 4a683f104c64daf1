"""What the kernel offers of this library: name, what it is, the file it stands in, and the memory it takes."""

from __future__ import annotations

from cl_kernel.contract.offers import Learner

RESERVOIR, BALANCED, CHOSEN = "clk:reservoir+clk:raw", "clk:class-balanced+clk:raw", "clk:chosen+clk:raw"
GREEDY = "clk:gdumb+clk:raw"
METHODS: tuple[tuple[str, str, str, str], ...] = (
    ("naive", "naive", "plain training stage after stage: the lower bound", ""),
    ("fine-tuning", "fine_tuning", "plain training, scores restricted to the classes seen", ""),
    ("joint", "joint", "training on everything seen so far: the upper bound", ""),
    ("er", "er", "experience replay: each step also sees remembered examples", RESERVOIR),
    ("naive-rehearsal", "rehearsal", "a step on remembered examples after every one on new examples", BALANCED),
    ("l2", "l2", "penalty for leaving the last stage's weights", ""),
    ("ewc", "ewc", "elastic weight consolidation: a penalty for each stage, by the Fisher information", ""),
    ("online-ewc", "online_ewc", "elastic weight consolidation, one fading penalty in all", ""),
    ("si", "si", "synaptic intelligence: a penalty by what each weight contributed", ""),
    ("mas", "mas", "memory-aware synapses: a penalty by what each weight moves", ""),
    ("lwf", "lwf", "learning without forgetting: the old network's answers as targets", ""),
    ("gem", "gem", "gradients that hurt no earlier stage's memory", BALANCED),
    ("agem", "agem", "gradients that do not hurt the memory as a whole", BALANCED),
    ("icarl", "icarl", "herded exemplars, distillation, nearest mean", CHOSEN),
    ("bic", "bic", "exemplars, distillation and a bias layer", CHOSEN),
    ("rainbow", "rainbow", "Rainbow Memory: exemplars spread over uncertainty, cutmix", CHOSEN),
    ("gss", "gss", "gradient-based sample selection, greedy", CHOSEN),
    ("cope", "cope", "continual prototype evolution", BALANCED),
    ("aan", "aan", "adaptive aggregation networks on iCaRL", CHOSEN),
    ("stable-sgd", "stable_sgd", "dropout and a falling rate", ""),
    ("der", "der", "dark experience replay: remembered scores as targets", RESERVOIR),
    ("derpp", "derpp", "dark experience replay with remembered labels too (DER++)", RESERVOIR),
    ("er-ace", "er_ace", "experience replay, new examples compared with the batch's classes only", RESERVOIR),
    ("mir", "mir", "replay of the examples that the next step would hurt most", RESERVOIR),
    ("gdumb", "gdumb", "a greedily balanced memory, and training from scratch on it alone", GREEDY),
    ("cwr", "cwr", "CWR*: a frozen body, and the scores of each stage's classes averaged in", ""),
    ("slda", "slda", "deep streaming linear discriminant analysis on frozen features", ""),
    ("ncm", "ncm", "nearest class mean on frozen features", ""),
    ("ranpac", "ranpac", "random projection and ridge regression on frozen features", ""),
    ("fecam", "fecam", "nearest class by Mahalanobis distance on frozen features", ""),
    ("packnet", "packnet", "PackNet: each task prunes what it trained, and the next takes what is free", ""),
    ("piggyback", "piggyback", "Piggyback: a binary mask over a fixed network for each task", ""),
    ("hat", "hat", "hard attention to the task: gates of units, used units are protected", ""),
    ("supsup", "supsup", "SupSup: a supermask over random weights for each task, which may be inferred", ""),
)


def offers() -> list[Learner]:
    """A learner for each method; nothing of it is imported."""
    return [_offer(*row) for row in METHODS]


def _offer(name: str, module: str, summary: str, replay: str) -> Learner:
    defaults = {"model": "clk:mlp"}
    if replay:
        defaults["replay"] = replay
    return Learner(
        name=name,
        summary=summary,
        build=f"cl_kernel.methods.{module}:build",
        takes=("image -> class", "vector -> class", "map -> class"),
        framework="torch",
        accepts=("model", "memory") if replay else ("model",),
        defaults=defaults,
        settings=f"cl_kernel.methods.{module}:Settings",
        requires=("torch",),
    )
