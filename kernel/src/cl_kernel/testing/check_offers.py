"""Checks of what a plugin says it offers; nothing heavy is built."""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import subprocess
import sys
import typing
from importlib import metadata, util
from pathlib import Path
from typing import Any

import attrs
import yaml

import cl_kernel
from cl_kernel.cli.console import Console
from cl_kernel.contract.errors import BadSetting
from cl_kernel.contract.offers import Asset
from cl_kernel.registry import KINDS, entry_points, resolve
from cl_kernel.running.plan import Request, plan
from cl_kernel.running.settings import Layer, as_plain, resolve_settings
from cl_kernel.testing.subject import Failed, NotApplicable, Subject, blame, check

HEAVY = (
    "torch",
    "torchvision",
    "tensorflow",
    "tensorflow_hub",
    "tf_keras",
    "keras",
    "gin",
    "jax",
    "numpy",
    "scipy",
    "sklearn",
    "pandas",
    "PIL",
    "cv2",
    "faiss",
    "transformers",
    "timm",
    "matplotlib",
    "ray",
    "duckdb",
    "polars",
)
ARGUMENTS = {
    "dataset": 2,
    "model": 4,
    "policy": 2,
    "codec": 3,
    "source": 2,
    "metric": 2,
    "learner": 2,
    "command": 1,
    "tracker": 1,
    "executor": 1,
    "run": 2,
    "prepare": 2,
}
SHARED = (
    "torch",
    "testing",
    "memory",
    "library",
    "methods",
    "metrics",
    "sweep",
)  # kernel packages that plugins may name besides cl_kernel itself

_LIGHT = """
import json, os, sys

heavy, name, out = json.loads(sys.argv[1])

class Blocker:
    def find_spec(self, module, path=None, target=None):
        if module.partition(".")[0] in heavy:
            raise ImportError(f"{module} is not light: name it by string and import it on first use")

sys.meta_path.insert(0, Blocker())
from cl_kernel.registry import discover

discover(only=[])
loaded = set(sys.modules)
before = {"working directory": os.getcwd(), "environment": dict(os.environ), "sys.path": list(sys.path)}
registry = discover(only=[name])
after = {"working directory": os.getcwd(), "environment": dict(os.environ), "sys.path": list(sys.path)}
report = {
    "changed": [what for what in before if before[what] != after[what]],
    "broken": registry.quarantine[0].broken if registry.quarantine else "",
    "loaded": sorted(set(sys.modules) - loaded),
}
with open(out, "w") as file:
    json.dump(report, file)
"""


def light_process(subject: Subject) -> dict[str, Any]:
    """Load the plugin in a process in which heavy packages cannot be imported."""
    out = subject.folder / "light.json"
    arguments = json.dumps([HEAVY, subject.plugin, str(out)])
    done = subprocess.run(
        [sys.executable, "-c", _LIGHT, arguments],
        capture_output=True,
        text=True,
        check=False,
        env=subject.environment(),
    )
    if done.returncode:
        raise Failed(f"loading the plugin ends the process: {done.stderr.strip()[-600:]}")
    report: dict[str, Any] = json.loads(out.read_text())
    return report | {"printed": done.stdout}


@check
def loads(subject: Subject) -> None:
    """The entry point loads, every hook is known, marked and takes what it may, records are valid and unique."""
    assert subject.owner


@check
def says_who_it_is(subject: Subject) -> None:
    """clk_plugin gives the entry point's name, a summary and the version of the contract."""
    about = subject.owner.about
    if about is None:
        raise Failed("no clk_plugin hook: the plugin list can only show the distribution's name")
    if about.name != subject.plugin:
        raise Failed(f"clk_plugin says {about.name!r}, the entry point {subject.plugin!r}")
    if not about.summary.strip() or about.spec < 1:
        raise Failed(f"clk_plugin gives summary {about.summary!r} and spec {about.spec}")


