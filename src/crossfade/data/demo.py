"""A small generated corpus under RAVDESS's file names: drawn faces and synthetic voices, so that everything runs offline.

Eight emotions, of which the voice tells six apart and the face tells six apart, and only the two together all eight:
neutral and calm sound alike, so do happy and surprised; angry and disgust look alike, so do sad and fearful.
Actors differ in pitch, vocal tract, timbre, skin, backdrop and the place of the head, so a split by actor is worth making.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from crossfade.clip import UserError
from crossfade.data.ravdess import EMOTIONS

RATE = 16000  # hertz, sound
FPS = 12  # frames a second
OVERSAMPLE = 3  # faces are drawn this much larger, then shrunk: smooth edges
TABLE = 1024  # samples of one period of a voice
INK = (45, 32, 38)
# Best first, with options. The look-ahead of x264 decides differently from run to run; without it the bytes repeat.
ENCODERS = {"libx264": {"preset": "veryfast", "x264-params": "mbtree=0:rc-lookahead=0"}, "mpeg4": {}}


class Voice(NamedTuple):
    """How an emotion sounds."""

    melody: tuple[float, ...]  # semitones from the actor's pitch, evenly spaced over the clip
    tilt: float  # fall of the harmonics, amplitude ~ k ** -tilt
    syllables: float  # a second
    breath: float  # noise beside the voice, 0 … 1
    tremor: float  # depth of an 11 Hz shake, 0 … 1


class Face(NamedTuple):
    """How an emotion looks; every value about −1 … 1, 0 is at rest."""

    curve: float  # corners of the mouth: up +, down −
    gape: float  # height of the open mouth
    width: float  # of the mouth
    teeth: float  # bared share of the open mouth
    eyes: float  # 0 shut, 1 wide
    brows: float  # raised +, lowered −
    frown: float  # inner ends of the brows down +, up −


EVEN = Voice((0, 0, -1), 1.3, 2.5, 0.05, 0.0)
LIVELY = Voice((0, 4, 9), 0.8, 5.0, 0.05, 0.0)
CROSS = Face(-0.5, 0.55, 0.9, 0.9, 0.35, -0.6, 1.0)
DOWN = Face(-1.0, 0.12, 0.55, 0.0, 0.65, 0.35, -1.0)

VOICES = {
    "neutral": EVEN,
    "calm": EVEN,
    "happy": LIVELY,
    "surprised": LIVELY,
    "sad": Voice((0, -3, -8), 2.4, 1.7, 0.05, 0.0),
    "angry": Voice((5, 3, 0), 0.3, 3.3, 0.3, 0.0),
    "fearful": Voice((7, 8, 7), 1.5, 3.3, 0.1, 1.0),
    "disgust": Voice((-5, -7, -9), 0.9, 1.7, 0.9, 0.2),
}
FACES = {
    "neutral": Face(0.0, 0.05, 0.5, 0.0, 0.65, 0.0, 0.0),
    "calm": Face(0.4, 0.0, 0.6, 0.0, 0.0, 0.15, -0.1),
    "happy": Face(1.0, 0.75, 1.0, 0.5, 0.6, 0.35, 0.0),
    "surprised": Face(0.0, 1.6, 0.42, 0.0, 1.0, 1.0, 0.0),
    "sad": DOWN,
    "fearful": DOWN,
    "angry": CROSS,
    "disgust": CROSS,
}


class Actor(NamedTuple):
    """What the clips of one actor share, whatever the emotion."""

    pitch: float  # hertz
    tract: float  # formants are multiplied by it
    tilt: float  # added to the voice's
    pace: float  # syllables are multiplied by it
    skin: tuple[int, int, int]
    backdrop: tuple[int, int, int]
    hair: tuple[int, int, int]
    place: tuple[float, float]  # of the head, in head radii
    head: float  # radius, share of the picture


def write_demo(
    root: Path, *, seed: int = 0, actors: int = 24, repetitions: int = 2, seconds: float = 1.2, size: int = 96, workers: int = 3
) -> Path:
    """Write `actors` × 8 emotions × `repetitions` clips below `root` and return it; the same files for the same arguments.

    A clip is a 16 kHz mono `.wav` (modality 03) and a silent `size` × `size` `.mp4` of 12 frames a second (modality 02).
    `workers` threads share the work. Raises UserError where RAVDESS's names have no room for the numbers.
    """
    if not (1 <= actors <= 24 and 1 <= repetitions <= 4 and size >= 16 and size % 2 == 0 and seconds >= 1 / FPS):
        found = f"actors={actors} repetitions={repetitions} size={size} seconds={seconds:g}"
        raise UserError(f"demo: {found}; expected 1-24 actors, 1-4 repetitions, an even size from 16, at least one frame")
    write = partial(_write_actor, Path(root), seed=seed, repetitions=repetitions, seconds=seconds, size=size)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(write, range(1, actors + 1)))
    return Path(root)


def _write_actor(root: Path, number: int, *, seed: int, repetitions: int, seconds: float, size: int) -> None:
    import soundfile

    folder = root / f"Actor_{number:02d}"
    folder.mkdir(parents=True, exist_ok=True)
    actor = draw_actor(np.random.default_rng([seed, number]))
    for code, emotion in enumerate(EMOTIONS, 1):
        for take in range(repetitions):
            rng = np.random.default_rng([seed, number, code, take])
            name = f"01-{code:02d}-01-{1 + take % 2:02d}-{1 + take // 2:02d}-{number:02d}"
            soundfile.write(folder / f"03-{name}.wav", speak(actor, VOICES[emotion], seconds, rng), RATE, "PCM_16")
            _write_video(folder / f"02-{name}.mp4", draw_face(actor, FACES[emotion], round(seconds * FPS), size, rng))


def draw_actor(rng: np.random.Generator) -> Actor:
    """A new actor."""
    skin = rng.uniform(0.55, 1.0) * np.array([255, 213, 178]) * rng.uniform(0.92, 1.0, 3)
    return Actor(
        pitch=100 * 2 ** rng.uniform(0, 1.1),
        tract=rng.uniform(0.88, 1.14),
        tilt=rng.uniform(-0.15, 0.15),
        pace=rng.uniform(0.9, 1.1),
        skin=_colour(skin),
        backdrop=_colour(rng.uniform(70, 235, 3)),
        hair=_colour(rng.uniform(0.3, 1.0) * rng.uniform(30, 190, 3)),
        place=(rng.uniform(-0.14, 0.14), rng.uniform(-0.1, 0.1)),
        head=rng.uniform(0.36, 0.42),
    )


def _colour(values: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in np.clip(values, 0, 255))
    return red, green, blue


# ---- sound


def speak(actor: Actor, voice: Voice, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """A sung-spoken phrase, float32 (N,) within ±1 at 16 kHz, over a soft background noise."""
    n = round(seconds * RATE)
    time = np.arange(n) / RATE
    shake = voice.tremor * np.sin(2 * np.pi * 11 * time + rng.uniform(0, 6))
    semitones = np.interp(time, np.linspace(0, seconds, len(voice.melody)), voice.melody) * rng.uniform(0.75, 1.1) + 0.7 * shake
    pitch = actor.pitch * 2 ** ((semitones + rng.normal(0, 0.7)) / 12)
    phase = np.cumsum(pitch) / RATE
    sung = np.interp(phase % 1, np.arange(TABLE + 1) / TABLE, _period(actor, voice.tilt + actor.tilt + rng.normal(0, 0.08), pitch.mean()))
    breath = voice.breath * rng.uniform(0.7, 1.2) * 1.5 * np.diff(rng.normal(0, 0.5, n + 1))
    phrase = (sung + breath) * _syllables(time, voice.syllables * actor.pace, rng) * (1 + 0.6 * shake)
    phrase *= 10 ** (rng.uniform(-28, -18) / 20) / np.sqrt(np.mean(phrase**2))
    background = rng.normal(0, 10 ** (rng.uniform(-52, -42) / 20), n)
    return np.clip(phrase + background, -1, 1).astype(np.float32)


def _period(actor: Actor, tilt: float, pitch: float) -> np.ndarray:
    """One period of the voice, (TABLE + 1,), loudness 1: harmonics below 7 kHz under three formants."""
    k = np.arange(1, max(2, int(7000 / pitch)))
    formants = sum(np.exp(-(((k * pitch / actor.tract - centre) / width) ** 2)) for centre, width in ((600, 250), (1500, 350), (2700, 600)))
    amplitude = k**-tilt * (0.15 + formants)
    wave = np.sin(2 * np.pi * np.outer(np.arange(TABLE + 1) / TABLE, k)) @ amplitude
    return wave / wave.std()


def _syllables(time: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Loudness over time, 0 … 1: a swell for each syllable, fading at both ends."""
    swell = 0.5 - 0.5 * np.cos(2 * np.pi * (rate * time + rng.uniform(-0.15, 0.15)))
    edge = np.minimum(time, time[::-1]) / 0.04
    return (0.04 + swell**1.5) * np.minimum(1, edge)


