"""WavLM (arXiv 2110.13900) cut into stages: the stem on the waveform, then one stage a transformer layer, all parts from transformers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from crossfade.clip import Spec, UserError
from crossfade.models.encoder import Encoder
from crossfade.models.masks import attendable, begin_zero
from crossfade.models.surgery import READERS, one_line, start_from

if TYPE_CHECKING:
    from transformers import WavLMModel

    from crossfade.clip import Named

RATE = 16_000  # hertz
HUGGING_FACE_FILES = ("model.safetensors", "pytorch_model.bin")  # the first that is there
Setting = bool | int | float | str | list[int]


def wavlm(
    *,
    weights: str | None = None,
    config: dict[str, Setting] | None = None,
    normalize: bool = False,
    allow_missing: tuple[str, ...] = (),
) -> Encoder:
    """WavLM on the waveform; 94,381,936 parameters as `microsoft/wavlm-base`, which is also the default `config`.

    (B, N) samples at 16 kHz -> Tokens (B, (N − 80) // 320, hidden size). `weights`: a hub name, a folder in Hugging Face format, a file
    with transformers' or our names, a bundle, or null for a random start; `config` changes transformers' WavLMConfig. `normalize` gives
    each clip zero mean and unit variance, as wavlm-large wants and wavlm-base does not. While it trains, spans of time are masked
    (`apply_spec_augment`, `mask_time_*` of the config), but no layers or features are dropped. UserError where transformers is not
    installed, the weights cannot be had, or do not fit and `allow_missing` does not name the rest.
    """
    net, source = _net(weights, config or {}), weights
    if weights is not None and is_hugging_face(weights):
        source = found_weights(weights, HUGGING_FACE_FILES)
    encoder = _staged(net, normalize)
    encoder.rebuild = {"config": _changes(net.config)}
    return start_from(encoder, source, rename=_transformers_names(encoder), allow=allow_missing, label=weights or "")


class Stem(nn.Module):
    """Waveform to the input of the first layer: convolutions, projection, positions; time masks while training."""

    masked_spec_embed: Any  # a parameter, or None where the config masks nothing

    def __init__(self, net: WavLMModel, norm: nn.Module):
        super().__init__()
        self.feature_extractor, self.feature_projection = net.feature_extractor, net.feature_projection
        self.register_parameter("masked_spec_embed", getattr(net, "masked_spec_embed", None))
        self.pos_conv_embed, self.layer_norm, self.dropout = net.encoder.pos_conv_embed, norm, net.encoder.dropout
        self.config = net.config

    def forward(self, state: Named) -> Named:
        """{"x": (B, N), "mask": (B, N)} -> {"x": (B, T, D), "mask": (B, T)}"""
        x, _ = self.feature_projection(self.feature_extractor(state["x"]).transpose(1, 2))
        if "mask" in state:
            lengths = token_count(state["mask"].sum(1), self.config)
            state = {**state, "mask": torch.arange(x.shape[1], device=x.device) < lengths[:, None]}
        x = self._hide_spans(x, state.get("mask"))
        x = x.masked_fill(~state["mask"][:, :, None], 0.0) if "mask" in state else x
        return {**state, "x": self.dropout(self.layer_norm(x + self.pos_conv_embed(x)))}

    def _hide_spans(self, x: Tensor, mask: Tensor | None) -> Tensor:
        config = self.config
        if not self.training or not config.apply_spec_augment or config.mask_time_prob == 0:
            return x
        lengths = torch.full((len(x),), x.shape[1], device=x.device) if mask is None else mask.sum(1)
        spans = span_mask(lengths, x.shape[1], config.mask_time_prob, config.mask_time_length, config.mask_time_min_masks)
        return torch.where(spans[:, :, None], self.masked_spec_embed.to(x.dtype), x)


class Layer(nn.Module):
    """One transformer layer. The first makes the position bias, which the state then carries, one number a head and distance."""

    def __init__(self, layer: nn.Module, norm: nn.Module):
        super().__init__()
        self.layer: Any = layer
        self.layer_norm = norm

    def forward(self, state: Named) -> Named:
        """{"x": (B, T, D), "mask": (B, T), "bias": (B, heads, 2T − 1) after the first layer} -> the same with "bias" """
        x = state["x"]
        bias = state["bias"] if "bias" in state else by_distance(self.layer.attention.compute_bias(x.shape[1], x.shape[1]), x.shape[0])
        attended = {"attention_mask": attendable(state["mask"])} if "mask" in state else {}
        x = self.layer(x, position_bias=by_pair(bias), **attended)[0]
        return {**state, "x": self.layer_norm(x), "bias": bias}


def by_distance(bias: Tensor, batch: int) -> Tensor:
    """(heads, T, T), which depends on j − i alone -> (batch, heads, 2T − 1) over j − i = 1 − T … T − 1; a T-th of the room to store."""
    return torch.cat([bias[:, -1], bias[:, 0, 1:]], -1).expand(batch, -1, -1)


def by_pair(bias: Tensor) -> Tensor:
    """(B, heads, 2T − 1) -> (B · heads, T, T), the form that transformers' layers take."""
    steps = (bias.shape[-1] + 1) // 2
    if torch.compiler.is_exporting():  # ONNX has no windows of a free length
        step = torch.arange(steps, device=bias.device)
        return bias[:, :, step - step[:, None] + steps - 1].flatten(0, 1)
    return bias.unfold(-1, steps, 1).flip(-2).flatten(0, 1)


def token_count(samples: Tensor, config: Any) -> Tensor:
    """Real samples (B,) -> real tokens (B,): those whose whole field of view is real, at least one where any sample is."""
    count = samples
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        count = torch.div(count - kernel, stride, rounding_mode="floor") + 1
    return torch.maximum(count, (samples > 0).long())


def span_mask(lengths: Tensor, steps: int, fraction: float, length: int, least: int) -> Tensor:
    """Random spans over the real steps (arXiv 1904.08779; wav2vec 2.0's numbers): lengths (B,) -> (B, steps) bool, True = hidden.

    The number of spans is fraction · steps / length, rounded at random, at least `least`; spans may overlap.
    """
    count = max(int(fraction * steps / length + torch.rand(()).item()), least)
    room = (lengths - length + 1).clamp(min=1)[:, None]
    starts = (torch.rand(len(lengths), count, device=lengths.device) * room).long()[:, :, None]
    positions = torch.arange(steps, device=lengths.device)
    return ((positions >= starts) & (positions < starts + length)).any(1)


def _staged(net: WavLMModel, normalize: bool) -> Encoder:
    """transformers' model as stages; its norm sits before the layers, or after them in the stable-norm (large) form."""
    before, after = (nn.Identity(), net.encoder.layer_norm) if net.config.do_stable_layer_norm else (net.encoder.layer_norm, nn.Identity())
    if net.adapter is not None:
        raise UserError("wavlm: config.add_adapter: adapters are not part of the staged encoder; set it to false")
    layers = net.encoder.layers
    norms = [*[nn.Identity()] * (len(layers) - 1), after]
    stages = [Stem(net, before), *[Layer(layer, norm) for layer, norm in zip(layers, norms, strict=True)]]
    begin = partial(_begin, normalize=normalize, least=_samples_for_one_token(net.config))
    return Encoder(stages, dim=net.config.hidden_size, spec=Spec((None,), rate=RATE), begin=begin).train()


def _begin(x: Tensor, mask: Tensor | None, *, normalize: bool, least: int) -> Named:
    if x.shape[1] < least:
        raise UserError(f"wavlm: a waveform of {x.shape[1]} samples; it needs at least {least} ({least / RATE * 1000:.0f} ms at 16 kHz)")
    state = begin_zero(x, mask)
    if not normalize:
        return state
    real = torch.ones_like(x) if mask is None else mask.to(x.dtype)
    count = real.sum(1, keepdim=True).clamp(min=1)
    centred = (state["x"] - state["x"].sum(1, keepdim=True) / count) * real
    return {**state, "x": centred / (centred.square().sum(1, keepdim=True) / count + 1e-7).sqrt()}  # 1e-7: Wav2Vec2FeatureExtractor's


def _samples_for_one_token(config: Any) -> int:
    samples = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples  # 400 for wavlm-base


def _library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise UserError("wavlm needs transformers, which is not installed: pip install crossfade[wavlm]") from error
    warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask")  # about transformers' own call, nothing to act on
    return transformers


def _net(weights: str | None, changes: Mapping[str, Setting]) -> WavLMModel:
    """transformers' model at random, by the default configuration or that of a hub name or Hugging Face folder, with changes."""
    library = _library()
    unknown = [key for key in changes if key not in vars(library.WavLMConfig())]
    if unknown:
        raise UserError(f"wavlm: config.{unknown[0]} is not a setting of transformers' WavLMConfig")
    folder = Path(found_weights(weights, ("config.json",))).parent if weights is not None and is_hugging_face(weights) else None
    try:
        settings = library.WavLMConfig.from_pretrained(folder, **changes) if folder else library.WavLMConfig(**changes)
        return library.WavLMModel(settings)
    except Exception as error:  # whatever fails here, the settings asked for it
        raise UserError(f"wavlm: config: {one_line(error)}") from error


def _changes(settings: Any) -> dict[str, object]:
    """What differs from WavLM-base: enough to rebuild this shape where the folder or hub name it came from is gone."""
    kinds = (bool, int, float, str, list)
    known = vars(_library().WavLMConfig())
    found = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.to_diff_dict().items()}
    shape = {name: value for name, value in found.items() if name in known and isinstance(value, kinds) and name != "transformers_version"}
    return {name: value for name, value in shape.items() if not isinstance(value, list) or all(isinstance(each, int) for each in value)}


