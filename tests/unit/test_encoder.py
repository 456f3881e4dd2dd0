"""The shared encoder and the pooling on top of it."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from umedpt_lightning.blocks import Encoder, Pooling, Pyramid
from umedpt_lightning.blocks.batch_norm import BatchNormMode, normalises_by_batch, to_group_norm

NORMED = "test_resnet"  # BatchNorm
FUSED = "test_efficientnet"  # BatchNorm with the activation inside
LAYER_NORMED = "test_convnext"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def swin() -> Encoder:
    torch.manual_seed(0)
    return Encoder("swin_tiny_patch4_window7_224").eval()


# --- the pyramid ----------------------------------------------------------------------------------------------------


def check_pyramid(encoder: Encoder, size: tuple[int, int]) -> None:
    with torch.no_grad():
        pyramid = encoder(torch.rand(2, encoder.in_channels, *size))
    coarsest = encoder.strides[-1]
    assert pyramid.size == size
    assert all(s <= p < s + coarsest and p % coarsest == 0 for s, p in zip(size, pyramid.padded_size, strict=True))
    assert [tuple(m.shape) for m in pyramid.maps] == [
        (2, channels, pyramid.padded_size[0] // stride, pyramid.padded_size[1] // stride)
        for channels, stride in zip(encoder.channels, encoder.strides, strict=True)
    ]
    assert all(m.isfinite().all() for m in pyramid.maps)


@pytest.mark.parametrize("size", [(1, 1), (33, 70), (64, 64)])
@pytest.mark.parametrize("name", [NORMED, LAYER_NORMED, FUSED])
def test_the_pyramid_has_the_promised_channels_and_strides_at_any_size(name: str, size: tuple[int, int]) -> None:
    check_pyramid(Encoder(name).eval(), size)


@pytest.mark.parametrize("size", [(1, 1), (33, 70)])
def test_swin_takes_any_size_too(swin: Encoder, size: tuple[int, int]) -> None:
    check_pyramid(swin, size)


@pytest.mark.parametrize("size", [(384, 32), (32, 384)])
def test_swins_maps_have_their_channels_first_also_where_a_side_is_as_long_as_there_are_channels(
    swin: Encoder, size: tuple[int, int]
) -> None:
    assert size[0] // 4 == swin.channels[0] or size[1] // 4 == swin.channels[0]
    check_pyramid(swin, size)


def test_the_mamba_like_models_give_channels_first_too() -> None:
    check_pyramid(Encoder("test_mambaout").eval(), (33, 70))


@pytest.mark.parametrize("in_channels", [1, 3, 5])
def test_it_takes_the_channels_it_was_asked_to_take(in_channels: int) -> None:
    encoder = Encoder(LAYER_NORMED, in_channels=in_channels)
    assert encoder.mean.shape == encoder.std.shape == (1, in_channels, 1, 1)
    check_pyramid(encoder, (32, 32))


def test_padding_is_below_and_to_the_right_with_the_mean() -> None:
    encoder = Encoder(LAYER_NORMED).eval()
    images = torch.rand(1, 3, 20, 40)
    padded = torch.zeros(1, 3, 32, 64)
    padded[:, :, :20, :40] = images
    for found, expected in zip(encoder(images).maps, encoder(padded).maps, strict=True):
        assert torch.equal(found, expected)


def test_stochastic_depth_is_used_where_it_is_asked_for() -> None:
    images = torch.rand(4, 3, 32, 32)
    for rate, same in ((0.0, True), (0.5, False)):
        encoder = Encoder(LAYER_NORMED, drop_path_rate=rate).train()
        assert torch.equal(encoder(images).maps[-1], encoder(images).maps[-1]) == same


# --- pooling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (32, 33), (64, 96), (70, 20)])
def test_pooling_looks_at_no_place_that_holds_padding_only(size: tuple[int, int]) -> None:
    pooling = Pooling(6)
    rows, columns = -(-size[0] // 32), -(-size[1] // 32)
    coarse = torch.randn(2, 6, 4, 4)
    pyramid = Pyramid([coarse], [32], size, (128, 128))
    before = pooling(pyramid)
    coarse[:, :, rows:] = 1e6
    coarse[:, :, :, columns:] = 1e6
    assert torch.equal(pooling(pyramid), before)
    mean = coarse[:, :, :rows, :columns].mean((2, 3))
    torch.testing.assert_close(before, nn.functional.layer_norm(mean, (6,)))


# --- BatchNorm ------------------------------------------------------------------------------------------------------


def norms(module: nn.Module) -> list[_BatchNorm]:
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]


def statistics(module: nn.Module) -> list[Tensor]:
    return [s.clone() for norm in norms(module) for s in (norm.running_mean, norm.running_var)]


def unlike_fresh(encoder: Encoder) -> Encoder:
    """The encoder with statistics, scales and shifts that no layer starts with."""
    with torch.no_grad():
        for norm in norms(encoder):
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    return encoder


@pytest.mark.parametrize(("mode", "moves"), [("keep", True), ("freeze", False)])
def test_statistics_move_in_training_unless_frozen_and_the_affine_part_learns_either_way(
    mode: BatchNormMode, moves: bool
) -> None:
    encoder = unlike_fresh(Encoder(NORMED, batch_norm=mode)).train()
    before = statistics(encoder)
    encoder(torch.rand(4, 3, 64, 64)).maps[-1].square().sum().backward()
    changed = [not torch.equal(a, b) for a, b in zip(before, statistics(encoder), strict=True)]
    assert len(changed) > 4
    assert all(changed) if moves else not any(changed)
    assert all(n.weight.grad is not None and n.bias.grad is not None for n in norms(encoder))


def test_frozen_statistics_give_the_same_maps_in_training_as_in_evaluation() -> None:
    encoder, images = unlike_fresh(Encoder(NORMED, batch_norm="freeze")), torch.rand(2, 3, 64, 64)
    for mode in (True, False, True):
        encoder.train(mode)
        assert encoder.net.training == mode
    torch.testing.assert_close(encoder.train()(images).maps[-1], encoder.eval()(images).maps[-1])


@pytest.mark.parametrize("name", [NORMED, FUSED])
def test_group_leaves_no_batch_norm_and_one_image_does_not_see_the_others(name: str) -> None:
    encoder = Encoder(name, batch_norm="group").train()
    assert not normalises_by_batch(encoder)
    assert normalises_by_batch(Encoder(name))
    if name == FUSED:  # it has dropout elsewhere
        encoder.eval()
    images = torch.rand(3, 3, 64, 64)
    torch.testing.assert_close(encoder(images).maps[-1][:1], encoder(images[:1]).maps[-1], atol=1e-5, rtol=1e-4)


def test_group_copies_scale_and_shift_and_keeps_the_activation_inside() -> None:
    layers = norms(unlike_fresh(Encoder(FUSED)))
    with_activation = 0
    for layer in layers:
        x = torch.randn(2, layer.num_features, 5, 5)
        plain = nn.GroupNorm(32 if layer.num_features % 32 == 0 else to_groups(layer.num_features), layer.num_features)
        plain.load_state_dict({"weight": layer.weight, "bias": layer.bias})
        expected = layer.act(plain(x)) if hasattr(layer, "act") else plain(x)
        with_activation += not isinstance(getattr(layer, "act", nn.Identity()), nn.Identity)
        torch.testing.assert_close(to_group_norm(layer).eval()(x), expected)
    assert with_activation > 0


def to_groups(channels: int) -> int:
    return max(g for g in range(1, 33) if channels % g == 0 and 32 % g == 0)


def per_task(*tasks: str) -> Encoder:
    encoder = unlike_fresh(Encoder(NORMED, batch_norm="per_task"))
    encoder.bind(tasks)
    return encoder


def of_task(encoder: Encoder, task: str) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in encoder.state_dict().items() if f".by_task.{task}." in k and "running" in k}


def test_statistics_per_task_move_with_their_task_only_and_the_weights_are_shared() -> None:
    encoder = per_task("a", "b").train()
    before = {task: of_task(encoder, task) for task in "ab"}
    assert before["a"]
    encoder(torch.rand(4, 3, 64, 64), "a").maps[-1].sum().backward()
    after = {task: of_task(encoder, task) for task in "ab"}
    assert all(not torch.equal(before["a"][k], after["a"][k]) for k in before["a"])
    assert all(torch.equal(before["b"][k], after["b"][k]) for k in before["b"])
    plain = Encoder(NORMED)
    assert sum(p.numel() for p in encoder.parameters()) == sum(p.numel() for p in plain.parameters())


def test_each_task_is_normalised_by_its_own_statistics() -> None:
    encoder = per_task("a", "b")
    images = torch.rand(4, 3, 64, 64)
    encoder.train()(images * 3 - 1, "a")
    encoder.eval()
    assert not torch.allclose(encoder(images, "a").maps[-1], encoder(images, "b").maps[-1])


def test_statistics_per_task_start_as_loaded_and_survive_a_round_trip_of_the_state() -> None:
    encoder = unlike_fresh(Encoder(NORMED, batch_norm="per_task")).eval()
    images = torch.rand(2, 3, 64, 64)
    loaded = encoder(images).maps[-1]
    encoder.bind(["a", "b"])
    torch.testing.assert_close(encoder(images, "b").maps[-1], loaded)
    encoder.train()(images, "a")
    twin = Encoder(NORMED, batch_norm="per_task")
    twin.bind(["a", "b"])
    twin.load_state_dict(encoder.state_dict())
    for task in "ab":
        assert torch.equal(twin.eval()(images, task).maps[-1], encoder.eval()(images, task).maps[-1])


@pytest.mark.parametrize("task", [None, "c"])
def test_a_task_without_statistics_is_refused_by_name(task: str | None) -> None:
    with pytest.raises(ValueError, match=rf"none for {task!r}.*a, b"):
        per_task("a", "b")(torch.rand(1, 3, 32, 32), task)


# --- weights from a file --------------------------------------------------------------------------------------------


def save(state: dict[str, Tensor], file: Path) -> Path:
    if file.suffix == ".safetensors":
        safetensors.torch.save_file(state, file)
    else:
        torch.save(state, file)
    return file


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("name", [NORMED, LAYER_NORMED])
def test_a_state_of_timms_model_gives_the_maps_of_timms_model(tmp_path: Path, name: str, suffix: str) -> None:
    full = timm.create_model(name).eval()
    encoder = Encoder(name, weights=save(full.state_dict(), tmp_path / f"w{suffix}")).eval()
    images = torch.rand(2, 3, 64, 64)
    expected = full.forward_intermediates(images, intermediates_only=True)
    for found, wanted in zip(encoder(images).maps, expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_no_second_copy_of_the_weights_stays_in_the_encoder(tmp_path: Path) -> None:
    file = save(timm.create_model(NORMED).state_dict(), tmp_path / "w.pth")
    loaded, fresh = Encoder(NORMED, weights=file), Encoder(NORMED)
    assert len(pickle.dumps(loaded)) < 1.1 * len(pickle.dumps(fresh))


def test_loading_weights_draws_no_random_numbers(tmp_path: Path) -> None:
    file = save(timm.create_model(NORMED).state_dict(), tmp_path / "w.pth")
    before = torch.random.get_rng_state()
    Encoder(NORMED, weights=file)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_weights_of_three_channels_sum_to_those_of_one(tmp_path: Path) -> None:
    full = timm.create_model(LAYER_NORMED).eval()
    file = save(full.state_dict(), tmp_path / "w.pth")
    gray = torch.rand(1, 1, 32, 32)
    one, three = Encoder(LAYER_NORMED, 1, file).eval(), Encoder(LAYER_NORMED, 3, file).eval()
    torch.testing.assert_close(one(gray).maps[-1], three(gray.expand(-1, 3, -1, -1)).maps[-1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(("of", "into"), [(NORMED, LAYER_NORMED), ("resnet10t", NORMED), (LAYER_NORMED, FUSED)])
def test_the_file_of_another_model_is_refused(tmp_path: Path, of: str, into: str, suffix: str) -> None:
    file = save(timm.create_model(of).state_dict(), tmp_path / f"other{suffix}")
    with pytest.raises(ValueError, match=rf"encoder.weights: .*other{suffix} .*{into}"):
        Encoder(into, weights=file)


@pytest.mark.parametrize("part", ["running_mean", "bias", "layer3.0.conv1"])
def test_a_file_that_lacks_any_tensor_is_refused_by_the_tensors_name(tmp_path: Path, part: str) -> None:
    state = timm.create_model(NORMED).state_dict()
    lacking = {k: v for k, v in state.items() if part not in k}
    assert len(lacking) < len(state)
    with pytest.raises(ValueError, match=rf"lacks \d+ tensors.*{part}"):
        Encoder(NORMED, weights=save(lacking, tmp_path / "w.pth"))


def test_a_missing_file_is_named_with_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*absent\.pth.*safetensors"):
        Encoder(NORMED, weights=tmp_path / "absent.pth")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_corrupt_file_is_named(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"broken{suffix}"
    file.write_bytes(b"no weights, but long enough to be taken for some" * 20)
    with pytest.raises(ValueError, match=rf"encoder.weights: .*broken{suffix} cannot be loaded"):
        Encoder(NORMED, weights=file)


class _Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path, how: str) -> None:
    file, harm = tmp_path / "evil.pth", tmp_path / "harm"
    state = {"state_dict": _Attack(harm)}
    if how == "torch":
        torch.save(state, file)
    else:
        file.write_bytes(pickle.dumps(state, protocol=2))
    with pytest.raises(ValueError, match=r"evil\.pth cannot be loaded"):
        Encoder(NORMED, weights=file)
    assert not harm.exists()


# --- names and downloads --------------------------------------------------------------------------------------------


def test_an_unknown_model_is_answered_with_similar_names() -> None:
    with pytest.raises(ValueError, match=r"no model 'resnet5000'.*resnet\d+"):
        Encoder("resnet5000")
    with pytest.raises(ValueError, match=r"no model 'zzz'.*swin_tiny"):
        Encoder("zzz")


def test_weights_that_cannot_be_downloaded_are_answered_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ConnectionError, match=rf"{NORMED} could not be downloaded.*unreachable.*encoder\.weights"):
        Encoder(NORMED, weights="timm")


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_cr_small_ns_224", "swinv2_tiny_window8_256"])
def test_opposite_edges_do_not_see_each_other(name: str) -> None:
    torch.manual_seed(0)
    encoder = Encoder(name).eval()
    for parameter in encoder.parameters():  # those of V2 are so small at first that blocks do nothing
        torch.nn.init.normal_(parameter, std=0.1)
    images = torch.rand(1, 3, 160, 1056)  # 66 wide at a sixteenth: no multiple of windows of 7 or 8
    other = images.clone()
    other[..., -32:] += 1
    with torch.inference_mode():
        features, changed = (encoder(each).maps[2] for each in (images, other))
    assert (features - changed)[..., -2:].abs().max() > 1e-3
    # V2-CR differs by rounding, 2e-7, wherever one looks
    assert (features - changed)[..., :2].abs().max() < 1e-5


def test_images_that_are_whole_windows_are_seen_as_by_timm() -> None:
    encoder = Encoder("swin_tiny_patch4_window7_224").eval()
    net = timm.create_model("swin_tiny_patch4_window7_224", features_only=True).eval()
    net.load_state_dict(encoder.net.state_dict())
    images = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        for ours, theirs in zip(encoder(images).maps, net(images), strict=True):
            assert torch.equal(ours, theirs.permute(0, 3, 1, 2))


def test_images_are_not_divided_by_nothing() -> None:
    with pytest.raises(ValueError, match=r"encoder\.std must be positive.*0\.0"):
        Encoder("test_efficientnet_gn", std=(0.2, 0.0, 0.2))
