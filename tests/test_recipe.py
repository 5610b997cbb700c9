"""Every packaged recipe resolves, resolving again changes nothing, and every kind of typo is one line that names the right key."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from crossfade import build, recipe, settings
from crossfade.clip import UserError
from crossfade.training import rates

PACKAGED = recipe.names()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", PACKAGED)
def test_it_resolves_and_its_resolved_form_resolves_to_itself(name, tmp_path):
    found = recipe.load(name)
    assert found.name == name and found.about and found.targets and all(Path(path).is_absolute() for path in found.model.init.values())
    (tmp_path / "resolved.yaml").write_text(found.yaml(), encoding="utf-8")
    again = recipe.load("resolved.yaml")
    assert again == found and again.yaml() == found.yaml()


@pytest.mark.parametrize("name", PACKAGED)
def test_its_model_can_be_built_without_weights_and_its_rates_fit(name):
    found = recipe.load(name)
    small = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    small |= {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    for encoder in found.model.encoders.values():
        encoder.update({"config": small} if encoder["use"] == "wavlm" else {})
    model = build.model(found, {target: ["a", "b", "c"] for target in found.targets}, pretrained=False)
    classes = {target: ["a", "b", "c"] if found.data.domains is None else ["cough", "non-cough"] for target in found.targets}
    shape = {True: (2,), False: ()}
    counts = {target: torch.full((*shape[target in found.data.several], len(names)), 3.0) for target, names in classes.items()}
    for phase in build.phases(found, classes, counts):
        rates.resolve(model, phase.rates, where=phase.name)


def test_every_default_is_written_out():
    resolved = settings.read(recipe.load("demo-gated").yaml(), "x")
    assert resolved["phases"][0]["optimizer"] == {"use": "adam", "weight_decay": 0.0, "betas": [0.9, 0.999]}
    assert resolved["phases"][0]["accumulate"] == 1 and resolved["data"]["bad_fraction"] == 0.05 and resolved["data"]["split"]["seed"] == 0
    assert resolved["data"]["streams"]["audio"]["mels"] == 64 and resolved["model"]["merge"]["use"] == "gated"
    assert resolved["store"] == {"keep": True, "dtype": "float32", "limit": 0.5} and resolved["phases"][0]["views"] is None


def refusal(*overrides: str, name: str = "emotion", **options) -> str:
    with pytest.raises(UserError) as caught:
        found = recipe.load(name, overrides, **options)
        model = build.model(found, {target: ["a", "b"] for target in found.targets}, pretrained=False)
        for phase in found.phases:
            rates.resolve(model, phase.rates, where=f"phases.{phase.name}.rates")
    assert "\n" not in str(caught.value)
    return str(caught.value)


TYPOS = [
    ("phasess=[]", "phasess: there is no such key; nearest is 'phases'"),
    ("data.bach=3", "data.bach: there is no such key; nearest is 'batch'"),
    ("model.drop_streams=0.2", "model.drop_streams: there is no such key; nearest is 'drop_stream'"),
    ("phases.fusion.epoch=3", "phases.fusion.epoch: there is no such key; nearest is 'epochs'"),
    ("data.split.ratio=[1, 1, 1]", "data.split.ratio: there is no such key; nearest is 'ratios'"),
    ("data.split.by=actor", "data.split.by: found 'actor'; input should be 'group', 'clip', 'column' or 'auto'"),
    ("data.batch=sixteen", "data.batch: found 'sixteen'; input should be a valid integer"),
    ("data=3", "data: found 3; input should be a valid dictionary"),
    ("phases.fusion=3", "phases.0: found 3; input should be a valid dictionary"),
    ("phases=[]", "phases: found []; list should have at least 1 item"),
    ("phases.fusion.name=unfreeze", "phases: two phases have the same name"),
    ("phases.fusion.epochs=null", "phases.fusion.epochs: found None; input should be a valid integer"),
    ("phases=[{name: a, rates: {'*': 1}, terms: {}}]", "phases.a.epochs: missing"),
    ("1=2", "1: there is no such key"),
    ("data.corpus.use=ravdes", "data.corpus.use: found 'ravdes', nearest is 'ravdess'"),
    ("data.streams.audio.use=wave_form", "data.streams.audio.use: found 'wave_form', nearest is 'waveform'"),
    ("data.views.augmented.audio.0.use=noise", "data.views.augmented.audio.0.use: found 'noise', nearest is 'white_noise'"),
    ("model.encoders.audio.use=wavml", "model.encoders.audio.use: found 'wavml', nearest is 'wavlm'"),
    ("model.merge=gatted", "model.merge.use: found 'gatted', nearest is 'gated'"),
    ("model.mix=[cross_atention]", "model.mix.0.use: found 'cross_atention', nearest is 'cross_attention'"),
    ("model.heads.emotion.use=liner", "model.heads.emotion.use: found 'liner', nearest is 'linear'"),
    ("model.heads.emotion=3", "model.heads.emotion: found 3; it needs `use:`"),
    ("model.heads={}", "model.heads: found {}"),
    ("model.encoders={}", "model.encoders: found {}"),
    ("data.streams={}", "data.streams: found {}"),
    ("phases.fusion.terms={}", "phases.fusion.terms: found {}"),
    ("phases.fusion.terms.label.use=crossentropy", "phases.fusion.terms.label.use: found 'crossentropy', nearest is 'cross_entropy'"),
    ("phases.fusion.optimizer.use=adma", "phases.fusion.optimizer.use: found 'adma', nearest is 'adam"),
    ("phases.fusion.schedule=cosin", "phases.fusion.schedule.use: found 'cosin', nearest is 'cosine'"),
    ("data.streams.video.sice=9", "data.streams.video.sice: frames has no such key; nearest is 'size'"),
    (
        "data.views.augmented.audio.noise_at_snr.snrs=[1]",
        "data.views.augmented.audio.0.snrs: noise_at_snr has no such key; nearest is 'snr'",
    ),
    ("model.merge.dims=9", "model.merge.dims: gated has no such key; nearest is 'dim'"),
    ("model.merge.dim=wide", "model.merge.dim: found 'wide'; input should be a valid integer"),
    ("phases.fusion.optimizer.decay=9", "phases.fusion.optimizer.decay: adam has no such key; nearest is 'weight_decay'"),
    ("phases.fusion.schedule={use: cosine, floor: 2}", "phases.fusion.schedule: cosine.floor: found 2"),
    ("phases.fusion.terms.label.smoothing=1.5", "phases.fusion.terms.label: cross_entropy.smoothing: found 1.5"),
    ("data.streams.video.size=0", "data.streams.video: frames: count 8, size 0"),
    ("data.views.augmented.audio.noise_at_snr.probability=2", "data.views.augmented.audio: noise_at_snr.probability: 2"),
    (
        "phases.fusion.rates.encoder=1e-4",
        "phases.fusion.rates: the pattern 'encoder' decides nothing: nothing is called that; nearest is 'encoders'",
    ),
    ("phases.fusion.rates.encoders=0", "phases.fusion.rates.encoders: found 0; input should be greater than 0"),
    ("phases.fusion.rates={encoders: 1e-4}", "phases.fusion.rates: no pattern covers merge."),
    ("phases.fusion.rates={'*': null}", "phases.fusion.rates: every part is frozen"),
    ("phases.fusion.rates={}", "phases.fusion.rates: found {}"),
    ("phases.fusion.rates.encoders.audoi[-2:]=1e-4", "names stages, but 'encoders.audoi' has none; nearest is 'encoders.audio'"),
    ("phases.unfreeze.sees=augmentd", "phases.unfreeze.sees: found 'augmentd', nearest is 'augmented'"),
    ("phases.fusion.terms.label.target=emotions", "phases.fusion.terms.label.target: found 'emotions', nearest is 'emotion'"),
    ("phases.fusion.terms.label.output=emotion.audio", "phases.fusion.terms.label.output: found 'emotion.audio', nearest is 'emotion'"),
    ("select=f1", "select: found 'f1', nearest is 'macro_f1'"),
    ("precision=bf17", "precision: found 'bf17'; input should be"),
    ("track=[wanb]", "track.0: found 'wanb'"),
    ("phases.unfreeze.view=2", "phases.unfreeze.view: there is no such key; nearest is 'views'"),
    ("phases.unfreeze.views=0", "phases.unfreeze.views: found 0; input should be greater than 0"),
    ("phases.unfreeze.views=few", "phases.unfreeze.views: found 'few'; input should be a valid integer"),
    (
        "phases.fusion.views=2",
        "phases.fusion.views: found 2, but the phase sees clean clips, of which there is nothing to draw; set `sees`",
    ),
    ("phases.unfreeze.sees=null", "phases.unfreeze.views: found 4, but the phase sees clean clips"),
    ("store.limits=1", "store.limits: there is no such key; nearest is 'limit'"),
    ("store.limit=0", "store.limit: found 0; input should be greater than 0"),
    ("store.limit=50 XB", "store.limit: found '50 XB'; input should be a valid number"),
    ("store.limit=inf", "store.limit: found 'inf'; input should be a finite number"),
    ("store.dtype=float16", "store.dtype: found 'float16'; input should be 'float32' or 'bfloat16'"),
    ("store.keep=perhaps", "store.keep: found 'perhaps'; input should be a valid boolean"),
    ("store=maybe", "store: found 'maybe'; it is on, off, or keys from keep, dtype, limit"),
    ("data.streams.mouth={use: frames}", "data.streams.mouth: model.encoders has no encoder for it; nearest is"),
    ("model.encoders.mouth={use: resnet18}", "model.encoders.mouth: data.streams has no such stream; nearest is"),
    ("data.views.augmented.mouth=[blur]", "data.views.augmented: found 'mouth', nearest is"),
    ("data.views.augmented.audio=[blur]", "data.views.augmented.audio: blur acts on frames, but this stream has waveform"),
    ("data.degrade.audio=[spectrogram_masks]", "data.degrade.audio: spectrogram_masks acts on spectrogram, but this stream has waveform"),
    ("data.streams.audio.rate=8000", "data.streams.audio.rate: found 8000, but its encoder was made for 16000"),
    ("data.streams.audio={use: log_mel}", "data.streams.audio: makes (1, 64, 301), but its encoder takes"),
]
TINY = ("model.encoders.audio.config={hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 16}",)


@pytest.mark.parametrize(("override", "says"), TYPOS, ids=[override for override, _ in TYPOS])
def test_a_typo_is_one_line_with_key_found_and_nearest(override, says):
    tiny = () if override.startswith("model.encoders") else TINY
    assert says in refusal(*tiny, override)


@pytest.mark.parametrize(
    ("override", "keep", "limit"),
    [
        ("store=off", False, 0.5),
        ("store=on", True, 0.5),
        ("store={}", True, 0.5),
        ("store={keep: off, limit: 0.2}", False, 0.2),
        ("store.limit=50 GB", True, 50e9),
        ("store.limit=1.5tb", True, 1.5e12),
        ("store.limit=.5 MB", True, 500e3),
        ("store.limit=5e9", True, 5e9),
    ],
)
def test_the_store_is_switched_off_or_bounded_as_people_say_it(override, keep: bool, limit: float, tmp_path):
    found = recipe.load("emotion", [*TINY, override])
    assert (found.store.keep, found.store.limit, found.store.dtype) == (keep, limit, "float32")
    (tmp_path / "again.yaml").write_text(found.yaml())
    assert recipe.load("again.yaml") == found


def test_a_recipe_from_before_there_was_a_store_has_its_defaults(tmp_path):
    raw = settings.read(recipe.load("demo-gated").yaml(), "x")
    del raw["store"]
    for phase in raw["phases"]:
        del phase["views"]
    (tmp_path / "old.yaml").write_text(settings.write(raw))
    assert recipe.load("old.yaml") == recipe.load("demo-gated")


def test_a_stream_can_be_taken_out():
    without = ["data.streams.video=null", "model.encoders.video=null", "data.views.augmented={audio: [noise_at_snr]}", "model.merge=each"]
    found = recipe.load("audio-video", without)
    assert list(found.data.streams) == list(found.model.encoders) == ["audio"]


# ---- finding


def test_an_unknown_recipe_and_files_that_are_none(tmp_path):
    assert "recipe: found 'emotoin', nearest is 'emotion'" in refusal(name="emotoin")
    assert refusal(name="none.yaml") == "none.yaml: No such file or directory"
    (tmp_path / "list.yaml").write_text("[1, 2]")
    assert "list.yaml: a recipe is a mapping" in refusal(name="list.yaml")
    (tmp_path / "empty.yaml").write_text("")
    assert "empty.yaml: a recipe is a mapping" in refusal(name="empty.yaml")
    (tmp_path / "half.yaml").write_text("data: {corpus: tree")
    assert "half.yaml line 1" in refusal(name="half.yaml")


# ---- --data


def test_data_may_be_a_folder(tmp_path):
    (tmp_path / "birds").mkdir()
    assert (
        recipe.load("audio", corpus=Path("birds")).data.corpus == recipe.load("audio", [f"data.corpus.root={tmp_path}/birds"]).data.corpus
    )
    assert recipe.load("emotion", corpus=Path("birds")).data.corpus["use"] == "ravdess"
    (tmp_path / "bare.yaml").write_text(recipe.load("audio").yaml())
    assert "data.corpus.root: missing" in refusal("data.corpus={use: tree}", name="audio")


def test_data_may_be_a_csv_for_any_recipe_and_its_own_options_go(tmp_path):
    (tmp_path / "clips.csv").write_text("audio,emotion\n")
    for name in ("emotion", "audio"):
        corpus = recipe.load(name, corpus=Path("clips.csv")).data.corpus
        assert corpus == {
            "use": "manifest",
            "path": str(tmp_path / "clips.csv"),
            "targets": None,
            "media": None,
            "several": None,
            "root": None,
        }


def test_a_folder_for_a_recipe_that_reads_a_csv_is_refused(tmp_path):
    (tmp_path / "clips.csv").write_text("audio,emotion\n")
    (tmp_path / "mine.yaml").write_text(recipe.load("audio", corpus=Path("clips.csv")).yaml())
    assert "is described by a CSV" in refusal(name="mine.yaml", corpus=tmp_path)
    assert "no such folder or CSV" in refusal(corpus=Path("nowhere"))


@pytest.mark.parametrize(
    "text", ["data: 3", "data: {corpus: 3}", "data: [1]", "model: 3\ndata: {}", "model: {heads: [1]}", "phases: 3", "phases: [3]"]
)
def test_data_and_target_on_a_malformed_recipe_are_one_line_too(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    refusal(name="bad.yaml", corpus=tmp_path)
    refusal(name="bad.yaml", target="digit")


# ---- --target


def test_target_renames_head_terms_outputs_and_split():
    given = ["data.split.target=label", "phases.fusion.terms.extra={use: cross_entropy, target: label, output: label.audio, weight: 0.3}"]
    given += ["phases.unfreeze.terms.extra={use: cross_entropy, target: label, output: label}", "model.merge=each"]
    Path("mine.yaml").write_text(recipe.load("audio-video", given).yaml())
    found = recipe.load("mine.yaml", target="digit")
    assert found.targets == ["digit"] and found.data.split["target"] == "digit"
    terms = {(phase.name, name): (term["target"], term["output"]) for phase in found.phases for name, term in phase.terms.items()}
    assert terms == {
        ("fusion", "label"): ("digit", None),
        ("fusion", "extra"): ("digit", "digit.audio"),
        ("unfreeze", "label"): ("digit", None),
        ("unfreeze", "extra"): ("digit", "digit"),
    }


def test_target_needs_a_single_head():
    Path("two.yaml").write_text(recipe.load("audio", ["model.heads.species=linear"]).yaml())
    assert "--target: this recipe has 2 heads (label, species)" in refusal(name="two.yaml", target="digit")


def test_a_head_may_sit_on_several_embeddings():
    found = recipe.load("demo-gated", ["model.heads.emotion={joint: linear, audio: {use: mlp, hidden: 8}}"])
    assert found.model.heads["emotion"]["audio"] == {"use": "mlp", "hidden": 8, "dropout": 0.2, "input_dropout": 0.0}
    model = build.model(found, {"emotion": ["a", "b"]}, pretrained=False)
    assert set(model.heads["emotion"]) == {"joint", "audio"}
    found = recipe.load(
        "demo-gated",
        [
            "model.heads.emotion={joint: linear, audio: linear}",
            "phases.fusion.terms.ear={use: cross_entropy, target: emotion, output: emotion.audio}",
        ],
    )
    build.model(found, {"emotion": ["a", "b"]}, pretrained=False)


def test_a_local_weights_file_is_found_from_anywhere_and_a_hub_name_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "start.pt").touch()
    local = recipe.load("emotion-video", ["model.encoders.video.weights=start.pt"])
    assert local.model.encoders["video"]["weights"] == str(tmp_path / "start.pt")
    assert recipe.load("emotion-wavlm").model.encoders["audio"]["weights"] == "microsoft/wavlm-base"


def test_the_command_line_may_say_what_kind_of_corpus_it_points_at(tmp_path):
    found = recipe.load("audio", ["data.corpus.use=ravdess", "data.corpus.media=[audio]"], corpus=str(tmp_path))
    assert found.data.corpus["use"] == "ravdess" and found.data.corpus["root"] == str(tmp_path)


def test_a_stream_can_be_taken_out_of_a_view():
    gone = ["data.streams.video", "model.encoders.video", "data.views.augmented.video"]
    phase = '[{name: a, epochs: 1, rates: {"*": 1e-3}, terms: {label: {use: cross_entropy, target: label}}}]'
    found = recipe.load("audio-video", [*(f"{key}=null" for key in gone), "model.merge=each", "model.init={}", f"phases={phase}"])
    assert list(found.data.views["augmented"]) == ["audio"]


@pytest.mark.parametrize("encoder", ["{use: mobilenet_v4, channels: 1}", "{use: resnet18, channels: 1}", "depthwise_stack", "picture_cnn"])
def test_a_picture_network_hears_spectrograms_of_one_channel(encoder):
    found = recipe.load("cough", [f"model.encoders.audio={encoder}"])
    model = build.model(found, {"label": ["cough", "non-cough"]}, pretrained=False).train()
    out = model({"audio": torch.randn(1, 1, 96, 64), "audio.mask": torch.ones(1, 64, dtype=torch.bool)})
    assert out["label"].shape == (1, 2) and out["label"].isfinite().all(), "a batch of one, too, in train mode"


def test_a_picture_network_of_colours_says_how_to_hear_spectrograms():
    assert "set channels: 1 in the encoder" in refusal("model.encoders.audio={use: mobilenet_v4}", name="cough")