# ---- picture


def draw_face(actor: Actor, face: Face, frames: int, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Frames uint8 (size, size, 3) of a head that sways a little while the face moves from near rest to `face` and holds it."""
    face = Face(*(value * rng.uniform(0.85, 1.1) for value in face))
    light, sway = rng.uniform(0.85, 1.1), rng.uniform(0, 6)
    centre = (np.array(actor.place) + rng.uniform(-0.05, 0.05, 2)) * actor.head + 0.5
    grain = rng.normal(0, 5, (frames, size, size, 1))
    drawn = []
    for i in range(frames):
        strength = min(1.0, 0.5 + 1.5 * i / frames)
        moved = centre + 0.012 * np.array([np.sin(sway + 0.5 * i), np.cos(0.7 * sway + 0.9 * i)])
        speech = 0.08 * np.sin(sway + 2.1 * i)
        picture = _picture(actor, Face(*(value * strength for value in face))._replace(eyes=face.eyes), moved, speech, size)
        drawn.append(np.clip(picture * light + grain[i], 0, 255).astype(np.uint8))
    return drawn


def _picture(actor: Actor, face: Face, centre: np.ndarray, speech: float, size: int) -> np.ndarray:
    """One frame, float (size, size, 3)."""
    from PIL import Image, ImageDraw

    side = size * OVERSAMPLE
    image = Image.new("RGB", (side, side), actor.backdrop)
    pen = ImageDraw.Draw(image)
    x, y, r = centre[0] * side, centre[1] * side, actor.head * side
    pen.ellipse((x - 1.04 * r, y - 1.12 * r, x + 1.04 * r, y + 0.7 * r), fill=actor.hair)
    pen.ellipse((x - 0.94 * r, y - 0.94 * r, x + 0.94 * r, y + r), fill=actor.skin)
    for turn in (-1, 1):
        _eye(pen, x + turn * 0.38 * r, y - 0.2 * r, r, face)
        _brow(pen, x + turn * 0.38 * r, y - (0.52 + 0.16 * face.brows) * r, r, turn, face)
    _mouth(pen, x, y + 0.46 * r, r, face, speech)
    return np.asarray(image.reduce(OVERSAMPLE), np.float32)


def _eye(pen, x: float, y: float, r: float, face: Face) -> None:
    tall = 0.27 * r * face.eyes
    if tall < 0.05 * r:
        pen.arc((x - 0.2 * r, y - 0.12 * r, x + 0.2 * r, y + 0.12 * r), 10, 170, INK, max(1, int(0.07 * r)))
        return
    pen.ellipse((x - 0.21 * r, y - tall, x + 0.21 * r, y + tall), fill=(250, 250, 250))
    pupil = min(0.12 * r, tall)
    pen.ellipse((x - pupil, y - pupil, x + pupil, y + pupil), fill=INK)


def _brow(pen, x: float, y: float, r: float, turn: int, face: Face) -> None:
    slope = 0.15 * face.frown * r
    pen.line((x - turn * 0.24 * r, y + slope, x + turn * 0.24 * r, y - slope), INK, max(1, int(0.1 * r)))


def _mouth(pen, x: float, y: float, r: float, face: Face, speech: float) -> None:
    """Two parabolas between the corners; lips in red, the inside dark, teeth as a white band below the upper lip."""
    wide, gape = 0.48 * r * face.width + 0.08 * r, max(0.0, face.gape + speech) * 0.34 * r
    across = np.linspace(-1, 1, 25)
    lift = 0.26 * r * face.curve * (1 - across**2)
    opening = gape * np.sqrt(1 - across**2)
    upper, lower = y + lift - 0.5 * opening - 0.13 * r * face.curve, y + lift + 0.5 * opening - 0.13 * r * face.curve
    inside = _outline(x + wide * across, upper, lower)
    pen.polygon(inside, fill=(95, 20, 30))
    pen.polygon(_outline(x + wide * across, upper, upper + face.teeth * opening), fill=(245, 245, 240))
    pen.line([*inside, inside[0]], (165, 50, 60), max(1, int(0.08 * r)), joint="curve")


def _outline(x: np.ndarray, upper: np.ndarray, lower: np.ndarray) -> list[tuple[float, float]]:
    return [*zip(x.tolist(), upper.tolist(), strict=True), *zip(x[::-1].tolist(), lower[::-1].tolist(), strict=True)]


def _write_video(path: Path, frames: list[np.ndarray]) -> None:
    """H.264, or MPEG-4 part 2 where this build of FFmpeg has no H.264 encoder."""
    import av

    codec = next(name for name in ENCODERS if name in av.codecs_available)
    height, width, _ = frames[0].shape
    with av.open(path, "w") as container:
        stream = cast("av.VideoStream", container.add_stream(codec, rate=FPS, options=ENCODERS[codec]))
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.thread_count = width, height, "yuv420p", 1
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
