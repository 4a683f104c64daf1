"""Look at what a prompt retrieves: a self-contained page, and the numbers behind it."""

# ruff: noqa: E501  the page is text, its lines are as long as they are

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from attrs import frozen
from PIL import Image

from cl_kernel import BadInput, open_picture
from cl_plugin_clear.curation.buckets import Split
from cl_plugin_clear.curation.features import Embedder, Features
from cl_plugin_clear.curation.pictures import Pictures
from cl_plugin_clear.curation.retrieval import normalise, search


@frozen
class Hit:
    """One retrieved picture."""

    id: int
    row: int
    score: float
    uploaded: int
    rel_path: str


@frozen
class BucketView:
    """What a query retrieves in one bucket.

    :param histogram: counts and edges of the scores of the retrieved.
    :param months: "YYYY-MM" -> retrieved pictures.
    """

    bucket: int
    n_pictures: int
    hits: list[Hit]
    histogram: tuple[np.ndarray, np.ndarray]
    months: dict[str, int]

    @property
    def years(self) -> dict[str, int]:
        """ "YYYY" -> retrieved pictures."""
        found: dict[str, int] = {}
        for month, n in self.months.items():
            found[month[:4]] = found.get(month[:4], 0) + n
        return found


class Explorer:
    """Queries against the features of a split.

    >>> view = Explorer(Path("store"), "equal-11", open_model("toy")).query("ring", bucket=1)  # doctest: +SKIP
    """

    def __init__(self, root: Path, split: str, embedder: Embedder) -> None:
        self.root, self.split, self.embedder = root, Split.open(root, split), embedder
        self.pictures = Pictures(root)

    def text(self, prompt: str) -> np.ndarray:
        """Normalised feature [d] of a prompt."""
        return normalise(self.embedder.texts([prompt]))[0]  # type: ignore[no-any-return]

    def picture(self, path: Path) -> np.ndarray:
        """Normalised feature [d] of one picture.

        :raises BadInput: when it cannot be read.
        """
        try:
            picture = open_picture(path)
        except BadInput as error:
            raise BadInput(f"cannot read the query picture: {error.what}", where=str(path)) from error
        return normalise(self.embedder.images([picture]))[0]  # type: ignore[no-any-return]

    def score(self, prompt: str, path: Path) -> float:
        """Cosine of a prompt and a picture."""
        return float(self.text(prompt) @ self.picture(path))

    def similarity(self, a: Path, b: Path) -> float:
        """Cosine of two pictures."""
        return float(self.picture(a) @ self.picture(b))

    def query(self, query: str | Path, bucket: int, k: int = 1000, *, worst: bool = False) -> BucketView:
        """The ``k`` best (or worst) pictures of a bucket for a prompt or a picture."""
        vector = self.picture(query) if isinstance(query, Path) else self.text(query)
        features = Features.open(self.root, self.embedder, self.split.name, bucket)
        ids = features.ids()
        top, low = search(vector[None], features.shards(), min(k, len(ids)), bottom=worst)
        ranked = low if worst and low is not None else top
        table = self.split.rows(bucket, ["up", "rel_path"])
        up, paths = table["up"].to_numpy(), table["rel_path"]
        hits = [
            Hit(
                int(ids[row]),
                int(row),
                -float(score) if worst else float(score),
                int(up[row]),
                str(paths[int(row)].as_py()),
            )
            for row, score in zip(ranked.rows[0], ranked.scores[0], strict=True)
        ]
        months: dict[str, int] = {}
        for hit in sorted(hits, key=lambda h: h.uploaded):
            month = datetime.fromtimestamp(hit.uploaded, UTC).strftime("%Y-%m")
            months[month] = months.get(month, 0) + 1
        return BucketView(
            bucket,
            len(ids),
            hits,
            np.histogram([h.score for h in hits], 20) if hits else (np.zeros(1, int), np.zeros(2)),
            months,
        )


def subsample(view: BucketView, ratio: float, seed: int = 0) -> list[Hit]:
    """Every ``1 / ratio``-th hit on average, in order of score: a look at how far down the list precision holds."""
    n = max(1, round(len(view.hits) * ratio)) if view.hits else 0
    rows = np.sort(np.random.default_rng([seed, view.bucket]).permutation(len(view.hits))[:n])
    return [view.hits[row] for row in rows]


# ---- the page ---------------------------------------------------------------------------------