@check
def loads_light(subject: Subject) -> None:
    """Discovery imports no heavy package, not even numpy, and no other plugin."""
    report = light_process(subject)
    if report["broken"]:
        raise Failed(report["broken"])
    own = {o.record.build.partition(".")[0] for o in subject.offers() if getattr(o.record, "build", "")}
    others = {
        entry.value.partition(":")[0].partition(".")[0] for entry in entry_points() if entry.name != subject.plugin
    }
    if foreign := sorted({m.partition(".")[0] for m in report["loaded"]} & others - own):
        raise Failed(f"loading it imports other plugins: {', '.join(foreign)}")


@check
def loads_without_side_effects(subject: Subject) -> None:
    """Discovery changes neither working directory nor environment nor sys.path, and prints nothing."""
    report = light_process(subject)
    if report["changed"]:
        raise Failed(f"loading it changes the {' and the '.join(report['changed'])}")
    if report["printed"]:
        raise Failed(f"loading it prints {report['printed'][:80]!r}")


@check
def imports_public_names_only(subject: Subject) -> None:
    """Its code imports the kernel's public names and no other plugin."""
    others = {e.value.partition(":")[0].partition(".")[0] for e in entry_points()} - {"cl_kernel"}
    for path, package in _sources(subject):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [(alias.name, "") for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [(node.module, alias.name) for alias in node.names]
            else:
                continue
            for module, name in names:
                top, _, rest = module.partition(".")
                where = f"{path.name}:{node.lineno}"
                if top == "cl_kernel" and rest and rest.partition(".")[0] not in SHARED:
                    raise Failed(f"{where} imports {module}; public names come from cl_kernel itself")
                if module == "cl_kernel" and name and name not in (*cl_kernel.__all__, *SHARED):
                    raise Failed(f"{where} imports {name}, which is no public name of cl_kernel")
                if top in others and top != package:
                    raise Failed(f"{where} imports the plugin {top}")


@check
def hooks_are_pure(subject: Subject) -> None:
    """Asked twice, the hooks give equal records."""
    from cl_kernel.registry import discover

    again = discover(only=subject.allowed)
    for kind in KINDS:
        first, second = (
            [o.record for o in r.offers[kind] if o.plugin == subject.owner.name] for r in (subject.registry, again)
        )
        if first != second:
            raise Failed(f"{KINDS[kind]} gives other records the second time")


@check
def targets_resolve(subject: Subject) -> None:
    """Every build, run and prepare string names a callable that takes what it will be given."""
    for offer in subject.offers():
        record, kind = offer.record, _kind(subject, offer)
        missing = [m for m in getattr(record, "requires", ()) if util.find_spec(m) is None]
        for attribute, expected in (("build", ARGUMENTS.get(kind, 0)), ("run", 2), ("prepare", 2)):
            target = getattr(record, attribute, "")
            if not target or missing:
                continue
            with blame(f"{kind} {record.name}: {target} cannot be imported"):
                function = resolve(target)
            if not callable(function):
                raise Failed(f"{kind} {record.name}: {target} is no function")
            try:
                inspect.signature(function).bind(*[None] * expected)
            except TypeError as error:
                raise Failed(f"{kind} {record.name}: {target} is called with {expected} arguments: {error}") from error


@check
def records_are_described(subject: Subject) -> None:
    """Every record has a one-line summary."""
    for offer in subject.offers():
        if not offer.record.summary.strip() or "\n" in offer.record.summary:
            raise Failed(f"{_kind(subject, offer)} {offer.record.name} has the summary {offer.record.summary!r}")


@check
def tests_have_distinct_names(subject: Subject) -> None:
    """Names and aliases of tests differ, whatever the case, and at most one test is the default."""
    taken: dict[str, str] = {}
    for offer in subject.some("test"):
        for name in (offer.record.name, *offer.record.aliases):
            if (other := taken.setdefault(name.lower(), offer.record.name)) != offer.record.name:
                raise Failed(f"{name!r} names both {other} and {offer.record.name}")
    if len(defaults := [o.record.name for o in subject.offers("test") if o.record.default]) > 1:
        raise Failed(f"several default tests: {', '.join(defaults)}")


@check
def settings_are_frozen_and_documented(subject: Subject) -> None:
    """Settings are frozen attrs classes; every field has a type, a default and a meaning."""
    for name, cls in _settings(subject):
        if not attrs.has(cls):
            raise Failed(f"settings of {name} ({cls.__name__}) are no attrs class")
        for field in attrs.fields(cls):
            if field.type is None or field.default is attrs.NOTHING or not field.metadata.get("doc"):
                raise Failed(f"{cls.__name__}.{field.name} of {name} lacks a type, a default or metadata=doc(...)")
            try:
                setattr(cls(), field.name, field.default)
            except attrs.exceptions.FrozenInstanceError:
                continue
            raise Failed(f"{cls.__name__} of {name} is not frozen")


@check
def settings_survive_yaml(subject: Subject) -> None:
    """Default settings written as YAML and read back are equal; an unknown setting is refused."""
    for name, cls in _settings(subject):
        with blame(f"settings of {name}"):
            plain = yaml.safe_load(yaml.safe_dump({f"x.{k}": v for k, v in as_plain(cls()).items()}))
            again = resolve_settings({"x": cls}, [Layer("yaml", plain)]).sections["x"]
        if again != cls():
            raise Failed(f"settings of {name} read back from YAML differ: {again} from {cls()}")
        try:
            resolve_settings({"x": cls}, [Layer("check", {"x.no_such_setting": 1})])
        except BadSetting:
            continue
        raise Failed(f"settings of {name} accept no_such_setting")


@check
def settings_refuse_wrong_types(subject: Subject) -> None:
    """A number where words belong, or words where a number belongs, is an error that names the setting."""
    for name, cls in _settings(subject):
        for field in attrs.fields(cls):
            if typing.get_type_hints(cls)[field.name] not in (int, float, bool):
                continue
            try:
                resolve_settings({"x": cls}, [Layer("check", {f"x.{field.name}": "words"})])
            except BadSetting:
                continue
            raise Failed(f"{field.name} of {name} accepts 'words'")


@check
def profiles_name_settings(subject: Subject) -> None:
    """Profiles and arguments of pieces only name settings that exist, with values of their type."""
    for offer in subject.offers():
        record = offer.record
        classes = {"x": getattr(record, "settings", None)}
        for profile, values in (
            getattr(record, "profiles", {}).items() if isinstance(classes["x"], (type, type(None))) else ()
        ):
            with blame(f"profile {profile} of {record.name}"):
                resolve_settings(classes, [Layer(profile, {f"x.{k}": v for k, v in values.items()})])
        argument = getattr(record, "argument", "")
        if argument and (classes["x"] is None or argument not in attrs.fields_dict(classes["x"])):
            raise Failed(f"{record.name} takes the argument {argument!r}, which is no setting of it")


@check
def frameworks_are_required(subject: Subject) -> None:
    """Pieces of a deep-learning framework list it in ``requires``, so that its absence is one clear line."""
    for offer in subject.offers("model", "replay", "learner"):
        framework = offer.record.framework
        if framework != "numpy" and framework not in offer.record.requires:
            raise Failed(f"{offer.record.name} is {framework}, but requires {offer.record.requires}")


@check
def tests_can_be_planned(subject: Subject) -> None:
    """Every test resolves in every profile, comparison runs included: pieces exist and fit, settings are known."""
    for offer in subject.some("test"):
        for profile in offer.record.profiles or ("tiny",):
            for label in ("", *offer.record.comparisons):
                with blame(f"test {offer.record.name}, profile {profile}" + (f", comparison {label}" if label else "")):
                    plan(subject.registry, Request(test=offer.name, profile=profile, comparison=label))


@check
def the_default_test_needs_nothing(subject: Subject) -> None:
    """What ``clk run --plugin NAME`` runs works with no data: its data set is part of the package."""
    if subject.streams:
        pieces = plan(
            subject.registry,
            Request(test=subject.test, plugin=subject.plugin, profile="tiny", overrides=subject.request.overrides),
        ).pieces
        for offer, _ in pieces.values():
            if offer.record.__class__.__name__ == "Dataset" and offer.record.assets:
                raise Failed(f"the tiny profile uses {offer.name}, which needs {offer.record.assets[0].name}")


@check
def published_figures_say_where(subject: Subject) -> None:
    """Expected figures name where they are published, and none belongs to toy data."""
    figures = [(o, figure) for o in subject.offers("test") for figure in o.record.expected]
    for offer, figure in figures:
        if not figure.where or figure.profile == "tiny":
            raise Failed(
                f"test {offer.record.name}: {figure.metric} = {figure.value} (profile {figure.profile}) "
                f"from {figure.where or 'nowhere'}"
            )


@check
def assets_say_how_to_get_them(subject: Subject) -> None:
    """What has to come from outside names its files and where to get them."""
    for offer in subject.offers():
        for asset in getattr(offer.record, "needs", ()):
            if not asset.files or not asset.origin or not asset.summary:
                raise Failed(f"asset {asset.name} of {offer.record.name} lacks files, origin or summary")


@check
def unknown_assets_are_left_to_others(subject: Subject) -> None:
    """clk_locate answers None for what is not its own."""
    assert subject.owner
    asset = Asset(name="no-such-asset", summary="made up", files=("nowhere.bin",))
    with blame("clk_locate"):
        found = subject.registry.locate(asset, (subject.folder,))
    if found is not None:
        raise Failed(f"clk_locate finds an asset that does not exist, at {found.name}")


@check
def commands_explain_themselves(subject: Subject) -> None:
    """Every command builds a handler and help text, light as discovery."""
    for offer in subject.some("command"):
        parser = argparse.ArgumentParser(prog=offer.record.name)
        with blame(f"command {offer.record.name}"):
            handler = resolve(offer.record.build)(parser)
            parser.format_help()
        if not callable(handler):
            raise Failed(f"command {offer.record.name} gives {type(handler).__name__}, not a handler")
        try:
            inspect.signature(handler).bind(argparse.Namespace(), Console)
        except TypeError as error:
            raise Failed(f"the handler of {offer.record.name} is called with (namespace, console): {error}") from error


@check
def the_readme_names_every_test(subject: Subject) -> None:
    """The README that is shipped with the distribution names every test."""
    tests = [offer.record.name for offer in subject.some("test")]
    text = _readme(subject)
    if missing := [name for name in tests if name not in text]:
        raise Failed(
            f"the README does not name {', '.join(missing)}" if text.strip() else "the distribution has no README"
        )


def _kind(subject: Subject, offer: Any) -> str:
    kind = next(kind for kind, offers in subject.registry.offers.items() if offer in offers)
    return str(offer.record.kind) if kind == "replay" else kind


def _settings(subject: Subject) -> list[tuple[str, type]]:
    found = [
        (o.record.name, getattr(o.record, name))
        for o in subject.offers()
        for name in ("settings", "options")
        if isinstance(getattr(o.record, name, None), type)
    ]
    if not found:
        raise NotApplicable("has no settings")
    return found


def _readme(subject: Subject) -> str:
    """The README beside the sources, else the one the distribution was built with."""
    for path, _ in _sources(subject)[:1]:
        for folder in list(path.parents)[:4]:
            project, readme = folder / "pyproject.toml", folder / "README.md"
            if project.is_file() and readme.is_file() and f'"{subject.owner.distribution}"' in project.read_text():
                return readme.read_text(encoding="utf-8")
    try:
        about = metadata.metadata(subject.owner.distribution)
    except metadata.PackageNotFoundError:
        raise NotApplicable("belongs to no distribution") from None
    return str(about.get("Description") or about.get_payload() or "")  # type: ignore[attr-defined]


def _sources(subject: Subject) -> list[tuple[Path, str]]:
    """Source files of the plugin and the package they belong to."""
    assert subject.owner
    entry = next((e for e in entry_points() if e.name == subject.plugin), None)
    if entry is None:
        raise NotApplicable("has no entry point")
    package = entry.value.partition(":")[0].partition(".")[0]
    spec = util.find_spec(package)
    if spec is None or spec.origin is None:
        raise NotApplicable("has no source files")
    if spec.submodule_search_locations:
        return [
            (path, package) for root in spec.submodule_search_locations for path in sorted(Path(root).rglob("*.py"))
        ]
    return [(Path(spec.origin), package)]
