"""Settings: defaults <- piece profile <- test <- its profile <- YAML <- ``--set``; typed, each with its origin."""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union

import attrs
import yaml
from attrs import define, field, frozen

from cl_kernel.contract.errors import BadSetting, nearest
from cl_kernel.contract.offers import doc

_NUMBER = re.compile(r"[-+]?(\d+(_\d+)*)?\.?\d*([eE][-+]?\d+)?\Z")


@frozen(kw_only=True)
class RunOptions:
    """Settings of the run itself, section ``run``."""

    seed: int = field(default=0, validator=attrs.validators.ge(0), metadata=doc("seed of everything random"))
    device: str = field(
        default="auto",
        validator=attrs.validators.matches_re(r"auto|cpu|mps|cuda(:\d+)?"),
        metadata=doc("auto, cpu, cuda or cuda:N"),
    )
    memory: str = field(default="", metadata=doc("replay capacity in examples (500) or bytes (1.5MB)"))
    budget: str = field(
        default="", metadata=doc("bytes for everything a method keeps beyond its network (2MB); empty: no limit")
    )
    evaluate: Literal["all", "seen"] = field(default="all", metadata=doc("which test sets are scored after a stage"))
    initial_scores: bool = field(default=False, metadata=doc("score before the first stage, for forward transfer"))
    checkpoint_every_s: float = field(
        default=60.0, validator=attrs.validators.gt(0), metadata=doc("time between checkpoints", unit="s")
    )
    on_bad_sample: Literal["fail", "skip"] = field(default="fail", metadata=doc("what a corrupt sample does"))
    n_workers: int = field(
        default=2, validator=attrs.validators.ge(0), metadata=doc("loader workers; results do not depend on it")
    )
    identity: Literal["content", "quick"] = field(
        default="content",
        metadata=doc(
            "how files are told apart: by what they hold, read once; or by name, size and time, for sets too large "
            "for that"
        ),
    )
    features: Literal["shared", "half", "off"] = field(
        default="shared",
        metadata=doc(
            "what a pretrained frozen part computes: once for all runs, in the cache; half: there in half the bytes; "
            "off: in each run anew"
        ),
    )
    plots: bool = field(default=True, metadata=doc("draw plots at the end"))
    stop_at_step: int = field(
        default=0,
        validator=attrs.validators.ge(0),
        metadata=doc("save and stop after so many steps, as a signal would; 0 = never"),
    )


SHARED = ("stream", "train")
"""Sections whose names stand back: ``lr`` is the learner's, ``train.lr`` everybody's."""


@frozen
class Layer:
    """Dotted values with where they came from."""

    origin: str
    values: Mapping[str, Any]


@define
class Resolved:
    """Settings objects by section, and the origin of every value."""

    sections: dict[str, Any]
    origins: dict[str, str]

    def flat(self) -> dict[str, Any]:
        """Dotted name -> value, plain."""
        return {
            f"{section}.{name}": value
            for section, settings in self.sections.items()
            for name, value in as_plain(settings).items()
        }


def resolve_settings(classes: Mapping[str, type | None], layers: Sequence[Layer]) -> Resolved:
    """Lay the layers over the classes' defaults.

    A key is ``section.name``, or a bare ``name`` that only one section has.

    :raises BadSetting: for an unknown or ambiguous key, a value of the wrong type or out of range.
    """
    values: dict[str, dict[str, Any]] = {section: {} for section in classes}
    origins: dict[str, str] = {
        f"{section}.{a.name}": "default"
        for section, cls in classes.items()
        if cls is not None
        for a in attrs.fields(cls)
    }
    for layer in layers:
        for key, value in layer.values.items():
            full = _full_key(key, origins, layer.origin)
            section, name = full.split(".", 1)
            cls = classes[section]
            assert cls is not None
            made = convert(value, typing.get_type_hints(cls)[name], full, layer.origin)
            _in_reach(made, getattr(attrs.fields(cls), name).default, full, layer.origin)
            values[section][name] = made
            origins[full] = layer.origin
    sections = {}
    for section, cls in classes.items():
        if cls is None:
            continue
        try:
            sections[section] = cls(**values[section])
        except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
            text = error.args[0] if error.args else error
            culprits = [f"{section}.{name} ({origins[f'{section}.{name}']})" for name in values[section]]
            named = [c for c in culprits if f"'{c.split(' ')[0].split('.', 1)[1]}'" in str(text)]
            raise BadSetting(f"bad value in section {section!r}: {text}", where=", ".join(named or culprits)) from error
    return Resolved(sections, origins)