_STYLE = """
:root{color-scheme:light dark;--ink:#1d2430;--soft:#6a7383;--line:#d9dee6;--paper:#fff;--bar:#3b7dd8}
@media(prefers-color-scheme:dark){:root{--ink:#e7ebf2;--soft:#98a2b3;--line:#343c48;--paper:#161a20;--bar:#5b9bf0}}
body{font:15px/1.45 system-ui,sans-serif;margin:0;background:var(--paper);color:var(--ink)}
main{max-width:1180px;margin:0 auto;padding:20px}
h1{font-size:22px;margin:0 0 2px}h2{font-size:17px;margin:26px 0 8px;border-bottom:1px solid var(--line);padding-bottom:4px}
p.note{color:var(--soft);margin:2px 0 12px}
.charts{display:flex;flex-wrap:wrap;gap:20px}figure{margin:0}figcaption{color:var(--soft);font-size:12px;margin-top:3px}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(104px,1fr));gap:9px}
.grid a{display:block;border:1px solid var(--line);border-radius:6px;overflow:hidden;color:inherit;text-decoration:none}
.grid a.no{outline:3px solid #d64545}.grid a.yes{outline:3px solid #2f9e5b}
.grid img{width:100%;height:84px;object-fit:cover;display:block;background:var(--line)}
.grid span{display:block;font-size:11px;padding:3px 6px;font-variant-numeric:tabular-nums}
svg{max-width:100%;height:auto}svg text{fill:var(--soft);font-size:10px}svg rect{fill:var(--bar)}
label{font-size:13px;color:var(--soft)}input[type=range]{vertical-align:middle;width:220px}
table{border-collapse:collapse;font-size:13px}td,th{padding:3px 12px 3px 0;text-align:left;font-variant-numeric:tabular-nums}
"""

_SCRIPT = """
const range=document.getElementById('least');const shown=document.getElementById('shown');
function filter(){const t=Number(range.value);let n=0;document.querySelectorAll('#first a').forEach(a=>{
 const ok=Number(a.dataset.score)>=t;a.style.display=ok?'':'none';n+=ok});shown.textContent=t.toFixed(3)+' ('+n+' shown)'}
range.addEventListener('input',filter);
const kept=JSON.parse(localStorage.getItem(document.title)||'{}');
document.querySelectorAll('.precision').forEach(box=>{const out=box.querySelector('output'),tiles=[...box.querySelectorAll('.grid a')];
 const tell=()=>{const no=tiles.filter(a=>kept[a.dataset.id]==='no').length,yes=tiles.filter(a=>kept[a.dataset.id]==='yes').length;
  tiles.forEach(a=>{a.classList.toggle('no',kept[a.dataset.id]==='no');a.classList.toggle('yes',kept[a.dataset.id]==='yes')});
  out.textContent=yes+no?'precision '+(100*yes/(yes+no)).toFixed(1)+' % of '+(yes+no)+' judged, '+(tiles.length-yes-no)+' not':'nothing judged yet'};
 tiles.forEach(a=>a.addEventListener('click',e=>{e.preventDefault();const next={undefined:'yes',yes:'no',no:undefined}[kept[a.dataset.id]];
  if(next)kept[a.dataset.id]=next;else delete kept[a.dataset.id];localStorage.setItem(document.title,JSON.stringify(kept));tell()}));tell()});
filter();document.body.dataset.ready='yes';
"""


