"""One HTML page about runs: style, charts and pictures are inside it, nothing is fetched.

Runs of another profile have a section of their own, and a published figure stands only beside runs that are its
experiment.
"""

from __future__ import annotations

import base64
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import attrs

from cl_kernel.registry import Registry
from cl_kernel.reports import charts, compare
from cl_kernel.reports.compare import Group
from cl_kernel.reports.series import BYTES, costs_of, forgetting_curve, over_seeds
from cl_kernel.storage.run_folder import read_json

MAX_PICTURES = 24
MAX_PICTURE_BYTES = 1_000_000
COLUMNS = (
    "score",
    "average_incremental_accuracy",
    "learning_accuracy",
    "forgetting",
    "backward_transfer",
    "memory examples",
    "memory bytes",
    "kept bytes",
    "score per kB",
    "seconds",
    "peak bytes",
)


def build_page(groups: Sequence[Group], registry: Registry, title: str, against: str = "") -> str:
    """The page, complete.

    :param against: label of the group that the others are tested against; empty: no tests.
    """
    style, script = ((Path(__file__).parent / name).read_text() for name in ("page.css", "page.js"))
    n_runs = sum(len(group.runs) for group in groups)
    body = [
        f"<header><h1>{escape(title)}</h1>",
        f'<p class="meta">{n_runs} runs, {len(groups)} settings; lines and cells are means over seeds, bands and ± one '
        "sample standard deviation</p></header>",
    ]
    for profile in dict.fromkeys(group.profile for group in groups):
        mine = [group for group in groups if group.profile == profile]
        body.append(f"<section><h2>Profile {escape(profile)}</h2>")
        if profile == "tiny":
            body.append('<p><span class="badge">toy data: not comparable with the papers\' numbers</span></p>')
        if profile == "own":
            body.append('<p><span class="badge">data of your own: no publication has numbers for them</span></p>')
        body += [_overview([group for group in mine if not group.metric]), _published(mine, registry)]
        for stream in dict.fromkeys(group.stream for group in mine):
            own = [group for group in mine if group.stream == stream]
            told = {k.partition(".")[2]: v for k, v in own[0].shown.items() if k.startswith("dataset.")}
            body.append(_stream(own, [f"{name}={value}" for name, value in told.items()]))
        body += [_tests(mine, against), _pictures(mine), _settings(mine), "</section>"]
    body.append(_environments(groups))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body><main>\n"
        + "\n".join(part for part in body if part)
        + f"\n</main><script>{script}</script></body></html>\n"
    )


def _table(header: Sequence[str], rows: Iterable[str], caption: str, css: str = "wide") -> str:
    """A table that scrolls where it is too wide, by keyboard too.

    :param caption: what it holds, read out before it.
    """
    head = "".join(f'<th scope="col">{escape(name.replace("_", " "))}</th>' for name in header)
    body = f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    about = f'class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"'
    return f'<div {about}><table class="{css}">{body}</table></div>'


def _name(text: str) -> str:
    return f'<th scope="row" class="name">{escape(text)}</th>'


def _overview(groups: Sequence[Group]) -> str:
    if not groups:
        return ""
    known = compare.columns_of(groups)
    columns = [name for name in COLUMNS if name in known] or known
    best: dict[str, tuple[float, str]] = {}
    for group in groups:
        if (values := group.values("score")) and not group.is_upper_bound:
            mean = statistics.fmean(values.values())
            if mean > best.get(group.stream, (float("-inf"), ""))[0]:
                best[group.stream] = (mean, group.label)
    rows = []
    for group, cells in zip(groups, compare.text_rows(groups, columns), strict=True):
        mark = ' class="best"' if best.get(group.stream, (0.0, ""))[1] == group.label else ""
        row = [f"{_name(cells[0])}<td>{cells[1]}</td>"]
        for column, text in zip(columns, cells[2:], strict=True):
            values = group.values(column)
            bar = ""
            if column == "score" and values:
                share = min(max(statistics.fmean(values.values()), 0.0), 1.0)
                bar = f' class="bar" style="--v:{100 * share:.0f}%"'
            row.append(f"<td{bar}>{escape(text) or '–'}</td>")
        rows.append(f"<tr{mark}>{''.join(row)}</tr>")
    metrics = ", ".join(dict.fromkeys(group.metric for group in groups if group.metric))
    note = f"score: {metrics} on all test samples seen, after the last stage; the best in bold, upper bounds aside"
    table = _table(["run", "seeds", *columns], rows, "Results, mean and sample standard deviation over seeds")
    below = f"<figcaption>{escape(note)}</figcaption>" if metrics else ""
    return f'<div class="card">{table}{below}</div>'