def _in_reach(value: Any, default: Any, key: str, origin: str) -> None:
    """Refuse numbers that no piece can mean: not a number, infinite (unless that is the default), beyond 64 bits.

    :raises BadSetting: naming key and value.
    """
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple):
        for i, inner in enumerate(value):
            _in_reach(inner, math.inf, f"{key}[{i}]", origin)
    elif isinstance(value, float) and (math.isnan(value) or (math.isinf(value) and default != value)):
        if not (math.isinf(value) and isinstance(default, tuple)):
            raise BadSetting(f"{key} = {value} is no finite number", where=origin)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise BadSetting(f"{key} = {value} is outside the range of whole numbers, -2**63 to 2**63 - 1", where=origin)


def known_only(layer: Layer, classes: Mapping[str, type | None]) -> Layer:
    """The layer without the keys that no section has."""
    known = {
        f"{section}.{a.name}": "" for section, cls in classes.items() if cls is not None for a in attrs.fields(cls)
    }
    kept = {}
    for key, value in layer.values.items():
        try:
            kept[_full_key(key, known, layer.origin)] = value
        except BadSetting:
            continue
    return Layer(layer.origin, kept)


def _full_key(key: str, known: Mapping[str, str], origin: str) -> str:
    if key in known:
        return key
    if "." not in key:
        owners = [full for full in known if full.split(".", 1)[1] == key]
        owners = [full for full in owners if full.split(".", 1)[0] not in SHARED] or owners
        if len(owners) == 1:
            return owners[0]
        if owners:
            raise BadSetting(f"setting {key!r} is ambiguous: {' or '.join(owners)}", where=origin)
    else:
        head, _, rest = key.partition(".")
        if head == "replay":
            owners = [
                full
                for full in known
                if full.split(".", 1)[0] in ("policy", "codec", "source") and full.split(".", 1)[1] == rest
            ]
            if len(owners) == 1:
                return owners[0]
    names = [*known, *(full.split(".", 1)[1] for full in known)]
    near = nearest(key, names)
    hint = f"; did you mean {' or '.join(near)}?" if near else f"; known: {', '.join(sorted(known))}"
    raise BadSetting(f"unknown setting {key!r}{hint}", where=origin, fix="clk show TEST lists every setting")


def convert(value: Any, wanted: Any, key: str, origin: str) -> Any:
    """A YAML or command-line value as the annotated type.

    :raises BadSetting: naming the key, the value and the type.
    """
    origin_type = typing.get_origin(wanted)
    arguments = typing.get_args(wanted)

    def wrong() -> BadSetting:
        return BadSetting(f"{key} = {value!r} is not {_type_name(wanted)}", where=origin)

    if wanted is Any:
        return value
    if origin_type in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        for option in arguments:
            if option is not type(None):
                try:
                    return convert(value, option, key, origin)
                except BadSetting:
                    continue
        raise wrong()
    if origin_type is Literal:
        for option in arguments:
            if value == option or str(value).lower() == str(option).lower():
                return option
        raise BadSetting(f"{key} = {value!r} is none of {', '.join(map(str, arguments))}", where=origin)
    if origin_type in (tuple, list, Sequence, typing.Sequence) or origin_type is typing.get_origin(Sequence[int]):
        items = _as_items(value)
        if items is None:
            raise wrong()
        if origin_type is tuple and arguments and arguments[-1] is not Ellipsis:
            if len(items) != len(arguments):
                raise wrong()
            return tuple(
                convert(v, t, f"{key}[{i}]", origin) for i, (v, t) in enumerate(zip(items, arguments, strict=True))
            )
        inner = arguments[0] if arguments else Any
        return tuple(convert(v, inner, f"{key}[{i}]", origin) for i, v in enumerate(items))
    if origin_type is dict or origin_type is typing.get_origin(Mapping[str, int]):
        if not isinstance(value, Mapping):
            raise wrong()
        return {
            convert(k, arguments[0], key, origin): convert(v, arguments[1], f"{key}.{k}", origin)
            for k, v in value.items()
        }
    if wanted is bool:
        if isinstance(value, bool):
            return value
        raise wrong()
    if wanted in (int, float):
        number = _as_number(value)
        if number is None or (wanted is int and not (math.isfinite(number) and number == int(number))):
            raise wrong()
        return wanted(number)
    if wanted is str:
        if isinstance(value, (Mapping, list, tuple)):
            raise wrong()
        return "" if value is None else str(value)
    if wanted is Path:
        if not isinstance(value, (str, Path)):
            raise wrong()
        return Path(value)
    return value


