"""The emotion reference's five command templates at tiny size; every flag of the references documented, every command fitting."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import typer
from safetensors.torch import load_file

import crossfade
from crossfade import build, sweep
from crossfade.cli import app
from crossfade.data.mammalps import ACTIONS, ACTIVITIES, SPECIES
from crossfade.deploy import bundle
from crossfade.models.model import count
from crossfade.recipe import names
from crossfade.training import rates

pytest.importorskip("transformers")
CLASSES = {"emotion": [f"class {number}" for number in range(8)], "label": ["cough", "non-cough"]}
CLASSES |= {"species": SPECIES, "activity": ACTIVITIES, "action": ACTIONS}
COUNTS = {"label": torch.tensor([96.0, 1273.0])}  # of the cough original's source domain
LAYERS = 3
TINY_WAVLM = (
    f"{{hidden_size: 16, num_hidden_layers: {LAYERS}, num_attention_heads: 2, intermediate_size: 24, "
    "conv_dim: [8, 8, 8, 8, 8, 8, 8], num_conv_pos_embeddings: 8, num_conv_pos_embedding_groups: 2}"
)
SMALL = ("data.batch=4", "data.workers=0")
WAVLM = ("data.streams.audio.seconds=0.5", "model.encoders.audio.weights=null", f"model.encoders.audio.config={TINY_WAVLM}")
VIDEO = ("data.streams.video.count=2", "data.streams.video.size=32", "model.encoders.video.weights=null")
MEL = ("data.streams.audio.seconds=0.5", "data.views.augmented.audio.1.time=5")
WARM = ("emotion", "emotion-xattn")  # recipes that start from two finished runs


class Trained(NamedTuple):
    """A finished bundle of this module."""

    folder: Path
    recipe: crossfade.Recipe

    @property
    def notes(self) -> dict:
        return bundle.read_json(self.folder / bundle.NOTES)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / bundle.WEIGHTS)


def quick(name: str, *overrides: str, epochs: dict[str, int] | None = None, **options) -> crossfade.Recipe:
    """A packaged recipe of one step a phase, or with the epochs given."""
    phases = [phase.name for phase in crossfade.load(name).phases]
    short = [f"phases.{phase}.{key}" for phase in phases for key in (f"epochs={(epochs or {}).get(phase, 1)}", "steps=1")]
    return crossfade.load(name, [*SMALL, *short, *overrides], **options)


@pytest.fixture(scope="module")
def train(tmp_path_factory, demo_clips):
    """Train a recipe on the demo clips into a folder of its own."""
    place = tmp_path_factory.mktemp("originals")

    def run(name: str, *overrides: str, epochs: dict[str, int] | None = None) -> Trained:
        recipe = quick(name, *overrides, epochs=epochs, corpus=demo_clips)
        folder = place / f"run-{len(list(place.iterdir()))}"
        assert crossfade.train(recipe, folder)["test"]["n_clips"] > 0
        assert (folder / "metrics.json").is_file() and (folder / "report.html").is_file()
        return Trained(folder, recipe)

    return run


@pytest.fixture(scope="module")
def wavlm(train) -> Trained:
    return train("emotion-wavlm", *WAVLM)


@pytest.fixture(scope="module")
def video(train) -> Trained:
    return train("emotion-video", *VIDEO)


@pytest.fixture(scope="module")
def warm(wavlm, video) -> tuple[str, ...]:
    """The overrides that start a fusion from the two runs; each encoder's shape comes with `config`, its weights from the bundle."""
    return (*WAVLM, *VIDEO, *(f"model.init.'encoders.{name}'={run.folder}" for name, run in (("audio", wavlm), ("video", video))))


def parts(run: Trained) -> dict[str, int]:
    return dict(run.notes["parameters"])


def last_stages(run: Trained, stream: str, stages: int) -> int:
    """The parameters of an encoder's last stages."""
    encoder = build.model(run.recipe, CLASSES, pretrained=False).encoders[stream]
    return count(encoder.stages[len(encoder.stages) - stages :])