def _published(groups: Sequence[Group], registry: Registry) -> str:
    rows = []
    for group in groups:
        for expected in compare.published(group, registry):
            values = group.values(expected.metric) or group.values("score")
            ours = compare.mean_std(values.values())[0] if values else None
            rows.append(
                f'<tr>{_name(group.label)}<td class="text">{escape(expected.metric)}</td>'
                f"<td>{expected.value:g}</td><td>{'–' if ours is None else f'{ours:.4g}'}</td>"
                f'<td class="text">{escape(expected.where)}</td></tr>'
            )
    if not rows:
        return ""
    table = _table(["run", "metric", "published", "this run", "where"], rows, "Beside the publication")
    return f'<h3>Beside the publication</h3><div class="card">{table}</div>'


def _tests(groups: Sequence[Group], against: str) -> str:
    rows = [
        f'<tr>{_name(test.label)}<td class="text">{escape(test.against)}</td><td>{test.n}</td>'
        f"<td>{test.difference:+.4f}</td><td>{_p(test.t_test)}</td><td>{_p(test.wilcoxon)}</td>"
        f'<td class="text">{escape(test.note)}</td></tr>'
        for test in compare.paired_tests(groups, against if any(g.label == against for g in groups) else "")
        if test.n > 1
    ]
    if not rows:
        return ""
    header = ["run", "against", "seeds", "difference", "paired t, p", "Wilcoxon, p", "note"]
    title = "Paired tests over seeds"
    return f'<details class="card"><summary>{title}</summary>{_table(header, rows, title)}</details>'


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"


# ---- one data set ---------------------------------------------------------------------------------


def _stream(groups: Sequence[Group], told: Sequence[str]) -> str:
    groups = [attrs.evolve(group) for group in groups]
    compare.name_groups(groups)
    streams = [group for group in groups if group.metric]
    if not streams:
        return ""
    names = [group.label for group in streams]
    first = streams[0]
    legend = "".join(
        f'<li><button type="button" aria-pressed="true" data-toggle="{k}">{charts.key(k)}<span>{escape(name)}</span>'
        "</button></li>"
        for k, name in enumerate(names)
    )
    name = " ".join([str(first.identity.get("dataset") or first.identity["test"]), *told])
    seen = [
        _line(group, k, lambda table: [next(iter(row.values())) for row in table["seen"]])
        for k, group in enumerate(streams)
    ]
    forgotten = [_line(group, k, lambda table: forgetting_curve(table["matrix"])) for k, group in enumerate(streams)]
    figures = [
        _figure(
            "Learning",
            charts.lines(seen, x_label="stages learnt", y_label=f"{first.metric}, all seen"),
            behind=_line_data(seen, "Learning"),
        )
    ]
    if any(value is not None for line in forgotten for value in line.mean):
        figures.append(
            _figure(
                "Forgetting",
                charts.lines(forgotten, x_label="stages learnt", y_label="forgetting", top=None),
                "how far earlier test sets have fallen below their best so far, on average",
                _line_data(forgotten, "Forgetting"),
            )
        )
    for columns, title, label in (
        (BYTES, "Bytes kept and accuracy", "bytes kept beyond the network"),
        (("seconds",), "Time and accuracy", "seconds"),
    ):
        dots = []
        for k, group in enumerate(streams):
            costs, scores = costs_of(group, columns), group.values("score")
            if costs and scores and min(costs.values()) > 0:
                y, spread = compare.mean_std(scores.values())
                x = statistics.fmean(costs.values())
                dots.append(charts.Dot(label=group.label, index=k, x=x, y=y, spread=spread))
        if dots:
            drawn = charts.scatter(dots, x_label=label, y_label=first.metric)
            figures.append(_figure(title, drawn, behind=_dot_data(dots, title, label)))
    heats = "".join(_heat(group) for group in streams)
    return (
        f'<div class="stream"><h3>{escape(name)}</h3>{_overview(streams)}'
        f'<ul class="legend" aria-label="Series; press to hide or show">{legend}</ul>'
        f'<div class="cards">{"".join(figures)}</div>'
        f"<details{' open' if len(streams) <= 12 else ''}><summary>Accuracy matrices: after stage (row) on test set "
        f'(column)</summary><div class="cards heats">{heats}</div></details></div>'
    )


