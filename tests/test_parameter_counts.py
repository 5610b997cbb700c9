"""Every parameter count of the reference system's tables (§2.2 and §5), rebuilt from our tables, and the differences explained."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from crossfade.models import HEADS, MERGERS, MIXERS
from crossfade.models.audio import audio_resnet18, light_cnn
from crossfade.models.cost import multiply_adds
from crossfade.models.depthwise_stack import depthwise_stack
from crossfade.models.encoder import Encoder
from crossfade.models.image import efficientnet_b0, mobilenet_v2, resnet18, resnet34, resnet50
from crossfade.models.model import Fused, count, describe
from crossfade.models.timm_image import mobilenet_v4
from crossfade.models.vggish import vggish
from crossfade.models.videomae import videomae
from crossfade.models.wavlm import wavlm
from crossfade.training.rates import freeze, resolve

CLASSES = 8
AUDIO = {"light_cnn": light_cnn, "audio_resnet18": audio_resnet18, "wavlm": wavlm}
HEAD = {"light_cnn": "linear", "audio_resnet18": "linear", "wavlm": "mlp"}  # of the stream alone
WAVLM_BACKBONE = 94_381_936


@pytest.fixture(autouse=True)
def on_no_device():
    """Counts need shapes alone."""
    with torch.device("meta"):
        yield


def alone(name: str, **options) -> int:
    encoder = AUDIO[name](**options)
    return count(encoder) + count(HEADS[HEAD[name]](encoder.dim, CLASSES))


def fused(name: str, merge: str, mix: dict | None = None, **options) -> Fused:
    """Audio and resnet18 video with a head of each stream's own, as the reference keeps them, and a joint head where there is one."""
    encoders = {"audio": AUDIO[name](), "video": resnet18()}
    dims = {stream: encoder.dim for stream, encoder in encoders.items()}
    mixers = [MIXERS["cross_attention"](dims, **mix)] if mix else []
    merger = MERGERS[merge](mixers[0].dims if mixers else dims, **options)
    joint = {"joint": HEADS["linear"](merger.dims["joint"], CLASSES)} if "joint" in merger.dims else {}
    own = {"audio": HEADS[HEAD[name]](dims["audio"], CLASSES), "video": HEADS["linear"](512, CLASSES)}
    return Fused(encoders, mix=mixers, merge=merger, heads={"emotion": own | joint})


def trainable(model: Fused) -> int:
    """With the audio backbone frozen."""
    model.encoders["audio"].requires_grad_(False)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def test_audio_encoders_alone():
    assert alone("light_cnn") == 155_752
    assert alone("light_cnn", tokens=16) == 32_872
    assert alone("audio_resnet18") == alone("audio_resnet18", tokens=16) == 12_785_224  # the residual sums cost nothing
    assert alone("wavlm") == 94_978_680
    assert count(wavlm()) == WAVLM_BACKBONE


def test_video_alone():
    assert count(resnet18()) + count(HEADS["linear"](512, CLASSES)) == 11_180_616


def test_mobilenet_with_ten_classes_and_its_last_four_stages_unfrozen():
    encoder, head = mobilenet_v2(), count(HEADS["linear"](1280, 10))
    assert (count(encoder), count(encoder) + head) == (2_223_872, 2_236_682)
    assert count(encoder.stages[-4:]) + head == 1_538_890


def test_mobilenet_with_what_learns_as_rates_say():
    head = {"digit": {"image": HEADS["linear"](1280, 10, dropout=0.2)}}
    model = Fused({"image": mobilenet_v2()}, merge=MERGERS["each"]({"image": 1280}), heads=head)
    learning = {}
    for rates in ({"encoders": None, "*": 1e-3}, {"encoders.image[-4:]": 1e-4, "encoders": None, "*": 1e-3}):
        freeze(model, resolve(model, rates))
        learning[len(rates)] = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert (count(model), learning) == (2_236_682, {2: 12_810, 3: 1_538_890})