def is_hugging_face(weights: str) -> bool:
    path = Path(weights)
    return (path / "config.json").exists() or (not path.exists() and path.suffix not in READERS)


def found_weights(name: str, files: tuple[str, ...]) -> str:
    """The first of these files in a folder, in the local cache or on the hub; UserError in one line where there is none."""
    from transformers.utils.hub import cached_file

    reasons = []
    for file in files:
        try:
            return str(cached_file(name, file))
        except (OSError, ValueError) as error:
            reasons.append(one_line(error))
    how = f"where there is a network `hf download {name}` and give that folder, or set `weights: null` to train from scratch"
    raise UserError(f"weights: {name}: neither here nor on the hub ({reasons[0]}); {how}")


def _transformers_names(encoder: Encoder) -> dict[str, str]:
    """transformers' prefixes -> ours, with the older names of the weight-normed convolution."""
    norm = next(name for name in encoder.state_dict() if re.fullmatch(r"stages\.\d+\.layer_norm\.weight", name))
    convolution = "stages.0.pos_conv_embed.conv."
    return {
        **{part: f"stages.0.{part}" for part in ("feature_extractor.", "feature_projection.", "masked_spec_embed")},
        "encoder.layer_norm.": norm.removesuffix("weight"),
        "encoder.pos_conv_embed.conv.": convolution,
        "encoder.pos_conv_embed.conv.weight_g": convolution + "parametrizations.weight.original0",
        "encoder.pos_conv_embed.conv.weight_v": convolution + "parametrizations.weight.original1",
        **{f"encoder.layers.{k}.": f"stages.{k + 1}.layer." for k in range(len(encoder.stages) - 1)},
    }