def _figure(title: str, content: str, caption: str = "", behind: str = "") -> str:
    """A figure with what lies behind it: its numbers as a table, and itself as a file."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    if behind:
        save = f'<button type="button" class="save" data-save="{escape(title)}">save as SVG</button>'
        below += f'<output class="value"></output>{save}<details><summary>Numbers</summary>{behind}</details>'
    return f"<figure><h4>{escape(title)}</h4>{content}{below}</figure>"


def _line_data(curves: Sequence[charts.Line], title: str) -> str:
    n = max(len(curve.mean) for curve in curves)
    rows = [f"<tr>{_name(curve.label)}{''.join(map(_measured, curve.mean, curve.spread))}</tr>" for curve in curves]
    return _table(
        ["run", *(f"after {k}" for k in range(1, n + 1))], rows, f"{title}: mean ± deviation after each stage"
    )


def _dot_data(dots: Sequence[charts.Dot], title: str, x_label: str) -> str:
    rows = [f"<tr>{_name(dot.label)}<td>{_plain(dot.x)}</td>{_measured(dot.y, dot.spread)}</tr>" for dot in dots]
    return _table(["run", x_label, "score"], rows, f"{title}: mean ± deviation")


def _plain(value: float) -> str:
    """Bytes with their thousands, seconds with what counts of them; no powers of ten."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _measured(mean: float | None, spread: float | None) -> str:
    text = "–" if mean is None else f"{mean:.4f}" + (f" ± {spread:.4f}" if spread else "")
    return f"<td>{text}</td>"


def _line(group: Group, index: int, curve: Callable[[Mapping[str, Any]], Sequence[float | None]]) -> charts.Line:
    curves = [curve(run.results["metrics"][group.metric]) for run in group.runs.values()]
    means, spreads = over_seeds(curves)
    return charts.Line(label=group.label, index=index, mean=means, spread=spreads)


def _heat(group: Group) -> str:
    tables = [run.results["metrics"][group.metric]["matrix"] for run in group.runs.values()]
    results = next(iter(group.runs.values())).results
    columns = results["test_sets"]
    numbered = len(columns) > 6 or max(map(len, columns)) > 7
    head = "".join(
        f'<th scope="col" title="{escape(name)}">{k + 1 if numbered else escape(name)}</th>'
        for k, name in enumerate(columns)
    )
    rows = []
    for i in range(min(len(table) for table in tables)):
        means, spreads = over_seeds([table[i] for table in tables])
        cells = "".join(_cell(mean, spread, len(columns)) for mean, spread in zip(means, spreads, strict=True))
        rows.append(f'<tr><th scope="row" title="{escape(results["stages"][i])}">{i + 1}</th>{cells}</tr>')
    caption = f"<caption>{escape(group.label)}: score after stage (row) on test set (column)</caption>"
    table = f'<table class="heat">{caption}<tr><td></td>{head}</tr>{"".join(rows)}</table>'
    return _figure(group.label, table)