def test_mobilenet_v4_as_the_issue_counts_it():
    """The 2,492,448 are those of one channel: its first convolution of [32, 1, 3, 3] has 576 weights fewer."""
    assert count(mobilenet_v4(channels=1)) == 2_492_448
    assert count(mobilenet_v4()) == 2_492_448 + 2 * 32 * 3 * 3


def on_a_spectrogram(encoder: Encoder) -> Fused:
    """A model of 2 classes, as the cough original has."""
    return Fused(
        {"audio": encoder}, merge=MERGERS["each"]({"audio": encoder.dim}), heads={"label": {"audio": HEADS["linear"](encoder.dim, 2)}}
    )


def test_vggish_at_96_by_64_as_the_cough_reference_counts_it():
    encoder = vggish()
    assert [count(encoder.stages[:4]), count(encoder.stages[4:])] == [4_499_712, 12_289 * 4096 + 4097 * 4096 + 4097 * 128]
    assert count(on_a_spectrogram(encoder)) == 72_141_442
    assert f"{count(encoder):,}" in (vggish.__doc__ or "")


def test_the_multiply_adds_of_vggish():
    """863,895,552 of its own, and the 256 of a linear head of 2 classes."""
    assert multiply_adds(on_a_spectrogram(vggish()), {"audio": torch.zeros(2, 1, 96, 64)}) == 863_895_808


def test_the_stand_in_for_machines_without_timm():
    encoder = depthwise_stack()
    assert (count(encoder), encoder.dim, len(encoder.stages)) == (3_469_056, 1280, 14)
    assert f"{count(encoder):,}" in (depthwise_stack.__doc__ or "")


def test_mobilenet_v4_with_the_originals_head():
    assert count(on_a_spectrogram(mobilenet_v4(channels=1))) == 2_495_010


@pytest.mark.parametrize(
    ("ours", "theirs", "classifier"),
    [
        (resnet18, torchvision.models.resnet18, "fc"),
        (resnet34, torchvision.models.resnet34, "fc"),
        (resnet50, torchvision.models.resnet50, "fc"),
        (mobilenet_v2, torchvision.models.mobilenet_v2, "classifier"),
        (efficientnet_b0, torchvision.models.efficientnet_b0, "classifier"),
    ],
)
def test_torchvisions_networks_without_their_classifier(ours, theirs, classifier: str):
    net = theirs()
    assert count(ours()) == count(net) - count(net.get_submodule(classifier))
    assert f"{count(ours()):,}" in (ours.__doc__ or "")


@pytest.mark.parametrize(("layers", "published"), [(0, 596_744), (2, 14_773_552), (4, 28_950_360)])
def test_wavlm_with_its_last_layers_unfrozen(layers: int, published: int):
    stages = wavlm().stages
    assert count(HEADS["mlp"](768, CLASSES)) + count(stages[len(stages) - layers :]) == published


@pytest.mark.parametrize(
    ("audio", "late", "concat", "gated"),
    [
        ("audio_resnet18", 23_965_840, 24_263_576, 24_263_833),
        ("light_cnn", 11_336_368, 11_634_104, 11_634_361),
        ("wavlm", 106_159_296, 106_620_872, 106_621_129),
    ],
)
def test_fused_totals(audio: str, late: int, concat: int, gated: int):
    assert count(fused(audio, "each")) == late
    assert count(fused(audio, "concat")) == concat
    assert count(fused(audio, "gated")) == gated


def test_fused_wavlm_with_its_backbone_frozen():
    found = [trainable(fused("wavlm", merge)) for merge in ("each", "concat", "gated")]
    assert found == [11_777_360, 12_238_936, 12_239_193]


@pytest.mark.parametrize(("dim", "concat", "gated"), [(128, 297_736, 297_993), (768, 461_576, 461_833)])
def test_fusion_alone(dim: int, concat: int, gated: int):
    dims, head = {"audio": dim, "video": 512}, count(HEADS["linear"](256, CLASSES))
    assert count(MERGERS["concat"](dims)) + head == concat
    assert count(MERGERS["gated"](dims)) + head == gated


# Cross-attention. The reference's graph holds two things that no answer depends on once a sequence comes from its encoders: a Conv1d that
# would have made tokens of the mel picture, and a Linear(d -> d) behind it. Ours are the documented graph without these two. The three
# published rows were counted on an older graph, which held them but not yet the Linear(H -> d) that projects the audio sequence.


