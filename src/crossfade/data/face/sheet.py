"""A contact sheet: a few crops of every clip with the mask's rectangle, to see at a glance whether faces and masks sit right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from crossfade.data.face.crop import Crop
from crossfade.data.face.prepared import Talk

ROWS, CROPS_A_ROW = 24, 8
SIDE, CAPTION, LETTERS = 112, 18, 12  # pixels: of a crop, of the line above a row, of its letters
PAPER, INK, MASK, DROPPED = (255, 255, 255), (30, 30, 30), (0, 230, 118), (220, 30, 30)


def contact_sheet(talks: Sequence[Talk], crop: Crop, path: Path) -> None:
    """Write a JPEG: a row a clip, of more than 24 clips 24 spread over them; crops that are not kept have a red frame."""
    shown = _spread(len(talks), ROWS)
    sheet = Image.new("RGB", (CROPS_A_ROW * SIDE, len(shown) * (SIDE + CAPTION)), PAPER)
    for row, number in enumerate(shown):
        _row(sheet, row * (SIDE + CAPTION), talks[number], f"clip {number + 1} of clips.csv", crop)
    temporary = path.with_name(f".{path.name}")
    sheet.save(temporary, format="JPEG", quality=88)
    temporary.replace(path)


def _row(sheet: Image.Image, top: int, talk: Talk, number: str, crop: Crop) -> None:
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(LETTERS)
    name = talk.clip if talk.clip.isascii() else number  # Pillow's font has few letters beyond these
    pen.text((4, top + 2), f"{name}   {int(talk.kept.sum())} of {len(talk)} pictures", fill=INK, font=font)
    for place, frame in enumerate(_spread(len(talk), CROPS_A_ROW)):
        sheet.paste(_marked(talk.faces[frame], crop, kept=bool(talk.kept[frame])), (place * SIDE, top + CAPTION))


def _marked(face: np.ndarray, crop: Crop, *, kept: bool) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(face))
    pen, (x, y, width, height) = ImageDraw.Draw(picture), crop.mask
    left, top = crop.edge + x, crop.edge + y
    pen.rectangle((left, top, left + width - 1, top + height - 1), outline=MASK)
    if not kept:
        pen.rectangle((0, 0, crop.outer - 1, crop.outer - 1), outline=DROPPED, width=max(crop.outer // 28, 3))
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _spread(count: int, most: int) -> list[int]:
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))
