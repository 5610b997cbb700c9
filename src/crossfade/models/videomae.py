"""VideoMAE (arXiv 2203.12602) cut into stages: patches with their positions, then one stage a layer, all parts from transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from crossfade.clip import Spec, UserError
from crossfade.models.encoder import Encoder, Stage
from crossfade.models.masks import attendable, begin_zero
from crossfade.models.surgery import one_line, read_weights, start_from
from crossfade.models.video import IMAGENET_MEAN, IMAGENET_STD
from crossfade.models.wavlm import HUGGING_FACE_FILES, found_weights, is_hugging_face

if TYPE_CHECKING:
    from transformers import VideoMAEConfig, VideoMAEModel

    from crossfade.clip import Named

SHAPE = {  # our options -> transformers' settings
    "frames": "num_frames",
    "size": "image_size",
    "layers": "num_hidden_layers",
    "dim": "hidden_size",
    "heads": "num_attention_heads",
    "mlp": "intermediate_size",
    "patch": "patch_size",
    "tubelet": "tubelet_size",
}
REST = ("hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "layer_norm_eps", "qv_bias")
PART = "videomae."  # transformers' prefix of the encoder in a classifier and in a pre-trained model
Setting = bool | int | float | str


def videomae(
    *,
    weights: str | None = None,
    frames: int = 16,
    size: int = 224,
    layers: int = 12,
    dim: int = 768,
    heads: int = 12,
    mlp: int = 3072,
    patch: int = 16,
    tubelet: int = 2,
    norm: bool = False,
    config: dict[str, Setting] | None = None,
    checkpointing: bool = False,
    allow_missing: tuple[str, ...] = (),
) -> Encoder:
    """VideoMAE without its heads; 86,225,664 parameters as it is (`MCG-NJU/videomae-base-finetuned-kinetics`), in 1 + `layers` stages.

    (B, frames, 3, size, size) -> Tokens (B, frames / tubelet · (size / patch)², dim): 1,568 of 768. `weights`: a hub name or a folder in
    Hugging Face format, whose config.json then decides the shape, a file with transformers' or our names, a bundle, or null for a random
    start; of a classifier or a pre-trained model the encoder's part is taken. `norm` is one more stage, the final norm, which pre-trained
    models have and fine-tuned ones do not. `config` changes the rest of transformers' VideoMAEConfig (dropout, activation).
    `checkpointing` keeps one tensor a layer for the backward pass and computes the rest anew: less memory, a third more time. UserError
    where transformers is not installed, the weights cannot be had, or do not fit and `allow_missing` does not name the rest.
    """
    shape = {"frames": frames, "size": size, "layers": layers, "dim": dim, "heads": heads, "mlp": mlp, "patch": patch, "tubelet": tubelet}
    published = weights is not None and is_hugging_face(weights)
    settings = _of_folder(weights, shape, norm, config or {}) if weights and published else _of_options(shape, norm, config or {})
    entries = {} if weights is None else _entries(weights, published)
    settings.use_mean_pooling &= published or not _has_norm(entries)
    encoder = _staged(_net(settings), checkpointing)
    encoder.rebuild = _options(settings)
    named = {} if weights is None else {weights: lambda: entries}
    return start_from(encoder, weights, named=named, rename=_transformers_names(encoder), allow=allow_missing, spare=())


class Stem(nn.Module):
    """Tubelets to tokens, with their positions; a token is real where any frame of its tubelet is."""

    positions: Tensor

    def __init__(self, net: VideoMAEModel):
        super().__init__()
        self.patch_embeddings, self.tubelet = net.embeddings.patch_embeddings, net.config.tubelet_size
        self.register_buffer("positions", net.embeddings.position_embeddings, persistent=False)

    def forward(self, state: Named) -> Named:
        """{"x": (B, T, 3, H, W), "mask": (B, T)} -> {"x": (B, N, D), "mask": (B, N)}, N = steps · rows · columns"""
        x = self.patch_embeddings(state["x"]) + self.positions.type_as(state["x"])
        if "mask" not in state:
            return {**state, "x": x}
        steps = state["mask"].unflatten(1, (-1, self.tubelet)).any(2)
        return {**state, "x": x, "mask": steps.repeat_interleave(x.shape[1] // steps.shape[1], 1)}


class Layer(nn.Module):
    """One of transformers' layers, in which padding is never attended to. While `watched` is a list, each pass adds its probabilities."""

    def __init__(self, layer: nn.Module, settings: VideoMAEConfig, *, checkpointing: bool):
        super().__init__()
        self.layer: Any = layer
        self.heads, self.dropout = settings.num_attention_heads, settings.attention_probs_dropout_prob
        self.checkpointing = checkpointing
        self.watched: list[Tensor] | None = None  # of (B, heads, queries, keys)

    def forward(self, state: Named) -> Named:
        """{"x": (B, N, D), "mask": (B, N)} -> {"x": (B, N, D)}"""
        again = self.checkpointing and self.training and torch.is_grad_enabled()
        run: Callable[..., Any] = partial(checkpoint, self._run, use_reentrant=False) if again else self._run
        return {**state, "x": run(state["x"], state.get("mask"))}

    def _run(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, N, D), mask (B, N) -> (B, N, D)"""
        layer = self.layer
        x = layer.attention.output(self._attended(layer.layernorm_before(x), mask), x) + x
        return layer.output(layer.intermediate(layer.layernorm_after(x)), x)

    def _attended(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, N, D), mask (B, N) -> (B, N, D)"""
        parts = self.layer.attention.attention
        query, key, value = (part(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (parts.query, parts.key, parts.value))
        keys = None if mask is None else attendable(mask)[:, None, None]
        dropout = self.dropout if self.training else 0.0
        attend = F.scaled_dot_product_attention if self.watched is None else partial(watched_attention, self.watched)
        return attend(query, key, value, keys, dropout).transpose(1, 2).flatten(2)


def watched_attention(watched: list[Tensor], query: Tensor, key: Tensor, value: Tensor, keys: Tensor | None, dropout: float) -> Tensor:
    """(B, heads, N, d) each, keys (B, 1, 1, N) -> (B, heads, N, d) as scaled_dot_product_attention; the probabilities go into `watched`."""
    scores = query @ key.transpose(2, 3) * query.shape[3] ** -0.5
    probability = (scores if keys is None else scores.masked_fill(~keys, -torch.inf)).softmax(3)
    watched.append(probability)
    return F.dropout(probability, dropout) @ value


def _staged(net: VideoMAEModel, checkpointing: bool) -> Encoder:
    settings: Any = net.config
    stages = [Stem(net), *[Layer(layer, settings, checkpointing=checkpointing) for layer in net.encoder.layer]]
    stages += [] if net.layernorm is None else [Stage(net.layernorm)]
    size = settings.image_size
    fits = (settings.num_frames, 3, size, size)
    spec = Spec(fits, mean=IMAGENET_MEAN, std=IMAGENET_STD, size=size)
    grid = partial(_grid, tubelet=settings.tubelet_size, patch=settings.patch_size)
    return Encoder(stages, dim=settings.hidden_size, spec=spec, begin=partial(_begin, fits=fits), grid=grid).train()


def _grid(x: Tensor, *, tubelet: int, patch: int) -> tuple[int, int, int]:
    """(B, T, 3, H, W) -> (steps, rows, columns)"""
    return x.shape[1] // tubelet, x.shape[3] // patch, x.shape[4] // patch


def _begin(x: Tensor, mask: Tensor | None, *, fits: tuple[int, ...]) -> Named:
    if tuple(x.shape[1:]) != fits:
        found, (frames, _, size, _) = " × ".join(map(str, x.shape[1:])), fits
        raise UserError(f"videomae: frames of {found}; it takes {frames} × 3 × {size} × {size}: set `count: {frames}, size: {size}` there")
    return begin_zero(x, mask)


def _library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise UserError("videomae needs transformers, which is not installed: pip install crossfade[videomae]") from error
    return transformers


def _of_options(shape: Mapping[str, int], norm: bool, changes: Mapping[str, Setting]) -> VideoMAEConfig:
    theirs = {SHAPE[name]: value for name, value in shape.items()}
    return _settings(lambda: _library().VideoMAEConfig(**theirs, use_mean_pooling=not norm, **_known(changes)))


def _of_folder(weights: str, shape: Mapping[str, int], norm: bool, changes: Mapping[str, Setting]) -> VideoMAEConfig:
    """By config.json; UserError where an option asks for something else than that and than VideoMAE-base, so not by default."""
    library, file = _library(), Path(_had(weights, ("config.json",)))
    model = _read(lambda: library.VideoMAEConfig.get_config_dict(file.parent)[0].get("model_type"), file)
    if model != "videomae":
        raise UserError(f"weights: {weights}: config.json is of model_type {model!r}, not 'videomae'")
    settings = _settings(lambda: library.VideoMAEConfig.from_pretrained(file.parent, **_known(changes)))
    base = library.VideoMAEConfig()
    for name, value in shape.items():
        theirs = getattr(settings, SHAPE[name])
        if value not in (theirs, getattr(base, SHAPE[name])):
            raise UserError(f"videomae: {name}: {value}, but these weights have {theirs} (config.json of {weights}); leave it out")
    if norm and settings.use_mean_pooling:
        raise UserError(f"videomae: norm: true, but these weights have no final norm (config.json of {weights}); leave it out")
    return settings


def _settings(make: Callable[[], Any]) -> Any:
    """What was asked for, checked; UserError in one line where it cannot be built."""
    settings = _read(make, "config")
    for name in ("size", "patch"):
        sides = getattr(settings, SHAPE[name])
        sides = {sides} if isinstance(sides, int) else set(sides)
        if len(sides) != 1:
            raise UserError(f"videomae: {SHAPE[name]} {sorted(sides)}; only squares fit")
        setattr(settings, SHAPE[name], sides.pop())
    if settings.num_channels != 3:
        raise UserError(f"videomae: num_channels {settings.num_channels}; only 3, red, green and blue, fit")
    low = next((name for name, theirs in SHAPE.items() if getattr(settings, theirs) < 1), None)
    if low:
        raise UserError(f"videomae: {low}: {getattr(settings, SHAPE[low])}; at least 1 is needed")
    _check_multiple("frames", settings.num_frames, "tubelet", settings.tubelet_size)
    _check_multiple("size", settings.image_size, "patch", settings.patch_size)
    _check_multiple("dim", settings.hidden_size, "heads", settings.num_attention_heads)
    return settings


def _check_multiple(name: str, value: int, of: str, unit: int) -> None:
    if value % unit:
        near = [each for each in (value // unit * unit, -(-value // unit) * unit) if each]
        raise UserError(f"videomae: {name}: {value} is no multiple of {of}: {unit}; {' or '.join(map(str, near))} would fit")


def _known(changes: Mapping[str, Setting]) -> Mapping[str, Setting]:
    for key in changes:
        if key not in REST:
            ours = next((f"; say `{name}:` beside config" for name, theirs in SHAPE.items() if theirs == key), "")
            raise UserError(f"videomae: config.{key} is not one of {', '.join(REST)}{ours}")
    return changes


def _read(make: Callable[[], Any], where: object) -> Any:
    try:
        return make()
    except UserError:
        raise
    except Exception as error:  # whatever fails here, the settings asked for it
        raise UserError(f"videomae: {where}: {one_line(error)}") from error


def _net(settings: VideoMAEConfig) -> VideoMAEModel:
    net = _read(lambda: _library().VideoMAEModel(settings), "config")
    if any(name.endswith("q_bias") for name, _ in net.named_parameters()):
        raise UserError(
            "videomae: this transformers keeps the biases of attention apart, which is too old: pip install -U crossfade[videomae]"
        )
    return net


def _options(settings: Any) -> dict[str, object]:
    """What builds this shape again where the folder or hub name it came from is gone."""
    base = _library().VideoMAEConfig()
    rest = {name: getattr(settings, name) for name in REST if getattr(settings, name) != getattr(base, name)}
    shape = {name: getattr(settings, theirs) for name, theirs in SHAPE.items()}
    return {**shape, "norm": not settings.use_mean_pooling, "config": rest or None}


def _entries(weights: str, published: bool) -> Named:
    """The tensors by name, the encoder's without their prefix; a classifier's or a decoder's keep theirs, to be listed as left over."""
    entries = read_weights(Path(_had(weights, HUGGING_FACE_FILES) if published else weights))
    return {name.removeprefix(PART): tensor for name, tensor in entries.items()}


def _had(name: str, files: tuple[str, ...]) -> str:
    _library()
    try:
        return found_weights(name, files)
    except UserError as error:
        raise UserError(f"{error}, or use its small stand-in, `use: video_cnn3d`") from error


def _has_norm(entries: Named) -> bool:
    return any(name.split(".")[-2:] == ["layernorm", "weight"] for name in entries)


def _transformers_names(encoder: Encoder) -> dict[str, str]:
    """transformers' prefixes -> ours, with the names that biases have in its files."""
    layers = [index for index, stage in enumerate(encoder.stages) if isinstance(stage, Layer)]
    names = {f"encoder.layer.{index - 1}.": f"stages.{index}.layer." for index in layers}
    for kind, part in (("q_bias", "query.bias"), ("v_bias", "value.bias")):
        names |= {f"encoder.layer.{at - 1}.attention.attention.{kind}": f"stages.{at}.layer.attention.attention.{part}" for at in layers}
    top = f"stages.{len(layers) + 1}.body." if len(encoder.stages) > len(layers) + 1 else "layernorm."
    return {"embeddings.": "stages.0.", "layernorm.": top, **names}
