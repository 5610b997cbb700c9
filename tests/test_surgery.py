"""Foreign weights: what is read, renamed, adapted, reported and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from crossfade.clip import UserError
from crossfade.models.audio import light_cnn
from crossfade.models.surgery import adapt_input, load_weights, read_weights


def net(seed: int = 0, channels: int = 1, classes: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, classes))


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


WRAPPED = {
    "bare.pt": lambda state: state,
    "model.pth": lambda state: {"model": state, "epoch": 3},
    "state_dict.pth": lambda state: {"state_dict": state, "val_f1": 0.5},
    "parallel.pt": lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
    "under.pt": lambda state: {f"backbone.net.{name}": value for name, value in state.items()} | {"other.weight": torch.zeros(2)},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_every_common_wrapping_is_undone(tmp_path: Path, name: str):
    torch.save(WRAPPED[name](net(1).state_dict()), tmp_path / name)
    mine = net(2)
    report = load_weights(mine, tmp_path / name)
    assert same(mine, net(1)) and len(report.loaded) == len(net().state_dict())
    assert report.missing == report.mismatched == report.adapted == ()


def test_safetensors_and_bundle_folders(tmp_path: Path):
    entries = {f"encoders.audio.{name}": value for name, value in net(1).state_dict().items()}
    entries |= {f"encoders.video.{name}": value for name, value in net(3).state_dict().items()}
    (tmp_path / "run").mkdir()
    save_file(entries, tmp_path / "run" / "model.safetensors")
    audio, video = net(2), net(2)
    load_weights(audio, tmp_path / "run", prefix="encoders.audio.")
    load_weights(video, tmp_path / "run", prefix="encoders.video.")
    assert same(audio, net(1)) and same(video, net(3))
    with pytest.raises(UserError, match=r"encoders\.audio\. and encoders\.video\. fit equally"):
        load_weights(net(2), tmp_path / "run")


def test_a_whole_model_loads_with_an_empty_prefix(tmp_path: Path):
    whole = nn.ModuleDict({"a": net(1), "b": net(3)})
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    mine = nn.ModuleDict({"a": net(2), "b": net(2)})
    load_weights(mine, tmp_path / "w.safetensors")
    assert same(mine, whole)


def test_an_encoder_starts_from_its_part_of_a_bundle(tmp_path: Path):
    trained = light_cnn(width=12)
    entries = {f"encoders.sound.{name}": value for name, value in trained.state_dict().items()}
    save_file(entries | {"heads.emotion.joint.1.weight": torch.zeros(8, 12)}, tmp_path / "model.safetensors")
    mine = light_cnn(width=12, weights=str(tmp_path))
    assert same(mine, trained)
    assert mine.report is not None and mine.report.source == str(tmp_path) and mine.report.unexpected == ()


def test_foreign_names_and_their_classifier(tmp_path: Path):
    state = {"features.conv.weight" if name == "0.weight" else name: value for name, value in net(1).state_dict().items()}
    torch.save(state | {"fc.weight": torch.zeros(2, 2)}, tmp_path / "w.pth")
    mine = net(2)
    report = load_weights(mine, tmp_path / "w.pth", rename={"features.": "9.", "features.conv.": "0."})
    assert same(mine, net(1)) and report.unexpected == ("fc.weight",)
    assert "8 loaded" not in report.line() and "1 unexpected (fc.weight)" in report.line() and "\n" not in report.line()
    assert json.loads(report.to_json())["unexpected"] == ["fc.weight"]


def test_missing_weights_are_an_error_that_counts_names_and_says_the_key():
    state = {name: value for name, value in net(1).state_dict().items() if not name.startswith("1.")}
    with pytest.raises(UserError, match=r"4 of 9 weights are missing \(1\.weight, 1\.bias, .*`allow_missing`") as error:
        load_weights(net(2), state)
    assert "\n" not in str(error.value)
    mine = net(2)
    before = mine[1].state_dict()
    report = load_weights(mine, state, allow=["1.*"])
    assert len(report.missing) == 5 and torch.equal(mine[1].weight, before["weight"]) and torch.equal(mine[0].weight, net(1)[0].weight)


def test_another_shape_is_an_error_that_names_both():
    with pytest.raises(UserError, match=r"2 of another shape \(3\.weight 5×4 for 3×4, 3\.bias 5 for 3\)"):
        load_weights(net(2), net(1, classes=5).state_dict())


def test_nothing_is_changed_by_a_load_that_is_refused():
    mine = net(2)
    with pytest.raises(UserError):
        load_weights(mine, net(1, classes=5).state_dict())
    assert same(mine, net(2))


def test_heads_may_always_be_missing_or_of_other_classes():
    theirs, mine = (nn.ModuleDict({"encoders": net(seed), "heads": nn.Linear(4, c)}) for seed, c in ((1, 8), (2, 4)))
    report = load_weights(mine, theirs.state_dict())
    assert report.mismatched == ("heads.weight 8×4 for 4×4", "heads.bias 8 for 4")
    assert same(mine["encoders"], net(1))


def test_only_the_first_convolution_is_adapted():
    theirs = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(6, 4, 3))
    mine = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3))
    with pytest.raises(UserError, match=r"1 of another shape \(1.weight 4×6×3×3 for 4×4×3×3\)"):
        load_weights(mine, theirs.state_dict())
    report = load_weights(mine, theirs.state_dict(), allow=["1.weight"], adapt="mean")
    assert report.adapted == ("0.weight 3 to 1 channels by mean",)
    assert torch.equal(mine[0].weight, theirs[0].weight.mean(1, keepdim=True))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 7])
def test_sum_keeps_the_answer_to_a_grey_picture(channels: int):
    torch.manual_seed(0)
    weight, grey = torch.randn(5, 3, 3, 3), torch.randn(1, 1, 8, 8)
    before = nn.functional.conv2d(grey.expand(-1, 3, -1, -1), weight)
    adapted = adapt_input(weight, channels, "sum")
    assert adapted.shape == (5, channels, 3, 3)
    whole_turns = channels % 3 == 0 or channels == 1
    after = nn.functional.conv2d(grey.expand(-1, channels, -1, -1), adapted)
    assert not whole_turns or torch.allclose(before, after, atol=1e-5)
    for channel in range(channels if channels > 1 else 0):  # timm: the colours in turn, times 3 / channels
        assert torch.equal(adapted[:, channel], weight[:, channel % 3] * (3 / channels))


def test_mean_is_the_mean_of_the_colours_everywhere():
    weight = torch.randn(5, 3, 3, 3)
    assert torch.equal(adapt_input(weight, 1, "mean"), weight.mean(1, keepdim=True))
    assert torch.equal(adapt_input(weight, 2, "mean")[:, 1], weight.mean(1))


class Payload:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_pickle_that_needs_code_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture):
    torch.save({"model": net().state_dict(), "evil": Payload()}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"w\.pt: needs code to load \(it asks for .*print\)"):
        read_weights(tmp_path / "w.pt")
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.pt", b"not a checkpoint", "a.pt"),
        ("a.pt", b"", "a.pt: not a whole PyTorch file"),
        ("a.safetensors", b"\x00" * 20, "not a whole safetensors file"),
        ("a.h5", b"x", r"\.h5 is not one of \.safetensors, \.pth"),
        ("none.pt", None, "no such file"),
    ],
)
def test_files_that_hold_no_weights_say_so_in_one_line(tmp_path: Path, name: str, content: bytes | None, says: str):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        read_weights(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_truncated_checkpoint_is_refused(tmp_path: Path):
    torch.save(net().state_dict(), tmp_path / "w.pt")
    whole = (tmp_path / "w.pt").read_bytes()
    (tmp_path / "w.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a whole PyTorch file"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {"model": {"epoch": 1}}])
def test_a_checkpoint_without_tensors_is_refused(tmp_path: Path, content: object):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UserError, match="holds no tensors"):
        read_weights(tmp_path / "w.pt")


def test_weights_of_another_net_are_refused():
    with pytest.raises(UserError, match="none of its 1 entries"):
        load_weights(net(), {"blocks.0.qkv": torch.zeros(3, 3)})


def test_half_precision_is_widened():
    mine = net(2)
    load_weights(mine, {name: v.half() if v.is_floating_point() else v for name, v in net(1).state_dict().items()})
    assert mine[0].weight.dtype == torch.float32 and torch.allclose(mine[0].weight, net(1)[0].weight, atol=1e-3)
