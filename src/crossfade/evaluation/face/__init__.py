"""How good a talking face is, from pictures made and pictures true. The literal table of this part: every number of a frame by name."""

from crossfade.evaluation.face.measure import Measure

MEASURES: dict[str, Measure] = {
    "psnr": Measure("PSNR, whole face", "dB", 2),
    "ssim": Measure("SSIM, whole face", "", 4),
    "mae": Measure("Mean error, whole face", "of 1", 4, higher_is_better=False),
    "mouth_psnr": Measure("PSNR, mouth", "dB", 2),
    "mouth_ssim": Measure("SSIM, mouth", "", 4),
    "mouth_mae": Measure("Mean error, mouth", "of 1", 4, higher_is_better=False),
    "temporal": Measure("Temporal error, whole face", "of 1", 4, higher_is_better=False),
    "mouth_temporal": Measure("Temporal error, mouth", "of 1", 4, higher_is_better=False),
    "sensitivity": Measure("Audio sensitivity", "of 1", 5),
    "lpips": Measure("LPIPS, whole face", "", 4, higher_is_better=False),
    "mouth_lpips": Measure("LPIPS, mouth", "", 4, higher_is_better=False),
    "sync_distance": Measure("SyncNet distance", "", 3, higher_is_better=False),
    "sync_confidence": Measure("SyncNet confidence", "", 3),
}