def bars(labels: Sequence[str], counts: Sequence[int], title: str, width: int = 420, height: int = 130) -> str:
    """A small bar chart as SVG."""
    n, most = max(len(counts), 1), max([*counts, 1])
    step = width / n
    every = max(1, -(-n // 8))
    parts = [
        f'<svg viewBox="0 0 {width} {height + 18}" width="{width}" height="{height + 18}" role="img" aria-label="{html.escape(title)}">'
    ]
    for i, (label, count) in enumerate(zip(labels, counts, strict=True)):
        tall = height * count / most
        parts.append(
            f'<rect x="{i * step + 0.5:.1f}" y="{height - tall:.1f}" width="{max(step - 1, 0.5):.1f}" height="{tall:.1f}">'
            f"<title>{html.escape(label)}: {count}</title></rect>"
        )
        if i % every == 0 and (n - i) * step > 44:
            parts.append(f'<text x="{i * step + 1:.1f}" y="{height + 12}">{html.escape(label)}</text>')
    parts.append(f"</svg><figcaption>{html.escape(title)}, tallest {most}</figcaption>")
    return f"<figure>{''.join(parts)}</figure>"


def smaller(pictures: Pictures, rel_path: str, edges: tuple[int, int]) -> bytes:
    """A picture as JPEG that fits into (width, height); a gray box for one that cannot be read."""
    try:
        small = open_picture(pictures.read(rel_path), name=rel_path)
    except (OSError, BadInput):
        small = Image.new("RGB", (min(edges), min(edges)), (150, 150, 150))
    small.thumbnail(edges)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=85)
    return out.getvalue()


def thumbnail(pictures: Pictures, rel_path: str, edge: int = 104) -> str:
    """A picture as a data address."""
    return "data:image/jpeg;base64," + base64.b64encode(smaller(pictures, rel_path, (edge * 2, edge))).decode()


def _tiles(pictures: Pictures, hits: Sequence[Hit], name: str = "") -> str:
    tiles = [
        f'<a href="#" data-id="{hit.id}" data-score="{hit.score:.5f}" title="photo {hit.id}, uploaded '
        f'{datetime.fromtimestamp(hit.uploaded, UTC):%Y-%m-%d}"><img alt="photo {hit.id}" src="{thumbnail(pictures, hit.rel_path)}">'
        f"<span>{hit.score:.3f} · {datetime.fromtimestamp(hit.uploaded, UTC):%Y-%m}</span></a>"
        for hit in hits
    ]
    label = f' id="{name}"' if name else ""
    return f'<div class="grid"{label}>{"".join(tiles)}</div>'


def page(
    explorer: Explorer,
    query: str | Path,
    bucket: int,
    *,
    k: int = 1000,
    end: int = 40,
    ratio: float = 0.025,
    across: Sequence[int] = (1, 5, 10),
    worst: bool = False,
) -> str:
    """The whole page: grid of the first ``end``, histograms, and a sub-sample over buckets to judge precision in.

    Everything is inside it: no address of anything else.
    """
    view = explorer.query(query, bucket, k, worst=worst)
    counts, edges = view.histogram
    others = [b for b in across if b in explorer.split.buckets]
    low = min((h.score for h in view.hits), default=0.0)
    high = max((h.score for h in view.hits), default=1.0)
    name = html.escape(query.name if isinstance(query, Path) else str(query))
    sections = []
    rows = []
    for other in others:
        found = explorer.query(query, other, k, worst=worst)
        some = subsample(found, ratio)
        scores = [h.score for h in found.hits] or [float("nan")]
        rows.append(
            f"<tr><td>{other}</td><td>{found.n_pictures}</td><td>{len(found.hits)}</td><td>{max(scores):.3f}</td>"
            f"<td>{float(np.median(scores)):.3f}</td><td>{min(scores):.3f}</td></tr>"
        )
        sections.append(
            f'<section class="precision"><h2>bucket {other}, {len(some)} of {len(found.hits)}</h2>'
            f'<p class="note">click once for right, twice for wrong: <output></output></p>{_tiles(explorer.pictures, some)}</section>'
        )
    months = bars(list(view.months), list(view.months.values()), "retrieved per month")
    per_year = bars(list(view.years), list(view.years.values()), "retrieved per year", width=220)
    spread = bars(
        [f"{round(edge, 2) + 0.0:.2f}" for edge in edges[:-1]], [int(c) for c in counts], "scores of the retrieved"
    )
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{name} - bucket {bucket}</title><style>{_STYLE}</style></head><body><main>
<h1>“{name}”</h1><p class="note">{"worst" if worst else "best"} {len(view.hits)} of {view.n_pictures} pictures of bucket {bucket},
split {html.escape(explorer.split.name)}, model {html.escape(explorer.embedder.name)}; scores are cosines</p>
<div class="charts">{spread}{months}{per_year}</div>
<h2>first {min(end, len(view.hits))}</h2>
<p><label>least score <input id="least" type="range" min="{low:.4f}" max="{high:.4f}" step="0.001" value="{low:.4f}"></label>
<output id="shown"></output></p>
{_tiles(explorer.pictures, view.hits[:end], "first")}
<h2>over the buckets</h2><table><tr><th>bucket</th><th>pictures</th><th>retrieved</th><th>best</th><th>median</th><th>last</th></tr>
{"".join(rows)}</table>{"".join(sections)}
</main><script>{_SCRIPT}</script></body></html>
"""
