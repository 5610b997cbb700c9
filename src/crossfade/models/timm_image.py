"""Any picture network of timm by its name, cut into stages wherever its forward allows it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from crossfade.clip import Spec, UserError
from crossfade.models.cut import Uncuttable, answer, cut
from crossfade.models.encoder import Encoder
from crossfade.models.image import StemStride, picture_spec, set_stem_stride, started
from crossfade.models.masks import begin_pictures
from crossfade.models.surgery import Adapt, one_line
from crossfade.models.video import PerFrame

if TYPE_CHECKING:
    from crossfade.clip import Named

Setting = bool | int | float | str | list[int] | None
SMALL = 64  # pixels: enough for most networks to try them with
ELSEWHERE = {  # options of timm.create_model that a recipe says otherwise
    "pretrained": "`weights` says that",
    "pretrained_cfg": "`name` says that, with a tag",
    "checkpoint_path": "`weights` says that",
    "in_chans": "`channels` says that",
    "num_classes": "the classifier is left out; `model.heads` says that",
    "features_only": "an encoder gives one vector a picture",
    "out_indices": "an encoder gives one vector a picture",
    "scriptable": "an encoder is not scripted",
    "exportable": "an encoder is not scripted",
}


class Pooled(nn.Module):
    """timm's network up to what its classifier would see."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net: Any = net

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D)"""
        return self.net.forward_head(self.net.forward_features(x), pre_logits=True)


def timm(
    *,
    name: str,
    weights: str | None = None,
    options: dict[str, Setting] | None = None,
    channels: int = 3,
    adapt: Adapt = "sum",
    stem_stride: StemStride = None,
    allow_missing: tuple[str, ...] = (),
) -> Encoder:
    """timm's network of this name, such as `vit_tiny_patch16_224` or `resnet50.a1_in1k`, without its classifier, on each frame.

    (B, T, channels, H, W), or with one channel a spectrogram (B, 1, M, T) as one frame -> Tokens (B, T, D). `weights`: "imagenet" (those
    that timm publishes under the name), a file with timm's or our names, a bundle, or null for a random start. `options` go to
    timm.create_model, such as `img_size: 32`; without a `drop_…` among them nothing is dropped at random inside. Stages are a stem and
    the network's blocks, where it can be cut; else it is one, and `note` says why. `channels`, `adapt` and `stem_stride` as of `resnet18`.
    UserError for a name or an option that timm does not know, and where weights cannot be had or do not fit.
    """
    options = options or {}
    net = _made(name, options, channels)
    set_stem_stride(net, stem_stride, what=name)
    if not any("drop" in option for option in options):
        _drop_nothing(net)
    spec, pooled = _spec(net, options, channels), Pooled(net)
    own = set(pooled.state_dict())
    stages, dim, note = _staged(pooled, spec, name)
    encoder = Encoder([PerFrame(stage) for stage in stages], dim=dim, spec=spec, begin=begin_pictures, note=note)
    rename = {ours.split(".body.net.")[1]: ours for ours in encoder.state_dict() if ours.split(".body.")[1] in own}
    spare = _classifier(net)
    return started(encoder, weights, lambda: _published(name, options), rename, adapt=adapt, allow=allow_missing, spare=spare)


def mobilenet_v4(
    *,
    weights: str | None = None,
    channels: int = 3,
    adapt: Adapt = "sum",
    stem_stride: StemStride = None,
    allow_missing: tuple[str, ...] = (),
) -> Encoder:
    """timm's small convolutional MobileNetV4 (arXiv 2404.10518); 2,493,024 parameters, 2,492,448 with one channel, in 16 stages.

    (B, T, channels, H, W) -> Tokens (B, T, 1280). Options as of `timm`.
    """
    given: dict[str, Any] = {"channels": channels, "adapt": adapt, "stem_stride": stem_stride, "allow_missing": allow_missing}
    return timm(name="mobilenetv4_conv_small", weights=weights, **given)


def efficientnet_lite0(
    *,
    weights: str | None = None,
    channels: int = 3,
    adapt: Adapt = "sum",
    stem_stride: StemStride = None,
    allow_missing: tuple[str, ...] = (),
) -> Encoder:
    """timm's EfficientNet-Lite0 with TensorFlow's padding; 3,371,008 parameters in 18 stages, made for pixels in −1 … 1.

    (B, T, channels, H, W) -> Tokens (B, T, 1280). Options as of `timm`.
    """
    given: dict[str, Any] = {"channels": channels, "adapt": adapt, "stem_stride": stem_stride, "allow_missing": allow_missing}
    return timm(name="tf_efficientnet_lite0", weights=weights, **given)


def _made(name: str, options: Mapping[str, Setting], channels: int) -> Any:
    """timm's network at random, without its classifier."""
    import timm as library

    if ":" in name or not library.is_model(name):
        close = difflib.get_close_matches(name, library.list_models(), n=3, cutoff=0.0)
        raise UserError(f"name: timm has no {name!r}; nearest are {', '.join(close)}")
    for option in options:
        if option in ELSEWHERE:
            raise UserError(f"options.{option}: not to be given here: {ELSEWHERE[option]}")
    try:
        return library.create_model(name, num_classes=0, in_chans=channels, **options)  # type: ignore[arg-type]
    except Exception as error:  # whatever fails here, the name or the options asked for it
        raise UserError(f"timm: {name} with options {dict(options)}: {one_line(error)}") from error


