"""The whole model: late fusion is a mean of softmaxes, streams drop but never all, subsets and stored states are valid inputs."""

from __future__ import annotations

import pytest
import torch

from crossfade.clip import UserError
from crossfade.models import MERGERS, MIXERS
from crossfade.models.audio import light_cnn
from crossfade.models.encoder import Encoder
from crossfade.models.heads import linear, mlp
from crossfade.models.model import Fused, describe, keep_streams
from crossfade.models.video import frame_cnn

DIMS = {"audio": 12, "video": 32}
CLASSES = 5


def encoders() -> dict[str, Encoder]:
    return {"audio": light_cnn(width=12, tokens=2), "video": frame_cnn(width=8)}


def model(merge: str, mix: bool = False, drop_stream: float = 0.0) -> Fused:
    torch.manual_seed(0)
    mixers = [MIXERS["cross_attention"](DIMS, dim=8, heads=2)] if mix else []
    widths = mixers[0].dims if mix else DIMS
    merger = MERGERS[merge](widths)
    own = DIMS if "joint" in merger.dims else widths
    heads = {name: linear(width, CLASSES) for name, width in (own | merger.dims).items()}
    return Fused(encoders(), mix=mixers, merge=merger, heads={"emotion": heads}, drop_stream=drop_stream)


def batch(size: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "audio": torch.randn(size, 1, 16, 40, generator=generator),
        "audio.mask": torch.ones(size, 40, dtype=torch.bool),
        "video": torch.randn(size, 4, 3, 16, 16, generator=generator),
        "video.mask": torch.ones(size, 4, dtype=torch.bool),
        "emotion": torch.zeros(size, dtype=torch.long),
        "index": torch.arange(size),
    }


def only(stream: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in batch().items() if name.split(".")[0] in (stream, "emotion", "index")}


def test_the_docstrings_example_is_a_model():
    net = Fused({"audio": light_cnn()}, merge=MERGERS["each"]({"audio": 128}), heads={"emotion": {"audio": linear(128, 8)}}).eval()
    outputs = net(only("audio"))
    assert outputs["emotion"].shape == (4, 8)
    assert torch.equal(outputs["emotion"], outputs["emotion.audio"]), "one stream alone is not fused with anything"


def test_late_fusion_is_the_log_of_the_mean_of_softmaxes():
    outputs = model("each").eval()(batch())
    mean = (outputs["emotion.audio"].softmax(1) + outputs["emotion.video"].softmax(1)) / 2
    assert torch.allclose(outputs["emotion"], mean.log(), atol=1e-6)
    assert set(outputs) == {"emotion", "emotion.audio", "emotion.video"}


@pytest.mark.parametrize("merge", [name for name in MERGERS if name != "each"])
@pytest.mark.parametrize("mix", [False, True])
def test_outputs_of_joint_mergers(merge: str, mix: bool):
    net = model(merge, mix).eval()
    outputs = net(batch())
    assert set(outputs) - {"gate"} == {"emotion", "emotion.audio", "emotion.video", "embed.joint"}
    assert outputs["emotion"].shape == (4, CLASSES) and outputs["embed.joint"].shape == (4, net.merge.dims["joint"])
    assert ("gate" in outputs) == (merge == "gated")
    assert torch.equal(outputs["emotion.audio"], net(only("audio"))["emotion.audio"]), "own heads see their own stream, unmixed"


@pytest.mark.parametrize("merge", MERGERS)
@pytest.mark.parametrize("mix", [False, True])
@pytest.mark.parametrize("stream", ["audio", "video"])
def test_one_stream_of_two_is_valid_while_training_and_after(merge: str, mix: bool, stream: str):
    net = model(merge, mix, drop_stream=0.5)
    net(only(stream))["emotion"].sum().backward()
    outputs = net.eval()(only(stream))
    assert outputs["emotion"].isfinite().all() and f"emotion.{stream}" in outputs
    padded = batch()
    padded[f"{'video' if stream == 'audio' else 'audio'}.mask"][:] = False
    assert torch.allclose(net(padded)["emotion"], outputs["emotion"], atol=1e-5), "absent and all padding are the same"


@pytest.mark.parametrize("merge", MERGERS)
@pytest.mark.parametrize("mix", [False, True])
def test_a_clip_that_is_padding_in_every_stream_poisons_nothing(merge: str, mix: bool):
    net, given = model(merge, mix), batch()
    given["audio.mask"][1] = given["video.mask"][1] = False
    outputs = net(given)
    assert all(value.isfinite().all() for value in outputs.values())
    outputs["emotion"].logsumexp(1).sum().backward()
    assert all(weight.grad.isfinite().all() for weight in net.parameters() if weight.grad is not None)


def test_streams_drop_per_clip_but_never_all():
    torch.manual_seed(0)
    present = torch.ones(20_000, 2, dtype=torch.bool)
    kept = keep_streams(present, 0.2)
    assert kept.any(1).all() and not torch.equal(kept, present)
    # each is dropped at 0.2, but of the 0.04 in which both would be, one comes back half the time
    assert (~kept).float().mean(0).tolist() == pytest.approx([0.18, 0.18], abs=0.01)
    assert keep_streams(present, 1.0).sum(1).unique().tolist() == [1]
    alone = torch.tensor([[True, False], [False, False]])
    assert torch.equal(keep_streams(alone, 1.0), alone), "what is absent cannot be kept"


