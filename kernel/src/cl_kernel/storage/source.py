"""Which code a run was made with: digests of the Python files of packages, told apart even between two commits."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from importlib import util
from pathlib import Path

import xxhash


def code_of(targets: Iterable[str]) -> dict[str, str]:
    """Package -> digest of its sources, for the kernel and whatever ``package.module:name`` strings name."""
    packages = {target.partition(":")[0].partition(".")[0] for target in targets}
    found = {name: source_digest(name) for name in sorted({"cl_kernel", *packages})}
    return {name: digest for name, digest in found.items() if digest}


@lru_cache
def source_digest(package: str) -> str:
    """A digest of names and bytes of a package's Python files; empty where it is not installed."""
    try:
        spec = util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return ""
    digest = xxhash.xxh3_64()
    for root in map(Path, spec.submodule_search_locations or ()):
        for path in sorted(root.rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    if not spec.submodule_search_locations and spec.origin and Path(spec.origin).is_file():
        digest.update(Path(spec.origin).read_bytes())
    return digest.hexdigest()
