"""Disk to named tensors. The literal tables of this island; `use: name` in a recipe picks from them."""

from crossfade.data.augment import blur, darken, noise_at_snr, sensor_noise, spectrogram_masks
from crossfade.data.files import manifest, tree
from crossfade.data.images import any_pictures, cifar, idx, scikit_digits
from crossfade.data.ravdess import ravdess
from crossfade.data.sounding import gain, pitch_shift, shift
from crossfade.data.streams import frames, image, log_mel, waveform
from crossfade.data.warp import affine, crop, elastic, erase, flip, jitter

CORPORA = {
    "ravdess": ravdess,
    "manifest": manifest,
    "tree": tree,
    "pictures": any_pictures,
    "idx": idx,
    "cifar": cifar,
    "scikit_digits": scikit_digits,
}
STREAMS = {"waveform": waveform, "log_mel": log_mel, "frames": frames, "image": image}
AUGMENTATIONS = {
    "noise_at_snr": noise_at_snr,
    "gain": gain,
    "pitch_shift": pitch_shift,
    "shift": shift,
    "spectrogram_masks": spectrogram_masks,
    "blur": blur,
    "darken": darken,
    "sensor_noise": sensor_noise,
    "affine": affine,
    "flip": flip,
    "elastic": elastic,
    "erase": erase,
    "crop": crop,
    "jitter": jitter,
}
