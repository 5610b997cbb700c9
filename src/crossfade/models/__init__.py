"""Named tensors to named tensors. The literal tables of this island; `use: name` in a recipe picks from them."""

from crossfade.models.audio import audio_resnet18, light_cnn
from crossfade.models.bottleneck import bottleneck
from crossfade.models.depthwise_stack import depthwise_stack
from crossfade.models.face_unet import face_unet
from crossfade.models.fusion import concat, cross_attention, each, gated, mean
from crossfade.models.heads import identity, linear, mlp
from crossfade.models.image import efficientnet_b0, mobilenet_v2, resnet18, resnet34, resnet50
from crossfade.models.imported import ncnn
from crossfade.models.picture_cnn import picture_cnn
from crossfade.models.timm_image import efficientnet_lite0, mobilenet_v4, timm
from crossfade.models.token_transformer import token_transformer
from crossfade.models.vggish import vggish
from crossfade.models.video import frame_cnn
from crossfade.models.video_cnn3d import video_cnn3d
from crossfade.models.videomae import videomae
from crossfade.models.wavlm import wavlm

ENCODERS = {
    "light_cnn": light_cnn,
    "audio_resnet18": audio_resnet18,
    "vggish": vggish,
    "wavlm": wavlm,
    "frame_cnn": frame_cnn,
    "video_cnn3d": video_cnn3d,
    "videomae": videomae,
    "picture_cnn": picture_cnn,
    "depthwise_stack": depthwise_stack,
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v4": mobilenet_v4,
    "efficientnet_lite0": efficientnet_lite0,
    "efficientnet_b0": efficientnet_b0,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "timm": timm,
    "ncnn": ncnn,
}
FACES = {"face_unet": face_unet}
IMAGENET = (  # those that know `weights: imagenet`
    "mobilenet_v2",
    "mobilenet_v4",
    "efficientnet_lite0",
    "efficientnet_b0",
    "resnet18",
    "resnet34",
    "resnet50",
    "timm",
)
MIXERS = {"cross_attention": cross_attention, "bottleneck": bottleneck}
MERGERS = {"each": each, "mean": mean, "concat": concat, "gated": gated, "token_transformer": token_transformer}
HEADS = {"linear": linear, "mlp": mlp, "identity": identity}
