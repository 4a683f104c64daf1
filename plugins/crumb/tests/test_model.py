"""Networks, codebook and codec: sizes of the paper, bytes of the paper, no tensor larger than it must be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cl_kernel import BadInput, BadSetting, Field, Mismatch, Resources
from cl_plugin_crumb import settings
from cl_plugin_crumb.method import codec
from cl_plugin_crumb.network import codebook, maps, networks


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def blocks_codec(shape: tuple[int, int, int], **options: object) -> codec.BlocksCodec:
    fields = {
        "features": Field(shape=shape, dtype="float32", kind="map"),
        "class": Field(shape=(), dtype="int64", kind="class", n=10),
    }
    return codec.build(settings.Blocks(**{"sigma": 14.0, "sparsity": 0.64, **options}), fields, Resources(device="cpu"))


@pytest.mark.parametrize(
    ("shape", "length", "expected"),
    [
        ((512, 13, 13), 16, 5408),
        ((512, 13, 13), 8, 10816),
        ((512, 13, 13), 32, 2704),
        ((512, 13, 13), 4, 21632),
        ((96, 54, 54), 8, 34992),
        ((64, 14, 14), 8, 1568),
    ],
)
def test_an_example_takes_the_bytes_of_the_paper(shape: tuple[int, int, int], length: int, expected: int) -> None:
    made = blocks_codec(shape, length=length)
    assert made.code_bytes == expected
    assert made.bytes_per_example() == expected + 1  # and one byte of label
    slots = made.allocate(3)
    assert sum(array.nbytes for array in slots.values()) == 3 * (expected + 1)
    assert made.nbytes == 256 * length * 4


def test_more_than_256_blocks_take_two_bytes_and_come_back_unharmed() -> None:
    made = blocks_codec((8, 2, 2), n_blocks=65536, length=4, init="random_standard_normal")
    assert made.code_bytes == 2 * 8
    stored = made.allocate(2)
    codes = torch.tensor([[0, 255, 256, 32767, 32768, 40000, 65534, 65535]])
    stored["codes"][:1] = codes.to(stored["codes"].dtype)
    decoded = made.decode({name: array[:1] for name, array in stored.items()})["features"]
    expected = codebook.rebuild(codes.view(1, 2, 2, 2), made.codebook.blocks)
    torch.testing.assert_close(decoded, expected)


def test_the_codec_refuses_a_length_that_does_not_divide_the_channels() -> None:
    with pytest.raises(BadSetting, match="do not divide the 512 channels"):
        blocks_codec((512, 13, 13), length=15)


def test_a_start_copies_what_is_measured_at_the_cut() -> None:
    made = blocks_codec((24, 4, 4), n_blocks=500, sigma=None, sparsity=None)
    assert made.length == 12
    assert made.codebook.waits
    maps = torch.randn(20, 24, 4, 4, generator=torch.Generator().manual_seed(0)).mul(3).relu()
    made.encode({"features": maps, "class": np.zeros(20, np.int64)})
    found = made.codebook.blocks.detach()
    assert not made.codebook.waits
    assert float((found == 0).float().mean()) == pytest.approx(float((maps == 0).float().mean()), abs=1e-3)
    assert float(found.max()) == pytest.approx(5 / 3 * float(maps[maps > 0].std()) * 3.5, rel=0.25)
    assert (found >= 0).all()


def test_maps_with_negative_values_get_blocks_with_negative_values() -> None:
    made = blocks_codec((24, 4, 4), sigma=None, sparsity=None)
    maps = torch.randn(8, 24, 4, 4, generator=torch.Generator().manual_seed(0))
    stored = made.encode({"features": maps, "class": np.zeros(8, np.int64)})
    assert 0.3 < float((made.codebook.blocks < 0).float().mean()) < 0.7
    rebuilt = made.decode(stored)["features"]
    assert float((rebuilt * maps).mean()) > 0.3


def test_known_statistics_end_the_waiting_for_a_batch() -> None:
    waits, given = blocks_codec((32, 2, 2), sigma=None, sparsity=None), blocks_codec((32, 2, 2))
    waits.match(14.0, 0.64)
    torch.testing.assert_close(waits.codebook.blocks, given.codebook.blocks)


def test_maps_that_are_all_alike_are_refused() -> None:
    made = blocks_codec((24, 4, 4), sigma=None, sparsity=None)
    with pytest.raises(BadInput, match="all alike"):
        made.encode({"features": torch.zeros(2, 24, 4, 4), "class": np.zeros(2, np.int64)})


def test_the_codec_refuses_images() -> None:
    fields = {
        "image": Field(shape=(32, 32, 3), dtype="uint8", kind="image"),
        "class": Field(shape=(), dtype="int64", kind="class", n=10),
    }
    with pytest.raises(Mismatch, match="memory blocks keep one map"):
        codec.build(settings.Blocks(), fields, Resources(device="cpu"))


def test_a_codec_comes_back_from_its_state() -> None:
    first, second = blocks_codec((16, 4, 4)), blocks_codec((16, 4, 4), seed=1)
    assert not torch.equal(first.codebook.blocks, second.codebook.blocks)
    second.load(first.state())
    assert torch.equal(first.codebook.blocks, second.codebook.blocks)


def test_assignment_never_holds_all_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answer in chunks as at once, and no chunk larger than asked for."""
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(3, 64, 7, 7, generator=generator)
    blocks = torch.randn(32, 8, generator=generator)
    whole = codebook.similarity(features, blocks).argmax(-1)
    seen = []
    real = torch.mm

    def watched(a: torch.Tensor, b: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
        seen.append(a.shape[0] * b.shape[1])
        return real(a, b, **kwargs)

    monkeypatch.setattr(codebook, "SCORES_AT_ONCE", 1000)
    monkeypatch.setattr(torch, "mm", watched)
    assert torch.equal(codebook.assign(features, blocks), whole)
    assert max(seen) <= 1000 < whole.numel() * 32


@pytest.mark.parametrize(("cut", "shape", "frozen"), [(12, (512, 13, 13), 538_240), (3, (96, 54, 54), 14_208)])
def test_squeezenet_has_the_sizes_of_the_paper(cut: int, shape: tuple[int, ...], frozen: int) -> None:
    net = networks.squeezenet(10, cut=cut)
    assert net.features(torch.zeros(1, 3, 32, 32)).shape[1:] == shape
    assert sum(p.numel() for p in net.lower.parameters()) == frozen
    if cut == 12:
        assert sum(p.numel() for p in net.upper.parameters()) == 197_184 + 46_090
    assert net.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_mobilenet_is_cut_at_64_channels_and_its_frozen_batch_norm_stays() -> None:
    net = networks.mobilenet(5).train()
    before = {name: tensor.clone() for name, tensor in net.lower.state_dict().items()}
    assert net.features(torch.rand(2, 3, 64, 64)).shape == (2, 64, 14, 14)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.lower.state_dict().items())
    live = networks.mobilenet(5, live_batchnorm=True).train()
    mean = live.lower[2][1].running_mean.clone()
    live.features(torch.rand(2, 3, 64, 64))
    assert not torch.equal(mean, live.lower[2][1].running_mean)