def equal_stages(run: Trained, source: Trained, stream: str) -> set[str]:
    """The stages of an encoder whose entries, buffers too, are bit for bit those of another bundle; every entry must be in both."""
    prefix = f"encoders.{stream}.stages."
    ours, theirs = ({name: value for name, value in each.weights.items() if name.startswith(prefix)} for each in (run, source))
    assert ours and set(ours) == set(theirs)
    moved = {name.removeprefix(prefix).split(".")[0] for name, value in ours.items() if not torch.equal(value, theirs[name])}
    return {name.removeprefix(prefix).split(".")[0] for name in ours} - moved


# ---- at full size, without any memory: who learns


def learning(name: str, *overrides: str) -> dict[str, int]:
    """Phase -> parameters that learn, of the packaged recipe as it is."""
    recipe = crossfade.load(name, overrides)
    with torch.device("meta"):
        model = build.model(recipe, CLASSES, pretrained=False)
    sizes = {parameter: value.numel() for parameter, value in model.named_parameters()}
    return {
        phase.name: sum(sizes[parameter] for parameter, rate in rates.resolve(model, phase.rates).items() if rate is not None)
        for phase in recipe.phases
    }


HEAD = 596_744  # on WavLM
LAST_TWO = 14_773_552 - HEAD  # layers of WavLM
LAST_BLOCK = 8_393_728  # layer4 of ResNet18
GATED = 461_833  # fusion of 768 and 512


def test_the_recipes_at_full_size_learn_what_the_originals_learned():
    assert learning("emotion-audio-resnet") == {"train": 12_785_224}
    assert learning("emotion-wavlm") == {"head": HEAD, "unfreeze": HEAD + LAST_TWO}
    assert learning("emotion-video") == {"train": 11_180_616}
    assert learning("emotion") == {"fusion": GATED, "unfreeze": GATED + LAST_TWO + LAST_BLOCK}
    # the original counts two heads that its fusion never calls: WavLM's, and the 4,104 of the video net
    assert learning("emotion-wavlm-gated") == {"train": 12_239_193 - HEAD - 4_104}
    fusion = learning("emotion-xattn", "model.mix.0.dim=96")["fusion"]
    assert fusion == 106_404_489 - 94_978_680 - 11_180_616 - 18_528 - 9_312  # less the Conv1d on mels and the Linear behind it, never used


# ---- the five templates at tiny size


def test_audio_resnet(train):
    run = train("emotion-audio-resnet", *MEL)
    assert run.notes["learning"] == {"train": 12_785_224} and parts(run)["total"] == 12_785_224


def test_gated_baseline_on_frozen_wavlm(train, wavlm):
    run = train("emotion-wavlm-gated", *WAVLM, *VIDEO, f"model.init.'encoders.audio'={wavlm.folder}")
    assert run.notes["learning"] == {"train": parts(run)["total"] - parts(run)["encoders.audio"]}
    assert len(equal_stages(run, wavlm, "audio")) == 1 + LAYERS


def test_wavlm_in_two_stages(wavlm):
    head = parts(wavlm)["heads.emotion.audio"]
    assert wavlm.notes["learning"] == {"head": head, "unfreeze": head + last_stages(wavlm, "audio", 2)}


@pytest.mark.parametrize("name", WARM)
def test_warm_started_fusion_in_two_stages(train, wavlm, video, warm, name):
    run = train(name, *warm)
    fusion = parts(run)["total"] - parts(run)["encoders.audio"] - parts(run)["encoders.video"]
    freed = last_stages(run, "audio", 2) + last_stages(run, "video", 1)
    assert run.notes["learning"] == {"fusion": fusion, "unfreeze": fusion + freed}
    assert equal_stages(run, wavlm, "audio") >= {str(stage) for stage in range(1 + LAYERS - 2)}
    assert equal_stages(run, video, "video") >= {"0", "1", "2", "3"}


def test_what_is_unfrozen_moves_and_nothing_else(train, wavlm, video, warm):
    run = train("emotion", *warm, epochs={"fusion": 0})  # so that the second phase has no earlier state to keep
    assert equal_stages(run, wavlm, "audio") == {str(stage) for stage in range(1 + LAYERS - 2)}
    assert equal_stages(run, video, "video") == {"0", "1", "2", "3"}


def test_the_fusion_phase_leaves_both_encoders(train, wavlm, video, warm):
    run = train("emotion-xattn", *warm, "model.mix.0.dim=8", "model.mix.0.heads=2", epochs={"unfreeze": 0})
    assert len(equal_stages(run, wavlm, "audio")) == 1 + LAYERS and len(equal_stages(run, video, "video")) == 5


