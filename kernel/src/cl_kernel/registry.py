"""Discovery: entry points, each in its own guard; quarantine; typed access to what plugins offer.

Only this module touches pluggy.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pluggy
from attrs import asdict, define, field, frozen

from cl_kernel.contract import hooks as hookspecs
from cl_kernel.contract.errors import BrokenPlugin, ClkError, DuplicateName, UnknownName, nearest
from cl_kernel.contract.events import Event
from cl_kernel.contract.hooks import PROJECT
from cl_kernel.contract.interfaces import Companions
from cl_kernel.contract.offers import SPEC_VERSION, Asset, Plugin

KINDS: Mapping[str, str] = {
    "dataset": "clk_datasets",
    "model": "clk_models",
    "replay": "clk_replays",
    "metric": "clk_metrics",
    "learner": "clk_learners",
    "test": "clk_experiments",
    "command": "clk_commands",
    "tracker": "clk_trackers",
    "executor": "clk_executors",
}
BUILTIN = "clk"
OWN = metadata.EntryPoint(BUILTIN, "cl_kernel.plugin", PROJECT)
"""The kernel's own pieces, loaded as any plugin is; written out here so that a source tree works uninstalled."""


@frozen
class Offer:
    """A record with its owner."""

    record: Any
    plugin: str

    @property
    def name(self) -> str:
        """Full name, ``plugin:name``."""
        return f"{self.plugin}:{self.record.name}"


@define
class Owner:
    """A plugin as found: loaded, or in quarantine with the reason."""

    name: str
    distribution: str
    version: str
    about: Plugin | None = None
    broken: str = ""


