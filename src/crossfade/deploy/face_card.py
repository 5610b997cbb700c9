"""What the model card of a talking face says: what it draws, of whom, how well, and what it may not be used for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

SHOWN = {"mouth_psnr": "mouth PSNR, dB", "mouth_ssim": "mouth SSIM", "psnr": "PSNR, dB", "ssim": "SSIM", "sensitivity": "audio sensitivity"}
Found = Mapping[str, Any]


def purpose(recipe: Found, notes: Found) -> Iterator[str]:
    """What it takes and gives."""
    model, size = recipe.get("model", {}), recipe.get("model", {}).get("size")
    yield f"It draws one person's mouth from the sound of speech: 25 pictures a second, faces of {size} × {size} pixels."
    yield ""
    kind = recipe.get("data", {}).get("features", {}).get("use")
    yield f"- It takes 20 rows of 40 ms of {model.get('features')} features of sound ({kind})."
    yield "- It takes a picture of the face, and the picture whose mouth is covered."
    total = sum(number for _, number in notes.get("parameters", []))
    yield f"- It has {total:,} parameters, {notes.get('multiply_adds', 0):,} multiply-adds a picture."
    yield "- **Only with the consent of the person whose face and voice it is.** What it makes is synthetic and has to be called so."


def data(notes: Found) -> Iterator[list[str]]:
    """Rows: side, clips, pictures."""
    for name, found in notes.get("counts", {}).items():
        yield [name, f"{found['clips']:,}", f"{found['frames']:,}"]


def quality(metrics: Found) -> Iterator[list[str]]:
    """Rows: what was judged, then each number with its interval."""
    for split in ("val", "test"):
        found = metrics.get(split, {})
        others = found.get("baselines", {}) if split == "test" else {}
        named = ({split: found} if found else {}) | {f"{split}, {other}": summary for other, summary in others.items()}
        for name, each in named.items():
            yield [name, *(_value(each, metric) for metric in SHOWN), f"{each['n_frames']:,}", f"{each['n_groups']:,}"]


def _value(found: Found, metric: str) -> str:
    value, ends = found.get(metric), (found.get("intervals") or {}).get(metric)
    if value is None:
        return ""
    return f"{value:.4g}" + (f" ({ends[0]:.4g} to {ends[1]:.4g})" if ends else " (no interval)")


def limits(notes: Found) -> Iterator[str]:
    """What bounds any claim."""
    yield from notes.get("warnings", [])
    yield "It knows one person in the light and the sitting of its video; of anyone else, or turned far away, nothing was measured."
    yield "It was judged on that person's own voice; how it moves to another voice or language was not measured."
    yield "PSNR and SSIM say how near pictures are, not how natural they look or whether lips can be read from them."
