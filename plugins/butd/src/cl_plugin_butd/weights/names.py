"""Names of published weights: the first generation's and the continual model's layouts, mapped onto ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from cl_kernel import Mismatch

_FILTERS = [
    (r"conv1\.0\.(?P<part>depthwise|pointwise)\.weight", r"stem.\g<part>.weight"),
    (r"conv1\.0\.weight", "stem.weight"),
    (r"bot_lat\.side\.weights", "gate_stem.weight"),
    (r"top_lat\.side\.weights", "gate_top.weight"),
    (r"h_flag_bu\.0\.(?P<part>weight|bias)", r"flag.\g<part>"),
    (
        r"alllayers\.(?P<k>\d+)\.(?P<j>\d+)\.conv(?P<i>[12])\.0(?P<part>\.depthwise|\.pointwise|)\.weight",
        r"stages.\g<k>.\g<j>.conv\g<i>\g<part>.weight",
    ),
    (r"alllayers\.(?P<k>\d+)\.(?P<j>\d+)\.downsample\.0\.weight", r"stages.\g<k>.\g<j>.project.weight"),
]
_NORM = r"(?P<part>weight|bias|running_mean|running_var)"
_NORMS = [
    (r"h_flag_bu\.1\." + _NORM, r"flag_norm.\g<part>"),
    (r"conv1\.1\." + _NORM, r"stem_norm.\g<part>"),
    (r"bot_lat\.norm\." + _NORM, r"stem_lateral.\g<part>"),
    (r"top_lat\.norm\." + _NORM, r"top_lateral.\g<part>"),
    (r"alllayers\.(?P<k>\d+)\.(?P<j>\d+)\.conv(?P<i>[12])\.1\." + _NORM, r"stages.\g<k>.\g<j>.norm\g<i>.\g<part>"),
    (r"alllayers\.(?P<k>\d+)\.(?P<j>\d+)\.downsample\.1\." + _NORM, r"stages.\g<k>.\g<j>.norm_project.\g<part>"),
    (r"h_flag\w*\.(?P<i>[01])\." + _NORM, r"flag_embed.\g<i>.\g<part>"),
    (r"h_top\w*\.(?P<i>[01])\." + _NORM, r"flag_fuse.\g<i>.\g<part>"),
]
_TD = [
    (r"h_flag_td\.(?P<i>[01])\." + _NORM, r"top.embed.\g<i>.\g<part>"),
    (r"h_top_td\.(?P<i>[01])\." + _NORM, r"top.fuse.\g<i>.\g<part>"),
    (r"conv1\.0\.(?P<part>depthwise|pointwise)\.weight", r"final.\g<part>.weight"),
    (r"conv1\.0\.weight", "final.weight"),
    (r"conv1\.1\." + _NORM, r"final_norm.\g<part>"),
    (r"bot_lat\.side\.weights", "gate_stem.weight"),
    (r"bot_lat\.norm\." + _NORM, r"stem_lateral.\g<part>"),
    (
        r"alllayers\.(?P<k>\d+)\.(?P<j>\d+)\.conv(?P<i>[12])\.0(\.1)?(?P<part>\.depthwise|\.pointwise|)\.weight",
        r"stages.\g<k>.\g<j>.conv\g<i>\g<part>.weight",
    ),
    (r"alllayers\.(?P<k>\d+)\.(?P<j>\d+)\.conv(?P<i>[12])\.1\." + _NORM, r"stages.\g<k>.\g<j>.norm\g<i>.\g<part>"),
    # Sequential(upsample, conv, norm), or Sequential(conv, norm) where only the channels change
    (r"alllayers\.(?P<k>\d+)\.(?P<j>\d+)\.upsample\.\d+\.(?P<part>weight)\Z", r"stages.\g<k>.\g<j>.upsample.\g<part>"),
    (r"alllayers\.(?P<k>\d+)\.(?P<j>\d+)\.upsample\.\d+\." + _NORM, r"stages.\g<k>.\g<j>.norm_project.\g<part>"),
]
_LATERAL = r"alllayers\.(?P<k>\d+)\.(?P<j>\d+)\.lat(?P<i>[123])\."


def _first(rules: Iterable[tuple[str, str]], name: str) -> str | None:
    for pattern, ours in rules:
        if match := re.fullmatch(pattern, name):
            return match.expand(ours)
    return None


def from_first_generation(name: str, shape: tuple[int, ...], *, separate: bool = False, head_layers: int = 1) -> str:
    """Our name of a parameter or buffer of the persons / EMNIST model.

    :param name: as in the published ``state_dict``.
    :param shape: tells projection and norm apart where the layout's index does not.
    :param separate: the variant with two sets of bottom-up weights.
    :param head_layers: linear layers of a task head.
    :raises Mismatch: for a name the layout does not have.
    """
    if match := re.fullmatch(r"occhead\.fc\.(weight|bias)", name):
        return f"occurrence.{match[1]}"
    if match := re.fullmatch(r"taskhead\.layers\.(\d+)\.(weight|bias)", name):
        return f"task.outputs.{match[1]}.0.{match[2]}"
    if match := re.fullmatch(r"taskhead\.layers\.(\d+)\.(\d+)\.(\w+)", name):
        place, inner = divmod(int(match[2]), 3)  # hidden layers are triples Linear, norm, ReLU
        tail = match[3] if place == head_layers - 1 else f"{inner}.{match[3]}"
        return f"task.outputs.{match[1]}.{place}.{tail}"
    if match := re.fullmatch(r"imagehead\.conv\.1\.(depthwise\.|pointwise\.|)weight", name):
        return f"image.conv.{match[1]}weight"
    if match := re.fullmatch(r"bumodel([12]?)\.(?:trunk\.)?(.+)", name):
        which, rest = match[1] or "1", match[2]
        filters = "filters2" if separate and which == "2" else "filters"
        if lateral := re.fullmatch(_LATERAL + r"side\.weights", rest):
            return f"{filters}.stages.{lateral['k']}.{lateral['j']}.gates.{int(lateral['i']) - 1}.weight"
        if lateral := re.fullmatch(_LATERAL + r"norm\." + _NORM, rest):
            return f"bu{which}.stages.{lateral['k']}.{lateral['j']}.laterals.{int(lateral['i']) - 1}.{lateral['part']}"
        if ours := _first(_FILTERS, rest):
            return f"{filters}.{ours}"
        if ours := _first(_NORMS, rest):
            return f"bu{which}.{ours}"
    if match := re.fullmatch(r"tdmodel\.(?:trunk\.)?(.+)", name):
        rest = match[1]
        if lateral := re.fullmatch(_LATERAL + r"side\.weights", rest):
            return f"td.stages.{lateral['k']}.{lateral['j']}.gates.{int(lateral['i']) - 1}.weight"
        if lateral := re.fullmatch(_LATERAL + r"norm\." + _NORM, rest):
            return f"td.stages.{lateral['k']}.{lateral['j']}.laterals.{int(lateral['i']) - 1}.{lateral['part']}"
        if ours := _first(_TD, rest):
            return f"td.{ours}".replace(".upsample.", ".project." if len(shape) == 4 else ".norm_project.")
    raise Mismatch(f"{name!r} is no parameter of the first-generation layout", where="published weights")


def from_continual(name: str, heads: Mapping[tuple[int, int], int]) -> str:
    """Our name of a parameter of the continual counter-stream model.

    :param heads: (language, direction index in the published names) -> our task number.
    :raises Mismatch: for a name the layout does not have.
    """
    if match := re.fullmatch(r"occhead\.occurrence_transform\.(weight|bias)", name):
        return f"net.occurrence.{match[1]}"
    if match := re.fullmatch(r"Head\.taskhead\.(\d+)\.(\d+)\.layers\.0\.layers\.0\.(weight|bias)", name):
        return f"heads.{heads[int(match[1]), int(match[2])]}.outputs.0.0.{match[3]}"
    if match := re.fullmatch(r"tdmodel\.InitialTaskEmbedding\.top_td_arg_emb\.(\d+)\.(weight|bias)", name):
        return f"net.td.top.argument.{match[1]}.{match[2]}"
    if match := re.fullmatch(r"tdmodel\.InitialTaskEmbedding\.td_linear_proj\.(weight|bias)", name):
        return f"net.td.top.fuse.{match[1]}"
    if match := re.fullmatch(r"tdmodel\.(?:\w+\.)?(h_(?:flag_task|flag_arg|top)_td\..+)", name):
        return f"net.td.top.{from_split_top(match[1])}"
    if match := re.fullmatch(r"(bumodel([12])|tdmodel)\.(?:InitialBlock\.)?(.+)", name):
        owner, rest = ("net.td" if match[1] == "tdmodel" else f"net.bu{match[2]}"), match[3]
        filters = "net.td" if owner == "net.td" else "net.filters"
        if at := re.fullmatch(r"alllayers\.(\d+)\.(\d+)\.(.+)", rest):
            k, j, rest = at[1], at[2], at[3]
            here = f"stages.{k}.{j}"
            if m := re.fullmatch(r"(conv1x1|conv[12])\.modulation\.(\d+)", rest):
                conv = "project" if m[1] == "conv1x1" else m[1]
                return f"modulations.{heads[0, int(m[2])]}.{k}.{j}.weights.{conv}.m"
            if m := re.fullmatch(r"conv([12])(\.layer|\.1)?\.weight", rest):
                return f"{filters}.{here}.conv{m[1]}.weight"
            if re.fullmatch(r"downsample\.weight|conv1x1(\.layer)?\.weight", rest):
                return f"{filters}.{here}.project.weight"
            if m := re.fullmatch(r"bn([12])\.norm\." + _NORM, rest):
                return f"{owner}.{here}.norm{m[1]}.{m['part']}"
            if m := re.fullmatch(r"last_(?:bn|norm)\.norm\." + _NORM, rest):
                return f"{owner}.{here}.norm_project.{m['part']}"
            if m := re.fullmatch(r"lat([123])\.side", rest):
                return f"{filters}.{here}.gates.{int(m[1]) - 1}.weight"
            if m := re.fullmatch(r"lat([123])\.norm1\.norm\." + _NORM, rest):
                return f"{owner}.{here}.laterals.{int(m[1]) - 1}.{m['part']}"
        if rest == "conv1.weight":
            return "net.filters.stem.weight"
        if m := re.fullmatch(r"bn1\.norm\." + _NORM, rest):
            return f"{owner}.stem_norm.{m['part']}"
        if m := re.fullmatch(r"(bot|top)_lat\.side", rest):
            return f"{filters}.gate_{'stem' if m[1] == 'bot' else 'top'}.weight"
        if m := re.fullmatch(r"(bot|top)_lat\.norm1\.norm\." + _NORM, rest):
            return f"{owner}.{'stem' if m[1] == 'bot' else 'top'}_lateral.{m['part']}"
    raise Mismatch(f"{name!r} is no parameter of the continual layout", where="published weights")


def from_split_top(name: str) -> str:
    """Our name of a parameter of the split task / argument embedding."""
    name = name.replace(".norm.", ".")
    for theirs, ours in (("h_flag_task_td", "task"), ("h_flag_arg_td", "argument"), ("h_top_td", "fuse")):
        if name.startswith(theirs + "."):
            return ours + name.removeprefix(theirs)
    raise Mismatch(f"{name!r} is no parameter of the split embedding", where="published weights")


_VIT_BLOCK = [
    (r"attention\.attention\.(query|key|value)\.", r"attention.\1."),
    (r"attention\.(query|key|value)\.", r"attention.\1."),
    (r"attention\.output\.dense\.", "attention.project."),
    (r"cross_attention\.(query|key|value)\.", r"cross.\1."),
    (r"lateral_attention\.(query|key|value)\.", r"lateral.\1."),
    (r"intermediate\.dense\.", "feed.0."),
    (r"output\.dense\.", "feed.2."),
    (r"feedforward\.([02])\.", r"feed.\1."),
    (r"layernorm_before\.", "norm1."),
    (r"layernorm_after\.", "norm2."),
    (r"encoder_layernorm_cross\.", "norm_context."),
    (r"decoder_layernorm_cross\.", "norm_cross."),
    (r"encoder_layernorm\.", "norm_context."),
]


def from_task_select(name: str) -> str:
    """Our name of a parameter of a task-selecting transformer."""
    for pattern, ours in (
        (r"(?:encoder\.)?(?:image_)?(?:embeddings)\.patch_embeddings\.", "patches."),
        (r"(?:encoder\.)?(?:image_)?embeddings\.position_embeddings", "positions"),
        (r"(?:encoder\.)?(?:image_)?embeddings\.cls_token", "cls"),
        (r"task_position_embeddings", "task_positions"),
        (r"task_embeddings\.", "task."),
        (r"argument_embeddings\.", "argument."),
        (r"stretch_embedding\.", "stretch."),
        (r"layer_?norm\.", "norm."),
        (r"encoder\.layernorm\.", "encoder_norm."),
        (r"classifier\.", "classifier."),
    ):
        if match := re.match(pattern, name):
            return ours + name[match.end() :]
    for pattern, stack in (
        (r"encoder\.encoder\.layer\.(\d+)\.", "encoder"),
        (r"encoder\.layer\.(\d+)\.", "blocks"),
        (r"decoder_blocks\.(\d+)\.", "decoder"),
        (r"task_encoder_blocks\.(\d+)\.", "task_blocks"),
        (r"image_encoder_blocks\.(\d+)\.", "image_blocks"),
    ):
        if match := re.match(pattern, name):
            rest = name[match.end() :]
            for part, ours in _VIT_BLOCK:
                if inner := re.match(part, rest):
                    return f"{stack}.{match[1]}.{inner.expand(ours)}{rest[inner.end() :]}"
    raise Mismatch(f"{name!r} is no parameter of the task-selecting layout", where="published weights")