def _as_number(value: Any) -> float | int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, str) and value and _NUMBER.match(value):
        try:
            return int(value) if value.lstrip("+-").replace("_", "").isdigit() else float(value)
        except ValueError:
            return None
    return None


def _as_items(value: Any) -> list[Any] | None:
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, str):
        return [yaml.safe_load(part) for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _type_name(wanted: Any) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}.get(
        wanted, str(wanted).replace("typing.", "")
    )


def parse_assignments(texts: Sequence[str]) -> Layer:
    """``--set key=value`` flags, values read as YAML.

    :raises BadSetting: for text without ``=``.
    """
    values = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise BadSetting(f"{text!r} does not read key=value", where="--set", fix="--set learner.lr=0.1")
        try:
            values[key.strip()] = yaml.safe_load(value) if value else ""
        except yaml.YAMLError as error:
            raise BadSetting(f"{text!r} has no readable value: {error}", where="--set") from error
    return Layer("--set", values)


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that appears twice is an error, not the last one's."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As the base, after looking at the keys."""
        keys = [key.value for key, _ in node.value]
        for i, (key, _) in enumerate(node.value):
            if key.value in keys[:i]:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} appears twice", key.start_mark)
        content: dict[Any, Any] = super().construct_mapping(node, deep)
        return content


def read_yaml(path: Path) -> Layer:
    """A settings file: nested sections or dotted keys.

    :raises BadSetting: when it cannot be read, naming file and line.
    """
    try:
        content = yaml.load(path.read_text(), _UniqueKeys)
    except FileNotFoundError as error:
        raise BadSetting(f"settings file {path} does not exist", where="--config-file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadSetting(f"settings file cannot be read: {error}", where=str(path)) from error
    if content is None:
        return Layer(str(path), {})
    if not isinstance(content, dict):
        raise BadSetting(f"settings file holds a {type(content).__name__}, not sections", where=str(path))
    return Layer(str(path), flatten(content))


def flatten(
    content: Mapping[str, Any],
    sections: Sequence[str] = (
        "run",
        "dataset",
        "model",
        "learner",
        "policy",
        "codec",
        "source",
        "replay",
        "experiment",
        *SHARED,
    ),
) -> dict[str, Any]:
    """Nested sections as dotted keys; only the known sections nest, so mappings as values stay whole."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        nested = key in sections and isinstance(value, Mapping)
        for name, inner in {f"{key}.{name}": v for name, v in value.items()}.items() if nested else [(str(key), value)]:
            if name in flat:
                raise BadSetting(f"{name} is set twice, to {flat[name]!r} and to {inner!r}", where="settings")
            flat[name] = inner
    return flat


def as_plain(settings: Any) -> dict[str, Any]:
    """A settings object as JSON- and YAML-safe values."""

    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, (tuple, list)):
            return [plain(v) for v in value]
        if isinstance(value, Mapping):
            return {k: plain(v) for k, v in value.items()}
        return value

    return {a.name: plain(getattr(settings, a.name)) for a in attrs.fields(type(settings))}