def _cell(mean: float | None, spread: float | None, n: int) -> str:
    if mean is None:
        return "<td></td>"
    share = min(max(mean, 0.0), 1.0)
    text = f"{mean:.2f}".replace("0.", ".") if n <= 12 else ""
    about = f"{mean:.4f}" + ("" if spread is None else f" ± {spread:.4f}")
    return f'<td class="{"high" if share > 0.55 else "low"}" style="--v:{100 * share:.0f}%" title="{about}">{text}</td>'


# ---- pictures, settings, machines -------------------------------------------------------------------


def _pictures(groups: Sequence[Group]) -> str:
    found = [
        (group, run, path)
        for group in groups
        for run in list(group.runs.values())[:1]
        for path in sorted(run.folder.glob("**/*"))
        if path.suffix.lower() in (".png", ".jpg", ".jpeg")
        and "beside" not in path.relative_to(run.folder).parts
        and not path.name.startswith(("matrix-", "curve-"))
    ]
    fits = [item for item in found if item[2].stat().st_size <= MAX_PICTURE_BYTES][:MAX_PICTURES]
    if not fits:
        return ""
    figures = []
    for group, run, path in fits:
        kind = "png" if path.suffix.lower() == ".png" else "jpeg"
        data = base64.b64encode(path.read_bytes()).decode()
        caption = f"{group.label}, {path.relative_to(run.folder)}"
        figures.append(
            f'<figure><img loading="lazy" alt="{escape(caption)}" src="data:image/{kind};base64,{data}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
    left = len(found) - len(fits)
    note = f'<p class="meta">{left} more in the run folders</p>' if left else ""
    return f'<h3>Pictures</h3><div class="cards">{"".join(figures)}</div>{note}'


def _settings(groups: Sequence[Group]) -> str:
    parts = ["<h3>Settings and where they come from</h3>"]
    for group in groups:
        run = next(iter(group.runs.values()))
        rows = [_setting(key, value, run.origins.get(key, "default")) for key, value in run.settings.items()]
        pieces = "".join(f"; {section} {name}" for section, name in run.info["pieces"].items())
        about = f"test {run.info['test']}{pieces}; {_data(group)}"
        table = _table(["setting", "value", "from"], rows, f"Settings of {group.label}", "settings")
        parts.append(
            f'<details class="card"><summary>{escape(group.label)}</summary>'
            f'<p class="meta">{escape(about)}</p>{table}</details>'
        )
    return "".join(parts)


def _data(group: Group) -> str:
    """Seeds, and the identities of the data that the runs saw."""
    seen: dict[str, list[str]] = {}
    for seed, run in sorted(group.runs.items()):
        seen.setdefault(str(run.results.get("data", {}).get("fingerprint", "")), []).append(str(seed))
    told = "; ".join(f"data {key} (seed {', '.join(seeds)})" for key, seeds in seen.items() if key)
    return f"seeds {', '.join(map(str, sorted(group.runs)))}" + (f"; {told}" if told else "")


def _setting(key: str, value: object, origin: str) -> str:
    mark = "" if origin == "default" else ' class="set"'
    texts = f'<td class="text">{escape(str(value))}</td><td class="text">{escape(origin)}</td>'
    return f'<tr{mark}><th scope="row">{escape(key)}</th>{texts}</tr>'


def _environments(groups: Sequence[Group]) -> str:
    known: dict[str, Mapping[str, Any]] = {}
    for group in groups:
        for run in group.runs.values():
            if (path := run.folder / "environment.json").exists():
                about = {k: v for k, v in read_json(path).items() if k != "command"}
                known.setdefault(repr(sorted(about.items(), key=str)), about)
    rows = []
    for content in known.values():
        versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
        machine = f"{content['system']}, {content['cores']} cores, {content['memory_bytes'] / 1e9:.0f} GB"
        cells = (machine, f"Python {content['python']}, {versions}", ", ".join(content["plugins"].values()))
        rows.append("<tr>" + "".join(f'<td class="text">{escape(cell)}</td>' for cell in cells) + "</tr>")
    table = _table(["machine", "versions", "plugins"], rows, "Machines and versions")
    return f'<section><h2>Where it ran</h2><div class="card">{table}</div></section>' if rows else ""