def _drop_nothing(net: nn.Module) -> None:
    """Some of timm's networks drop activations or whole blocks by default, and not all have an option for it."""
    for module in net.modules():
        names = ("p",) if isinstance(module, nn.modules.dropout._DropoutNd) else ("drop_rate", "drop_prob", "drop_path_rate")
        for name in names:
            if isinstance(vars(module).get(name), float):
                setattr(module, name, 0.0)


def _spec(net: Any, options: Mapping[str, Any], channels: int) -> Spec:
    """What timm says of the network's pictures; the only side it takes, where its positions are counted."""
    known, patches = net.pretrained_cfg, getattr(net, "patch_embed", None)
    given = options.get("img_size")
    size = given if isinstance(given, int) else (given or known["input_size"])[-1]
    rigid = getattr(patches, "strict_img_size", known.get("fixed_input_size", False))
    return picture_spec(channels, known["mean"], known["std"], size, size if rigid else None)


def _staged(net: Pooled, spec: Spec, name: str) -> tuple[list[Any], int, str]:
    """Stages, width, and a note where there is but one stage."""
    from timm.layers._fx import get_notrace_functions

    shape, dim = _tried(net, spec, name)
    try:
        return cut(net, shape, whole=tuple(get_notrace_functions())), dim, ""
    except Uncuttable as reason:
        return [net], dim, f"{name} is one stage, frozen or trained as a whole, for {one_line(reason)}"


def _tried(net: Pooled, spec: Spec, name: str) -> tuple[tuple[int, int, int], int]:
    """The shape of a picture that the network takes, as small as can be, and the width of its answer."""
    _, channels, side, _ = spec.shape
    sides = [side] if side else sorted({SMALL, spec.size or SMALL})
    for side in sides:
        shape = (channels or 3, side, side)
        try:
            found = answer(net, shape)
        except Exception as error:  # from inside a network that was changed by stem_stride or options, or wants larger pictures
            if side == sides[-1]:
                raise UserError(f"timm: {name} does not run on a picture of {side} pixels with these options: {one_line(error)}") from error
            continue
        if found.ndim != 2:
            raise UserError(f"timm: {name} gives {tuple(found.shape[1:])} for a picture, not one vector; choose another")
        return shape, found.shape[1]
    raise AssertionError("sides is never empty")


def _classifier(net: Any) -> tuple[str, ...]:
    """The beginnings of the names of what we leave out."""
    named = net.pretrained_cfg.get("classifier") or ()
    return tuple(f"{part}." for part in ([named] if isinstance(named, str) else named))


def _published(name: str, options: Mapping[str, Any]) -> Named:
    """The state that timm publishes under a name, made to fit the options; UserError where it cannot be had."""
    import timm as library

    known = library.get_pretrained_cfg(name)
    if known is None or not known.has_weights:
        raise UserError(f"weights: imagenet: timm publishes none for {name}; give a file, or set `weights: null` to train from scratch")
    try:
        return dict(library.create_model(name, pretrained=True, **options).state_dict())
    except Exception as error:  # the network, the hub, the file: all say it in their own way
        what = f"{known.hf_hub_id or known.url} cannot be had ({one_line(error)})"
        how = "download that file elsewhere and give its path, or set `weights: null` to train from scratch"
        raise UserError(f"weights: imagenet: {what}; {how}") from error
