"""Disk to named tensors. The literal tables of this island; `use: name` in a recipe picks from them."""

from crossfade.data.augment import blur, darken, noise_at_snr, sensor_noise, spectrogram_masks
from crossfade.data.files import manifest, tree
from crossfade.data.ravdess import ravdess
from crossfade.data.streams import frames, image, log_mel, waveform

CORPORA = {"ravdess": ravdess, "manifest": manifest, "tree": tree}
STREAMS = {"waveform": waveform, "log_mel": log_mel, "frames": frames, "image": image}
AUGMENTATIONS = {
    "noise_at_snr": noise_at_snr,
    "spectrogram_masks": spectrogram_masks,
    "blur": blur,
    "darken": darken,
    "sensor_noise": sensor_noise,
}
