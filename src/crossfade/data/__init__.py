"""Disk to named tensors. The literal tables of this island; `use: name` in a recipe picks from them."""

from crossfade.data.augment import blur, darken, noise_at_snr, sensor_noise, spectrogram_masks
from crossfade.data.files import manifest, tree
from crossfade.data.images import any_pictures, cifar, idx, scikit_digits
from crossfade.data.log_mel import log_mel
from crossfade.data.mammalps import mammalps
from crossfade.data.ravdess import ravdess
from crossfade.data.sounding import gain, pitch_shift, shift, time_stretch, white_noise
from crossfade.data.streams import frames, image, waveform
from crossfade.data.tensors import stored_frames, stored_mel
from crossfade.data.warp import affine, centre_crop, crop, elastic, erase, flip, jitter
from crossfade.data.wildlife import wildlife

CORPORA = {
    "ravdess": ravdess,
    "manifest": manifest,
    "tree": tree,
    "pictures": any_pictures,
    "idx": idx,
    "cifar": cifar,
    "scikit_digits": scikit_digits,
    "wildlife": wildlife,
    "mammalps": mammalps,
}
STREAMS = {
    "waveform": waveform,
    "log_mel": log_mel,
    "frames": frames,
    "image": image,
    "stored_frames": stored_frames,
    "stored_mel": stored_mel,
}
AUGMENTATIONS = {
    "noise_at_snr": noise_at_snr,
    "gain": gain,
    "pitch_shift": pitch_shift,
    "shift": shift,
    "time_stretch": time_stretch,
    "white_noise": white_noise,
    "spectrogram_masks": spectrogram_masks,
    "blur": blur,
    "darken": darken,
    "sensor_noise": sensor_noise,
    "affine": affine,
    "flip": flip,
    "elastic": elastic,
    "erase": erase,
    "crop": crop,
    "centre_crop": centre_crop,
    "jitter": jitter,
}
