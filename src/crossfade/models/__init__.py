"""Named tensors to named tensors. The literal tables of this island; `use: name` in a recipe picks from them."""

from crossfade.models.audio import audio_resnet18, light_cnn
from crossfade.models.fusion import concat, cross_attention, each, gated, mean
from crossfade.models.heads import linear, mlp
from crossfade.models.video import frame_cnn, mobilenet_v2, resnet18
from crossfade.models.wavlm import wavlm

ENCODERS = {
    "light_cnn": light_cnn,
    "audio_resnet18": audio_resnet18,
    "wavlm": wavlm,
    "resnet18": resnet18,
    "mobilenet_v2": mobilenet_v2,
    "frame_cnn": frame_cnn,
}
MIXERS = {"cross_attention": cross_attention}
MERGERS = {"each": each, "mean": mean, "concat": concat, "gated": gated}
HEADS = {"linear": linear, "mlp": mlp}