@pytest.mark.parametrize("mix", [False, True])
def test_dropped_streams_change_training_and_never_evaluation(mix: bool):
    net = model("gated", mix, drop_stream=0.9)
    for layer in net.modules():
        layer.training = layer is net  # dropout and BatchNorm still, the drop alone acts
    torch.manual_seed(0)
    gate = net(batch(64))["gate"]
    assert ((gate == 0).any(1).float().mean() > 0.5) and not (gate == 0).all(1).any()
    assert (net.eval()(batch(64))["gate"] > 0).all()


@pytest.mark.parametrize("stop", [1, 2, 4])
@pytest.mark.parametrize(("merge", "mix"), [("concat", True), ("gated", False), ("each", False)])
def test_stored_states_continue_to_the_same_answer(merge: str, mix: bool, stop: int):
    net, given = model(merge, mix=mix).eval(), batch()
    stored = net.states(given, {"audio": stop})
    assert stored.keys() <= {f"audio[{stop}:].x", f"audio[{stop}:].mask"} and all(len(x) == len(given["audio"]) for x in stored.values())
    rest = {name: value for name, value in given.items() if not name.startswith("audio")}
    found, whole = net(rest | stored), net(given)
    assert found.keys() == whole.keys() and all(torch.equal(found[name], value) for name, value in whole.items())


def test_of_a_whole_encoder_only_the_mean_is_stored_where_nothing_else_is_looked_at():
    given, stops = batch(), {"audio": 4, "video": 4}
    means, tokens = model("gated", mix=False).eval().states(given, stops), model("gated", mix=True).eval().states(given, stops)
    assert means["video[4:].x"].shape[1] == 1 < tokens["video[4:].x"].shape[1]


@pytest.mark.parametrize("mix", [False, True])
def test_the_heads_go_on_from_stored_embeddings(mix: bool):
    net, given = model("gated", mix=mix).eval(), batch()
    stored = net.embeddings(given)
    assert {"heads[:]", "heads[:].joint", "heads[:].gate", "heads[:].audio"} <= stored.keys()
    whole = net(given)
    found = net({"index": torch.arange(4), **stored})
    assert found.keys() == whole.keys() and all(torch.equal(found[name], value) for name, value in whole.items())


def test_parts_are_named_as_rates_expect():
    names = {name for name, _ in model("gated", mix=True).named_parameters()}
    starts = ("encoders.audio.stages.0.", "encoders.video.stages.3.", "mix.0.", "merge.", "heads.emotion.joint.", "heads.emotion.audio.")
    assert all(any(name.startswith(start) for name in names) for start in starts)
    assert all(name.startswith(("encoders.", "mix.", "merge.", "heads.")) for name in names)
    assert dict(describe(model("gated")))["heads.emotion.joint"] == 256 * CLASSES + CLASSES


def test_several_targets_share_the_embedding():
    heads = {"emotion": {"joint": linear(256, 8)}, "speaker": {"joint": mlp(256, 3, hidden=7)}}
    outputs = Fused(encoders(), merge=MERGERS["concat"](DIMS), heads=heads)(batch())
    assert outputs["emotion"].shape == (4, 8) and outputs["speaker"].shape == (4, 3)


def test_a_batch_without_streams_says_what_is_needed():
    with pytest.raises(UserError, match="holds index; the model needs at least one of audio, video"):
        model("each")({"index": torch.arange(2)})


HEADS = {"emotion": {"joint": linear(256, CLASSES)}}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"merge": MERGERS["concat"]({"audio": 12}), "heads": HEADS}, "merge takes audio 12, but the encoders give audio 12, video 32"),
        ({"merge": MERGERS["concat"]({"audio": 128, "video": 32}), "heads": HEADS}, "merge takes audio 128, video 32, but the encoders"),
        ({"merge": MERGERS["concat"](DIMS), "heads": {}}, "heads: the model has none"),
        ({"merge": MERGERS["concat"](DIMS), "heads": {"emotion": {"audio": linear(12, 3)}}}, "needs a head on joint, found audio"),
        ({"merge": MERGERS["each"](DIMS), "heads": {"emotion": {"audio": linear(12, 3)}}}, "needs a head on video"),
        (
            {"merge": MERGERS["concat"](DIMS), "heads": {"emotion": HEADS["emotion"] | {"sound": linear(1, 1)}}},
            "emotion.sound: no such embedding; the model has audio, video, joint",
        ),
        ({"merge": MERGERS["concat"](DIMS), "heads": {"emotion": {"joint": linear(128, 3)}}}, "takes width 128, the embedding has 256"),
        ({"merge": MERGERS["concat"](DIMS), "heads": {"half": HEADS["emotion"]}}, "target name among half"),
        (
            {"merge": MERGERS["concat"](DIMS), "mix": [MIXERS["cross_attention"](DIMS, dim=8)], "heads": HEADS},
            "mix.0 gives audio 8, video 8",
        ),
    ],
)
def test_parts_that_do_not_fit_say_which(options: dict, says: str):
    with pytest.raises(UserError, match=says):
        Fused(encoders(), **options)