@define
class Registry:
    """Everything all plugins offer."""

    owners: dict[str, Owner] = field(factory=dict)
    offers: dict[str, list[Offer]] = field(factory=lambda: {kind: [] for kind in KINDS})
    quarantine: list[Owner] = field(factory=list)
    _pm: pluggy.PluginManager = field(factory=lambda: pluggy.PluginManager(PROJECT))

    def __attrs_post_init__(self) -> None:
        self._pm.add_hookspecs(hookspecs)
        if os.environ.get("CLK_TRACE"):
            self._pm.trace.root.setwriter(lambda text: sys.stderr.write(text) and None)
            self._pm.enable_tracing()

    def add(self, name: str, load: Callable[[], object], distribution: str = "", version: str = "") -> Owner:
        """Load and register one plugin; whatever goes wrong is its own quarantine."""
        owner = Owner(name, distribution, version)
        if name in self.owners:
            other = self.owners[name]
            owner.broken = (
                f"the name {name!r} is taken twice: by {other.distribution or 'clk'} and by "
                f"{distribution}; uninstall one of them"
            )
            self.quarantine.append(owner)
            return owner
        plugin: object = None
        try:
            plugin = load()
            self._register(name, plugin)
            collected = self._collect(plugin, owner)
        except (Exception, SystemExit) as error:
            owner.broken = _reason(error)
            if plugin is not None and self._pm.is_registered(plugin):
                self._pm.unregister(plugin)
            self.quarantine.append(owner)
            return owner
        self.owners[name] = owner
        for kind, found in collected.items():
            self.offers[kind] += found
        return owner

    def _register(self, name: str, plugin: object) -> None:
        known = {n for n in vars(hookspecs) if n.startswith("clk_")}
        for attribute, value in list(vars(plugin).items()):
            if not attribute.startswith("clk_") or not callable(value):
                continue
            options = getattr(value, f"{PROJECT}_impl", None)
            if attribute not in known and not (options and options.get("optionalhook")):
                near = nearest(attribute, known)
                raise BrokenPlugin(
                    f"unknown hook {attribute}" + (f"; did you mean {near[0]}?" if near else ""), where=_place(value)
                )
            if options is None:
                raise BrokenPlugin(
                    f"{attribute} is not marked with @hookimpl",
                    where=_place(value),
                    fix="from cl_kernel import hookimpl",
                )
            if attribute in known:
                allowed = list(inspect.signature(getattr(hookspecs, attribute)).parameters)
                extra = [a for a in inspect.signature(value).parameters if a not in allowed]
                if extra:
                    raise BrokenPlugin(
                        f"hook {attribute} takes {', '.join(allowed) or 'no arguments'}, but here it asks "
                        f"for {', '.join(extra)}",
                        where=_place(value),
                    )
        self._pm.register(plugin, name=name)

    def _collect(self, plugin: object, owner: Owner) -> dict[str, list[Offer]]:
        for impl in self._pm.hook.clk_plugin.get_hookimpls():
            if impl.plugin is plugin:
                about = impl.function()
                if not isinstance(about, Plugin):
                    raise BrokenPlugin(f"clk_plugin returned {type(about).__name__}, not a Plugin")
                if about.spec > SPEC_VERSION:
                    raise BrokenPlugin(
                        f"{owner.name} needs hook contract {about.spec}, this kernel has {SPEC_VERSION}",
                        fix="pip install --upgrade cl-kernel",
                    )
                owner.about = about
        collected: dict[str, list[Offer]] = {}
        for kind, hook in KINDS.items():
            record_type = _record_type(kind)
            collected[kind] = []
            for impl in getattr(self._pm.hook, hook).get_hookimpls():
                if impl.plugin is not plugin:
                    continue
                for record in _as_list(impl.function(), hook):
                    name = getattr(record, "name", "")
                    if not isinstance(record, record_type):
                        raise BrokenPlugin(f"{hook} returned a {type(record).__name__}, not a {record_type.__name__}")
                    if any(name == other.record.name for other in collected[kind]):
                        raise DuplicateName(f"{hook} offers {name!r} twice")
                    collected[kind].append(Offer(record, owner.name))
        return collected

    # ---- look-up --------------------------------------------------------------------------------
    def all(self, kind: str) -> list[Offer]:
        """Offers of a kind, by plugin and name."""
        return sorted(self.offers[kind], key=lambda offer: (offer.plugin != BUILTIN, offer.plugin, offer.record.name))

    def candidates(self, kind: str, text: str, *, prefer: str = "") -> list[tuple[Offer, str]]:
        """The offers that ``text`` may mean, ``[plugin:]name[:argument]``, and what follows the name.

        :param prefer: plugin whose offer is meant when it has one.
        """
        head, _, rest = text.partition(":")
        if head in self.owners and rest:
            name, _, argument = rest.partition(":")
            if found := [o for o in self.offers[kind] if o.plugin == head and _same(o, name)]:
                return [(found[0], argument)]
        found = [offer for offer in self.offers[kind] if _same(offer, head)]
        mine = [offer for offer in found if offer.plugin == prefer]
        return [(offer, rest) for offer in mine or found]

    def find(
        self,
        kind: str,
        text: str,
        *,
        prefer: str = "",
        where: str = "",
        fits: Callable[[Offer], bool] = lambda offer: True,
    ) -> tuple[Offer, str]:
        """The offer that ``text`` names, and what follows its name: ``[plugin:]name[:argument]``.

        A short name that several plugins offer means the one that fits; of several that fit, the kernel's own.

        :param prefer: plugin whose offer wins when a bare name has several owners.
        :param fits: whether an offer fits the rest of what was asked for.
        :raises UnknownName: with the nearest names. :raises DuplicateName: naming those that fit.
        """
        where = where or f"--{kind} {text}"
        candidates = self.candidates(kind, text, prefer=prefer)
        fitting = [found for found in candidates if fits(found[0])] or candidates
        own = [found for found in fitting if found[0].plugin == BUILTIN]
        if len(fitting) > 1 and not own:
            names = " and ".join(f"{o.name} ({self.owners[o.plugin].distribution or 'clk'})" for o, _ in fitting)
            raise DuplicateName(
                f"{kind} {text.partition(':')[0]!r} is offered by {names}",
                where=where,
                fix=f"say which: --{kind} {fitting[0][0].name}",
            )
        if not fitting:
            raise self._unknown(kind, text, where)
        return (own or fitting)[0]

    def _unknown(self, kind: str, text: str, where: str) -> ClkError:
        head, _, rest = text.partition(":")
        for owner in self.quarantine:
            if owner.name == head:
                return BrokenPlugin(f"plugin {head!r} is broken: {owner.broken}", where=where)
        known = [offer.name for offer in self.offers[kind]] + [offer.record.name for offer in self.offers[kind]]
        if head in self.owners and rest:
            known = [offer.name for offer in self.offers[kind] if offer.plugin == head]
        return UnknownName.of(kind, text, known, where=where, fix=f"clk list {kind}s")

    def owner(self, name: str) -> Owner:
        """A working plugin by name.

        :raises BrokenPlugin: with the reason of its quarantine. :raises UnknownName: with the nearest names.
        """
        if name in self.owners:
            return self.owners[name]
        for owner in self.quarantine:
            if owner.name == name:
                raise BrokenPlugin(
                    f"plugin {name!r} is broken: {owner.broken}",
                    where=f"--plugin {name}",
                    fix=f"mend or uninstall {owner.distribution}",
                )
        raise UnknownName.of(
            "plugin", name, [*self.owners], where=f"--plugin {name}", fix=f"pip install cl-plugin-{name}"
        )

    def versions(self) -> dict[str, str]:
        """Plugin -> distribution and version."""
        return {o.name: f"{o.distribution} {o.version}" for o in self.owners.values() if o.distribution}

    # ---- calls ----------------------------------------------------------------------------------
    def locate(self, asset: Asset, roots: Sequence[Path]) -> Path | None:
        """First plugin that knows where ``asset`` is, else the kernel's own search."""
        found: Path | None = self._pm.hook.clk_locate(asset=asset, roots=roots)
        return found if found is not None else find_asset(asset, roots)

    def companions(
        self, runs: Mapping[str, tuple[Path, Mapping[str, Any]]], n: int, listen: Sequence[Callable[[Event], None]]
    ) -> Companions | None:
        """Whoever makes comparison runs while their main run goes on; None when there is nothing to make so."""
        found: Companions | None = self._pm.hook.clk_companions(runs=runs, n=n, listen=listen) if runs and n else None
        return found

    def emit(self, event: Event, folder: Path) -> None:
        """Tell plugins what happened."""
        self._pm.hook.clk_event(event=event, folder=folder)

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Tell plugins, also later ones, the resolved settings."""
        self._pm.hook.clk_configure.call_historic(kwargs={"settings": settings})


def discover(only: Iterable[str] | None = None) -> Registry:
    """The built-in pieces and every installed plugin; ``CLK_PLUGINS=a,b`` restricts to some."""
    registry = Registry()
    registry.add(BUILTIN, OWN.load, "cl-kernel", _version("cl-kernel"))
    allowed = os.environ.get("CLK_PLUGINS")
    wanted = set(only) if only is not None else {n.strip() for n in allowed.split(",")} if allowed is not None else None
    for entry in entry_points():
        if wanted is None or entry.name in wanted:
            dist = entry.dist
            registry.add(entry.name, entry.load, dist.name if dist else "?", dist.version if dist else "?")
    if registry.quarantine and any(owner.name == BUILTIN for owner in registry.quarantine):
        raise ClkError(f"the built-in pieces are broken: {registry.quarantine[0].broken}")
    return registry


def find_asset(asset: Asset, roots: Sequence[Path]) -> Path | None:
    """The kernel's own search: a root, or a folder of the asset's name in it, that holds all its files."""
    for root in roots:
        for place in (root, root / asset.name):
            if place.is_dir() and all((place / name).exists() for name in asset.files):
                return place
    return None


def entry_points() -> Iterator[metadata.EntryPoint]:
    """Entry points of the group, in a stable order, nothing imported."""
    yield from sorted(metadata.entry_points(group=PROJECT), key=lambda entry: (entry.name, entry.value))


def resolve(target: str) -> Any:
    """The object a ``build`` string names, imported now."""
    import pkgutil

    return pkgutil.resolve_name(target)


def describe(record: Any) -> dict[str, Any]:
    """A record as plain values, for ``--json``."""
    content = asdict(record, recurse=True)
    plain = {key.lstrip("_"): value for key, value in content.items()}
    return {key: value.__name__ if isinstance(value, type) else value for key, value in plain.items()}


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "?"


def _record_type(kind: str) -> type:
    from cl_kernel.contract import offers as records

    return {"test": records.Experiment}.get(kind) or getattr(records, kind.capitalize())


def _same(offer: Offer, name: str) -> bool:
    lowered = name.lower()
    return offer.record.name.lower() == lowered or lowered in (a.lower() for a in getattr(offer.record, "aliases", ()))


def _as_list(found: object, hook: str) -> list[Any]:
    if not isinstance(found, (list, tuple)):
        raise BrokenPlugin(f"{hook} returned a {type(found).__name__}, not a list of records")
    return list(found)


def _place(function: Any) -> str:
    code = getattr(function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(function)


def _reason(error: BaseException) -> str:
    if isinstance(error, ClkError):
        return str(error)
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})" if trace is not None else ""
    return f"{type(error).__name__}: {error}{place}"
