"""Heat over pictures and over a spectrogram: arrays to images that stand in the page itself."""

from __future__ import annotations

import io

import numpy as np
from markupsafe import Markup

from crossfade.evaluation.exhibits import EMBED

SIDE = 224  # pixels of a frame's longer side
STRONGEST = 0.6  # how much of a picture the strongest heat covers
FRAMES = 8  # of a clip that are shown
HEAT = np.array([[20, 30, 110], [190, 40, 110], [250, 140, 40], [255, 240, 130]], dtype=np.float64)  # from little to much
TALL, LONG = 200, 640  # pixels of a spectrogram


def over_frames(frames: np.ndarray, relevance: np.ndarray) -> list[dict[str, Markup]]:
    """uint8 (T, 3 or 1, H, W), (steps, rows, columns) -> up to 8 frames, plain and with heat of one scale for all of them."""
    chosen = np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int)
    heat = relative(relevance)
    return [_pair(_colour(frames[i]), heat[i * len(heat) // len(frames)]) for i in chosen]


def over_spectrogram(spectrogram: np.ndarray, relevance: np.ndarray, wav: bytes = b"") -> dict[str, Markup]:
    """(bands, columns), low bands first, (1, rows, columns) or (rows, columns) -> plain and with heat, low at the bottom; the sound."""
    low, high = np.percentile(spectrogram, [1, 99.5])
    grey = np.clip((spectrogram - low) / max(high - low, 1e-12), 0, 1)
    picture = np.repeat((255 * grey[::-1]).astype(np.uint8)[..., None], 3, axis=2)
    heat = relative(relevance).reshape(relevance.shape[-2:])[::-1]
    return {**_pair(resized(picture, TALL, LONG), heat, "JPEG"), "sound": EMBED["audio"](wav) if wav else Markup("")}


def relative(relevance: np.ndarray) -> np.ndarray:
    """0 or more -> 0..1 of the strongest (the 99.5th percentile, so that one token cannot hide the others)."""
    strongest = np.percentile(relevance, 99.5) if relevance.size else 0.0
    return np.clip(relevance / strongest, 0, 1) if strongest > 0 else np.zeros(relevance.shape)


def blended(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3), heat 0..1 (H, W) -> uint8 (H, W, 3): unchanged where there is none."""
    place = heat * (len(HEAT) - 1)
    colour = np.stack([np.interp(place, range(len(HEAT)), HEAT[:, channel]) for channel in range(3)], axis=-1)
    cover = STRONGEST * heat[..., None]
    return ((1 - cover) * picture + cover * colour).round().astype(np.uint8)


def resized(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 (H, W, 3) or float (H, W) -> the same kind in another size."""
    from PIL import Image

    image = Image.fromarray(picture if picture.dtype == np.uint8 else picture.astype(np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def _pair(picture: np.ndarray, heat: np.ndarray, kind: str = "JPEG") -> dict[str, Markup]:
    hot = blended(picture, np.clip(resized(heat, *picture.shape[:2]), 0, 1))
    return {"plain": _embedded(picture, kind), "hot": _embedded(hot, kind)}


def _colour(frame: np.ndarray) -> np.ndarray:
    """uint8 (3 or 1, H, W) -> (H, W, 3), its longer side SIDE."""
    picture = np.ascontiguousarray(np.broadcast_to(frame, (3, *frame.shape[1:])).transpose(1, 2, 0))
    scale = SIDE / max(picture.shape[:2])
    return resized(picture, round(picture.shape[0] * scale), round(picture.shape[1] * scale))


def _embedded(picture: np.ndarray, kind: str) -> Markup:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, quality=82)
    return EMBED["image"](file.getvalue())