# ---- nothing of the originals' command lines is passed over in silence

FLAGS = re.findall(
    r"--\w+",
    """
--data_root --num_classes --fusion --epochs --batch_size --frames --lr --seed --split_mode --train_actors --val_actors --test_actors
--train_ratio --val_ratio --no_pretrained_video --use_cosine_annealing --cosine_stage2_only --wandb --xattn_head --xattn_d_model
--xattn_heads --xattn_attn_dropout --xattn_stochastic_depth --xattn_use_emotion_prior --xattn_emotion_prior_dim
--xattn_emotion_prior_hidden_dim --xattn_emotion_prior_dropout --temporal_pooling --temporal_num_heads --temporal_num_layers
--temporal_dropout --label_smoothing --audio_n_mels --fusion_align_mode --fusion_align_dim --fusion_align_temperature
--fusion_align_weight --weight_decay --early_stopping_patience --use_resnet_audio --two_stage_training --use_wavlm --wavlm_stage
--backbone_lr --stage1_epochs --audio_backbone_lr --video_backbone_lr --fusion_unfreeze_wavlm_layers --fusion_unfreeze_video_blocks
--fusion_unfreeze_audio --no_fusion_unfreeze_audio --audio_ckpt --video_ckpt --use_face_crop --no_face_crop --num_workers
""",
)
COUGH_FLAGS = re.findall(
    r"--\w+",
    """
--data_dir --source_domain --target_domain --out --num_class --backbone --pretrained_model --cur_stage --skip_stage1 --stage1_model_path
--epochs --lr --wd --early_stopping_patience --finetune_epoch --finetune_lr --finetune_wd --label_smooth --distill_weight
--momentum_update --center_momentum --apply_center --stage2_ce_conf_thresh --stage2_ce_conf_thresh_pos --stage2_ce_conf_thresh_neg
--distill_temperature --kd_neg_margin --teacher_ema_warmup --distill_weight_high --distill_weight_low --use_kd_cosine_decay
--disable_label_smoothing_stage2 --enable_label_smoothing_stage2 --scan_threshold_after_stage2 --no_scan_threshold
--target_recall_threshold --apply_temperature_scaling --apply_prior_shift --source_prior --target_prior --plot_pr_curve
--plot_score_histogram --window_size --hop_size --batch_size --test_batch_size --workers --seed --gpu --use_weighted_sampler
--no_weighted_sampler --use_weighted_sampler_stage2 --use_focal_loss --focal_gamma --focal_alpha --use_bce_pos_weight --bce_pos_weight
--use_logit_adjustment --logit_adj_tau --ablation_config --use_curriculum_learning --initial_confidence_threshold
--final_confidence_threshold --use_source_in_stage2 --source_target_ratio --label_ratio --use_sliding_window_filter
--filter_confidence_threshold --filter_window_size --filter_hop_size --filter_use_silence_removal --no_filter_silence_removal
--filter_silence_top_db --filter_keep_negatives --filter_neg_conf_threshold
""",
)
WILDLIFE_FLAGS = re.findall(
    r"--\w+",
    """
--config --resume --device --video_dir --audio_dir --output_dir --num_frames --resolution --sampling_strategy --num_workers
--file_extension --no_recursive --no_normalize --sample_rate --duration --n_mels --target_width
""",
)
WILDLIFE_KEYS = re.findall(
    r"\S+",
    """
paths.raw_data paths.processed_data paths.video_frames paths.mel_spectrograms paths.metadata paths.splits paths.results
species.classes species.num_classes species.class_samples behaviors.classes behaviors.num_classes
video.num_frames video.resolution video.fps video.sampling_strategy video.interpolation video.normalize.mean video.normalize.std
audio.sample_rate audio.duration audio.n_mels audio.n_fft audio.hop_length audio.win_length audio.window audio.fmin audio.fmax
audio.normalize augmentation.enable augmentation.tail_classes augmentation.head_classes random_horizontal_flip random_resized_crop
color_jitter random_erasing random_rotation spec_augment time_stretch pitch_shift add_noise center_crop
split.train_ratio split.val_ratio split.test_ratio split.random_seed split.stratify split.min_samples_per_class
sampling.strategy sampling.weight_calculation sampling.effective_num_beta
dataloader.batch_size dataloader.num_workers dataloader.prefetch_factor dataloader.pin_memory
statistics.generate_plots statistics.plot_format statistics.plot_dpi statistics.save_csv statistics.calculate_weights
logging.level logging.save_to_file logging.log_dir logging.log_format cache.enable cache.cache_dir cache.clear_on_start
visualization.show_samples visualization.num_samples_to_show visualization.save_augmented_samples
validation.check_file_integrity validation.check_missing_files validation.check_corrupted_videos validation.check_audio_length
performance.use_multiprocessing performance.chunk_size performance.memory_limit_gb
model.video_feature_dim model.audio_feature_dim model.fusion_hidden_dim model.fusion_num_layers model.fusion_num_heads model.dropout
model.video_encoder.model_name model.video_encoder.pretrained model.video_encoder.freeze_backbone
model.audio_encoder.model_name model.audio_encoder.pretrained model.audio_encoder.freeze_backbone model.audio_encoder.input_channels
training.num_epochs training.batch_size training.learning_rate training.weight_decay training.save_interval
""",
)
HOUSE = Path(__file__).parents[1]
PAGE = HOUSE / "docs" / "from-the-originals.md"
PAGES = [*(HOUSE / name for name in ("README.md", "README.zh.md", "CONTRIBUTING.md")), *sorted((HOUSE / "docs").glob("*.md"))]