def conv_on_mels(mels: int, d: int) -> int:
    return count(nn.Conv1d(mels, d, 3, padding=1))


def square(d: int) -> int:
    return count(nn.Linear(d, d))


def project_audio(width: int, d: int) -> int:
    return count(nn.Linear(width, d))


@pytest.mark.parametrize(
    ("audio", "merge", "mels", "width", "published", "documented"),
    [
        ("audio_resnet18", "concat", 64, 128, 24_273_176, 24_289_688),
        ("audio_resnet18", "gated", 64, 128, 24_239_385, 24_255_897),
        ("wavlm", "concat", 768, 768, 106_736_968, 106_835_400),  # its Conv1d took WavLM's 768 for mel bands
    ],
)
def test_cross_attention_rows(audio: str, merge: str, mels: int, width: int, published: int, documented: int):
    ours = count(fused(audio, merge, mix={"dim": 128, "heads": 4}, project=False))
    unused = conv_on_mels(mels, 128) + square(128)
    assert documented == ours + unused
    assert published == ours + unused - project_audio(width, 128)


def test_cross_attention_unused_parts_have_the_sizes_the_reference_states():
    assert [conv_on_mels(64, 128), conv_on_mels(768, 128), square(128), square(96)] == [24_704, 295_040, 16_512, 9_312]


def test_cross_attention_wavlm_trainable():
    ours = trainable(fused("wavlm", "concat", mix={"dim": 128, "heads": 4}, project=False))
    unused = conv_on_mels(768, 128) + square(128)
    assert (ours + unused - project_audio(768, 128), ours + unused) == (12_355_032, 12_453_464)


def test_the_best_cross_attention_of_the_results_table():
    # 106.40 M: gated head, d 96, and this time a Conv1d on 64 mel bands, with the sequence projection in place
    ours = count(fused("wavlm", "gated", mix={"dim": 96, "heads": 4}, project=False))
    assert ours + conv_on_mels(64, 96) + square(96) == 106_404_489


def test_the_wildlife_originals_two_token_transformer():
    """Ours mark the streams with the 1,024 values that the original declared and never used."""
    merge = MERGERS["token_transformer"]({"video": 768, "audio": 512})
    assert (count(merge), count(merge.embeddings.project)) == (6_963_200, 769 * 512 + 513 * 512)
    assert merge.rule.marks.numel() == 1_024 and "6,963,200" in (MERGERS["token_transformer"].__doc__ or "")


def originals_head(classes: int) -> nn.Module:
    return HEADS["mlp"](512, classes, hidden=256, dropout=0.3, input_dropout=0.3)


def wildlife(**classes: int) -> Fused:
    """VideoMAE base and ResNet18 on mel, the two-token transformer, and a head of two layers a target."""
    encoders = {"video": videomae(), "audio": resnet18(channels=1)}
    merge = MERGERS["token_transformer"]({name: encoder.dim for name, encoder in encoders.items()})
    return Fused(encoders, merge=merge, heads={target: {"joint": originals_head(number)} for target, number in classes.items()})


def test_the_wildlife_original():
    assert [count(originals_head(number)) for number in (5, 11, 20)] == [132_613, 134_155, 136_468]
    rows = dict(describe(wildlife(species=5, activity=11)))
    assert (rows["encoders.video"], rows["encoders.audio"], rows["total"]) == (86_225_664, 11_170_240, 104_625_872)
    assert rows["total"] - rows["heads.activity.joint"] + count(originals_head(20)) == 104_628_185


def test_describe_adds_up_and_names_every_part():
    rows = dict(describe(fused("audio_resnet18", "gated", mix={"dim": 128}, project=False)))
    assert list(rows) == [
        "encoders.audio",
        "encoders.video",
        "mix.0",
        "merge",
        "heads.emotion.audio",
        "heads.emotion.video",
        "heads.emotion.joint",
        "total",
    ]
    assert rows["total"] == sum(rows.values()) - rows["total"]