def test_a_frozen_part_gives_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    net = networks.squeezenet(3, size=32)
    images = torch.rand(5, 3, 40, 40)
    whole = net.features(images)
    seen: list[int] = []
    net.lower[0].register_forward_hook(lambda layer, given, out: seen.append(len(out)))
    monkeypatch.setattr(networks.InParts, "PIXELS", 2 * 32**2)
    torch.testing.assert_close(net.features(images), whole)
    assert seen == [2, 2, 1]
    net.lower(images)  # learns: as a whole
    assert seen == [2, 2, 1, 5]


def test_live_batch_norm_sees_whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks.InParts, "PIXELS", 32**2)
    net = networks.mobilenet(3, size=32, live_batchnorm=True)
    seen: list[int] = []
    net.lower[0].register_forward_hook(lambda layer, given, out: seen.append(len(out)))
    net.features(torch.rand(4, 3, 32, 32))
    assert seen == [4]


@pytest.mark.parametrize("n_blocks", [1, 2, 64, 300])
def test_the_lowest_of_equal_blocks_wins(n_blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codebook, "SCORES_AT_ONCE", 7 * n_blocks)
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(-1, 2, (n_blocks, 4), generator=generator).float()
    features = torch.randint(-1, 2, (2, 8, 3, 3), generator=generator).float()
    expected = codebook.similarity(features, blocks).numpy().argmax(-1)
    np.testing.assert_array_equal(codebook.assign(features, blocks).numpy(), expected)


@pytest.mark.parametrize("cut", [0, 14])
def test_an_impossible_cut_is_refused(cut: int) -> None:
    with pytest.raises(BadSetting, match="cannot be cut"):
        networks.squeezenet(10, cut=cut)


def test_every_start_has_the_size_asked_for() -> None:
    for strategy in codebook.STRATEGIES:
        n = {"random_everyperm_remove_half_rows": 8}.get(strategy, 16)
        values = codebook.start_values(
            strategy,
            n,
            4,
            sigma=2.0,
            sparsity=0.5,
            generator=torch.Generator().manual_seed(0),
            rng=np.random.RandomState(0),
        )
        assert values.shape == (n, 4)
        assert torch.isfinite(values).all()


@pytest.mark.parametrize(
    ("strategy", "n", "length", "message"),
    [
        ("random_everyperm", 10, 4, "exactly 16 rows"),
        ("random_everyperm_remove_half_rows", 1 << 8, 9, "numbers its rows in 8 bits"),
        ("no_such", 8, 4, "unknown codebook start"),
        ("random_uniform", 0, 4, "a codebook of 0 blocks"),
    ],
)
def test_a_start_that_cannot_be_is_refused(strategy: str, n: int, length: int, message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        codebook.start_values(strategy, n, length, sigma=1.0, sparsity=0.5)


@pytest.mark.parametrize("kind", maps.PERTURBATIONS)
def test_a_disturbance_keeps_shape_and_original(kind: str) -> None:
    features = torch.rand(2, 6, 4, 5)
    kept = features.clone()
    out = maps.perturb(features, kind, torch.Generator().manual_seed(0))
    assert out.shape == features.shape
    assert torch.equal(features, kept)
    assert not torch.equal(out, features)
    if kind in ("spatial", "spatial_shuffle_rows_cols", "feature_complete"):
        torch.testing.assert_close(out.flatten(1).sort().values, features.flatten(1).sort().values)