def chapter(beginning: str, end: str = r"\Z") -> str:
    """The page from one heading to another."""
    found = re.search(rf"^## {beginning}.*?(?=^## {end}|\Z)", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert found
    return found[0]


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_of_the_emotion_original_is_documented(flag):
    assert re.search(rf"(?<![\w-]){flag}(?!\w)", chapter("Emotion", "Two-phase"))


@pytest.mark.parametrize("flag", COUGH_FLAGS)
def test_every_flag_of_the_cough_original_is_documented(flag):
    assert re.search(rf"(?<![\w-]){flag}(?!\w)", chapter("Cough", "Wildlife").partition("### Every flag")[2])


@pytest.mark.parametrize("flag", WILDLIFE_FLAGS)
def test_every_flag_of_the_wildlife_original_is_documented(flag):
    assert re.search(rf"(?<![\w-]){flag}(?!\w)", chapter("Wildlife").partition("### Every flag")[2])


@pytest.mark.parametrize("key", WILDLIFE_KEYS)
def test_every_key_of_the_wildlife_originals_settings_is_documented(key):
    rows = [line.split(" | ")[0] for line in chapter("Wildlife").partition("### Every key")[2].splitlines() if line.startswith("| `")]
    assert any(f"`{key}`" in row for row in rows)


def commands(page: Path = PAGE) -> list[list[str]]:
    """The words of every `crossfade …` in a page's fenced blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))[:1] == ["crossfade"]]


def parsed(words: list[str]) -> dict:
    """What the command line makes of a command, of which nothing is run."""
    group: Any = typer.main.get_command(app)
    before = words[1 : words.index(">") if ">" in words else None]
    while before and before[0] in getattr(group, "commands", {}):
        group, before = group.commands[before[0]], before[1:]
    with group.make_context(words[1], list(before)) as context:
        return context.params


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_documented_command_is_one(page):
    for words in commands(page):
        parsed(words)


def variants(given: dict) -> list[list[str]]:
    """The overrides of the run, or of each of an --over."""
    plans = [each.overrides for each in sweep.plan(given["over"])] if given["over"] else [()]
    own = [override for override in given["overrides"] or [] if not override.startswith("$")]  # a shell's variable may be anything
    return [[*own, *plan] for plan in plans]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_documented_training_resolves(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in commands(page):
        given = parsed(words) if words[1] == "train" else {}
        if given.get("recipe") in names():
            for overrides in variants(given):
                assert crossfade.load(given["recipe"], overrides, target=given["target"]), words


def test_every_command_of_the_originals_fits_its_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained = [words for words in commands() if words[1] == "train"]
    assert len(trained) >= 33
    for words in trained:
        assert words[3:5] == ["--data", "data"]
        for overrides in variants(parsed(words)):
            assert learning(words[2], *overrides), words
            assert build.phases(crossfade.load(words[2], overrides), CLASSES, COUNTS), words
