"""Discovery: quarantine, names, trace. One broken plugin never takes down the others."""

from __future__ import annotations

import types
from pathlib import Path

import pytest

from cl_kernel import hookimpl
from cl_kernel.contract.errors import BrokenPlugin, DuplicateName, UnknownName
from cl_kernel.contract.offers import Asset, Metric, Plugin, Replay
from cl_kernel.registry import Registry


def plugin(**hooks):
    module = types.ModuleType("made")
    for name, function in hooks.items():
        setattr(module, name, hookimpl(function))
    return module


def ring(name="ring", **more):
    return Replay(name=name, kind="policy", summary="s", build="a.b:c", **more)


def good(name="ring"):
    return plugin(clk_replays=lambda: [ring(name)])


def registry_with(**plugins):
    registry = Registry()
    for name, module in plugins.items():
        registry.add(name, lambda module=module: module, f"dist-{name}", "1.0")
    return registry


def nothing():
    return []


def unmarked():
    return []


def raising():
    raise RuntimeError("no such file")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (plugin(clk_replayz=nothing), "unknown hook clk_replayz; did you mean clk_replays"),
        (plugin(clk_replays=lambda settings: []), "takes no arguments, but here it asks for settings"),
        (plugin(clk_event=lambda event, run: None), "asks for run"),
        (plugin(clk_replays=lambda: ring()), "not a list of records"),
        (plugin(clk_replays=lambda: [{"name": "x"}]), "returned a dict, not a Replay"),
        (plugin(clk_replays=lambda: [ring(), ring()]), "offers 'ring' twice"),
        (plugin(clk_replays=lambda: [ring("a b")]), "is no name"),
        (plugin(clk_replays=raising), r"RuntimeError: no such file \(.*test_manager.py:\d+\)"),
        (plugin(clk_plugin=lambda: Plugin(name="x", summary="s", spec=99)), "needs hook contract 99"),
        (plugin(clk_plugin=lambda: "x"), "returned str, not a Plugin"),
        (types.SimpleNamespace(clk_replays=unmarked), "not marked with @hookimpl"),
    ],
)
def test_a_broken_plugin_is_quarantined_and_does_not_hide_the_others(broken, reason):
    registry = registry_with(first=good(), bad=broken, last=good("other"))
    assert sorted(registry.owners) == ["first", "last"]
    assert [o.name for o in registry.all("replay")] == ["first:ring", "last:other"]
    with pytest.raises(BrokenPlugin, match=reason):
        registry.owner("bad")


def test_a_plugin_that_exits_on_import_is_quarantined():
    registry = Registry()
    registry.add("bad", lambda: exit(3), "dist", "1")
    registry.add("good", good, "dist", "1")
    assert list(registry.owners) == ["good"]
    assert "SystemExit" in registry.quarantine[0].broken


def test_an_optional_hook_of_a_newer_kernel_is_no_error():
    module = types.ModuleType("made")
    module.clk_from_the_future = hookimpl(optionalhook=True)(lambda: None)
    assert list(registry_with(mine=module).owners) == ["mine"]


def test_two_plugins_of_one_name_are_refused_naming_both():
    registry = Registry()
    registry.add("mine", good, "dist-a", "1")
    registry.add("mine", good, "dist-b", "1")
    assert "dist-a" in registry.quarantine[0].broken
    assert "dist-b" in registry.quarantine[0].broken


def test_a_bare_name_with_two_owners_is_refused_and_a_full_one_picks():
    registry = registry_with(a=good(), b=good())
    with pytest.raises(DuplicateName, match=r"a:ring \(dist-a\) and b:ring \(dist-b\)"):
        registry.find("replay", "ring")
    assert registry.find("replay", "b:ring")[0].plugin == "b"
    assert registry.find("replay", "ring", prefer="a")[0].plugin == "a"


@pytest.mark.parametrize(
    ("text", "name", "argument"),
    [
        ("ring", "a:ring", ""),
        ("RING", "a:ring", ""),
        ("a:ring", "a:ring", ""),
        ("ring:some/path", "a:ring", "some/path"),
        ("a:ring:../x:y", "a:ring", "../x:y"),
    ],
)
def test_names_are_read_as_plugin_name_argument(text, name, argument):
    offer, rest = registry_with(a=good(), b=good("other")).find("replay", text)
    assert (offer.name, rest) == (name, argument)


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UnknownName, match="did you mean"):
        registry_with(a=good()).find("replay", "rnig")
    with pytest.raises(UnknownName, match="did you mean recall"):
        registry_with(recall=good()).owner("recal")


def test_a_name_of_a_broken_plugin_tells_why():
    with pytest.raises(BrokenPlugin, match="no such file"):
        registry_with(bad=plugin(clk_replays=raising)).find("replay", "bad:ring")


def test_the_first_plugin_that_locates_an_asset_wins_and_the_kernel_comes_last(tmp_path):
    asset = Asset(name="voc", summary="s", files=("x",))
    (tmp_path / "voc").mkdir()
    (tmp_path / "voc" / "x").touch()
    assert registry_with().locate(asset, [tmp_path]) == tmp_path / "voc"
    found = registry_with(a=plugin(clk_locate=lambda asset, roots: Path("there")))
    assert found.locate(asset, [tmp_path]) == Path("there")
    assert registry_with().locate(asset, []) is None


def test_configure_also_reaches_a_plugin_registered_later():
    heard = []
    registry = Registry()
    registry.configure({"run.seed": 3})
    registry.add("late", lambda: plugin(clk_configure=lambda settings: heard.append(settings)))
    assert heard == [{"run.seed": 3}]


def test_events_reach_plugins():
    from cl_kernel.contract.events import Noted

    heard = []
    registry = registry_with(a=plugin(clk_event=lambda event, folder: heard.append((event, folder))))
    registry.emit(Noted(text="x"), Path("run"))
    assert heard == [(Noted(text="x"), Path("run"))]


def test_records_check_themselves():
    with pytest.raises(ValueError, match=r"package\.module:function"):
        Metric(name="x", summary="s", build="nowhere")
    with pytest.raises(ValueError, match="none of policy, codec, source"):
        Replay(name="x", summary="s", kind="buffer", build="a:b")
