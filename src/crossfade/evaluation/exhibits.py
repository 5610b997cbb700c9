"""What can be heard and seen of clips in a report, embedded as long as the file stays small."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from crossfade.clip import UserError
from crossfade.evaluation.figures import tag
from crossfade.evaluation.views import Answer

MEDIA_BYTES = 2_600_000  # of base64 text in a report: the file stays under 3 MB, small enough for an e-mail
SMALL = 96  # pixels: a picture of a side up to this is enlarged without smoothing, so that its pixels can be seen
PNG = b"\x89PNG\r\n\x1a\n"
FULL = "left out to keep this file small"


@dataclass(frozen=True)
class Example:
    """What a person may hear or see of a clip.

    kind "audio": the bytes of a WAV file; "frames": those of a list of JPEGs; "image": those of one PNG or JPEG.
    """

    kind: str
    data: bytes | list[bytes]


@dataclass(frozen=True)
class Exhibit:
    """A judged clip with what can be heard and seen of it, or why that is not here."""

    row: Answer
    media: Markup
    said: str


Examples = Callable[[str], list[Example]]  # clip id -> what to hear and see of it


@dataclass
class Gallery:
    """Embeds clips one after another until `room` characters are used up."""

    examples: Examples | None
    room: int = MEDIA_BYTES

    def show(self, row: Answer) -> Exhibit:
        try:
            return self._hang(row, self.examples(row.clip) if self.examples else [])
        except UserError as error:
            return Exhibit(row, Markup(""), str(error))

    def stills(self, rows: Sequence[Answer]) -> list[Exhibit]:
        """The rows that can be shown as one picture each; none at all where a clip is more than a picture."""
        if self.examples is None:
            return []
        shown = []
        for row in rows:
            try:
                found = self.examples(row.clip)
            except UserError as error:
                shown.append(Exhibit(row, Markup(""), str(error)))
                continue
            if not _is_still(found):
                return []
            shown.append(self._hang(row, found))
        return [exhibit for exhibit in shown if exhibit.said != FULL] if any(exhibit.media for exhibit in shown) else []

    def _hang(self, row: Answer, found: Sequence[Example]) -> Exhibit:
        media = Markup("").join(EMBED[example.kind](example.data) for example in found)
        if len(media) > self.room:
            return Exhibit(row, Markup(""), FULL)
        self.room -= len(media)
        return Exhibit(row, media, "")


def _is_still(found: Sequence[Example]) -> bool:
    return len(found) == 1 and found[0].kind in ("image", "frames") and (isinstance(found[0].data, bytes) or len(found[0].data) == 1)


def _audio(data: bytes) -> Markup:
    return tag("audio", controls="controls", preload="metadata", src=_uri("audio/wav", data))


def _frames(data: list[bytes]) -> Markup:
    return _image(data[0]) if len(data) == 1 else tag("div", *(_img("image/jpeg", frame) for frame in data), class_="strip")


def _image(data: bytes) -> Markup:
    kind = "image/png" if data.startswith(PNG) else "image/jpeg"
    return tag("div", _img(kind, data), class_="still pixels" if _is_small(data) else "still")


def _is_small(data: bytes) -> bool:
    """Only a PNG says its size in a fixed place; a JPEG has no sharp pixels to show."""
    return data.startswith(PNG) and max(int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")) <= SMALL


def _img(kind: str, data: bytes) -> Markup:
    return Markup('<img alt="" src="{}">').format(_uri(kind, data))


EMBED: dict[str, Callable[..., Markup]] = {"audio": _audio, "frames": _frames, "image": _image}


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
