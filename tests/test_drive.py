"""`drive`: a film as long as its sound, mouths where and when the network made them, nothing left where it fails, flat memory."""

from __future__ import annotations

import os
import signal
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image
from test_media import grey, number, tone, write_video

from crossfade.clip import Unreadable, UserError
from crossfade.data.face import prepared, sound_rows
from crossfade.data.face.crop import CROPS, covered, inner
from crossfade.data.face.footage import Footage
from crossfade.data.face.sound_rows import logmel256
from crossfade.data.media import read_audio
from crossfade.deploy.runner import Shape
from crossfade.face import film
from crossfade.face.drive import Driven, Speaker, ahead, drive, listen
from crossfade.screen import Terminal

DATA = Path(os.environ.get("CROSSFADE_DATA", Path(__file__).parents[2] / "shared" / "data"))
YUNET = DATA / "weights" / "yunet" / "yunet_n_dynamic.onnx"
CROP = CROPS[96]
BOX = (70.0, 20.0, 170.0, 120.0)  # of pictures 192 × 144; `grey` can be read off their right border
STEP = 8  # between the numbers of two pictures, so that coding does not blur them
LOUD, SOFT = 0.8, -0.8


class Loudness:
    """In the place of a network: a mouth bright where the picture's own block is loud, dark where it is not."""

    def __init__(self, stop: int | None = None, keep: bool = True):
        self.inputs: dict[str, Shape] = {}
        self.outputs = ["output"]
        self.calls: list[dict[str, np.ndarray]] = []
        self.stop, self.keep, self.total = stop, keep, 0

    def __call__(self, arrays):
        audio, face = arrays["audio"], arrays["face"]
        count = len(audio)
        assert (audio.shape, face.shape) == ((count, 1, 20, 256), (count, 6, 96, 96))
        assert (audio.dtype, face.dtype) == (np.float32, np.float32)
        self.total += count
        if self.stop is not None and self.total > self.stop:
            raise RuntimeError("stopped")
        if self.keep:
            self.calls.append(arrays)
        level = np.where(audio[:, 0, 11].max(1) > 3, LOUD, SOFT).astype(np.float32)
        return {"output": np.broadcast_to(level[:, None, None, None], (count, 3, 96, 96))}


class Said(Terminal):
    def __init__(self):
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.lines.append(f"warning: {text}")


def speaker(runner=None) -> Speaker:
    return Speaker(runner or Loudness(), CROP, logmel256(), "runs/someone")


def prepare(folder: Path, frames: int, *, dropped=(), size=(192, 144)) -> Path:
    """A prepared folder of one clip, `talk`, of pictures whose number, times eight, can be read off them."""
    video = folder.parent / f"{folder.name} pictures"
    video.mkdir()
    for index in range(frames):
        Image.fromarray(grey(STEP * index, *size)).save(video / f"{index}.png")
    about = {"size": 96, "features": {"use": "logmel256"}, "dim": 256, "settings": {}}
    prepared.begin(folder, about)
    kept = ~np.isin(np.arange(frames), dropped)
    record = prepared.Record("talk", "talk", str(video), "source", frames, int(kept.sum()))
    with prepared.writing(folder, "talk") as place:
        np.save(place / "boxes.npy", np.tile(np.array(BOX, np.float32), (frames, 1)))
        np.save(place / "kept.npy", kept)
        np.save(place / "faces.npy", np.zeros((frames, CROP.outer, CROP.outer, 3), np.uint8))
        np.save(place / "rows.npy", np.zeros((frames + 19, 256), np.float32))
        prepared.note(place, record)
    prepared.finish(folder, [record])
    return folder


def wave(path: Path, samples: np.ndarray, rate: int = 16000, **options) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


def taps(seconds: float = 2.0) -> np.ndarray:
    """0.4 s of silence, 0.4 s of tone, and so on: ten pictures each."""
    sound = tone(16000, seconds)[:, 0]
    return sound * (np.arange(len(sound)) // 6400 % 2).astype(np.float32)


@pytest.fixture(scope="module")
def face(tmp_path_factory) -> Path:
    return prepare(tmp_path_factory.mktemp("face") / "one", 8, dropped=(0, 5))


@pytest.fixture(scope="module")
def spoken(face, tmp_path_factory) -> tuple[Path, Driven, Loudness, Said]:
    """One film for the tests that only look at it."""
    folder = tmp_path_factory.mktemp("spoken")
    runner, said = Loudness(), Said()
    audio = wave(folder / "words.wav", taps())
    done = drive(speaker(runner), audio, face, folder / "new" / "talk.mp4", batch=7, screen=said)
    return audio, done, runner, said


def length(track) -> float:
    """Seconds that a track of a film lasts."""
    return float(track.duration * track.time_base)


def mouths(out: Path) -> list[float]:
    """How bright the middle of the mask is in each picture."""
    return [float(picture[60:90, 105:135].mean()) for picture in Footage(out).frames()]


def test_the_film_is_as_long_as_the_sound_and_both_begin_at_once(spoken):
    _, done, _, said = spoken
    assert done.frames == 50 and done.fps == pytest.approx(50 / done.seconds)
    assert done.real_time_factor == pytest.approx(done.seconds / 2)
    assert done.to_json()["out"] == str(done.out)
    assert "50 pictures" in said.lines[-1] and "real-time factor" in said.lines[-1]
    with av.open(str(done.out)) as container:
        pictures, sound = container.streams.video[0], container.streams.audio[0]
        assert (pictures.codec_context.name, sound.codec_context.name, sound.layout.name) == ("h264", "aac", "mono")
        assert (pictures.frames, pictures.average_rate) == (50, 25)
        assert pictures.start_time == 0 and sound.start_time == 0
        assert length(pictures) == pytest.approx(2.0)
        assert length(sound) == pytest.approx(2.0, abs=0.03)
    assert sorted(path.name for path in done.out.parent.iterdir()) == ["talk.mp4"]


def test_mouths_move_when_the_sound_does(spoken):
    _, done, _, _ = spoken
    found = np.array(mouths(done.out))
    loud = np.arange(50) // 10 % 2 == 1
    assert found[loud].min() > 200 and found[~loud].max() < 60


def test_the_films_sound_is_the_files(spoken):
    audio, done, _, _ = spoken
    given, found = read_audio(audio, rate=16000), read_audio(done.out, rate=16000)
    shared = min(len(given), len(found))
    assert np.corrcoef(given[:shared], found[:shared])[0, 1] > 0.99  # a shift of 4 samples of this tone gives 0.77


def test_pictures_go_there_and_back_over_those_that_may_be_used(spoken):
    _, done, _, _ = spoken
    walk = [1, 2, 3, 4, 6, 7, 6, 4, 3, 2]
    assert [round(number(picture) / STEP) for picture in Footage(done.out).frames()] == (walk * 5)[:50]


def test_outside_the_mask_the_picture_stays(spoken):
    _, done, _, _ = spoken
    picture = next(Footage(done.out).frames())
    expected = grey(STEP, 192, 144)
    outside = np.ones((144, 192), bool)
    outside[16:122, 66:174] = False
    assert np.abs(picture.astype(int) - expected)[outside].mean() < 3


def test_what_the_network_is_given(spoken):
    audio, _, runner, _ = spoken
    assert [len(call["audio"]) for call in runner.calls] == [7] * 7 + [1]
    faces = np.concatenate([call["face"] for call in runner.calls])
    shown, target = faces[:, :3], np.rint(faces[:, 3:] * 127.5 + 127.5)
    levels = [(brightness(each) - 20) / 3 / STEP for each in shown[:12]]
    assert np.round(levels).tolist() == [7, *[1] * 9, 7, 1]  # the first usable picture shows the face; that one is shown the last
    hidden = covered(inner(np.full((1, CROP.outer, CROP.outer, 3), 255, np.uint8), CROP), CROP)[0, ..., 0] == 0
    assert not target[:, :, hidden].any() and target[:, :, ~hidden].all()
    rows = np.concatenate([call["audio"] for call in runner.calls])[:, 0]
    expected = logmel256()(read_audio(audio, rate=16000), 50)
    np.testing.assert_allclose(rows, [expected[k : k + 20] for k in range(50)], atol=1e-5)


def brightness(values: np.ndarray) -> float:
    """The brightness of the right half of a face in −1 … 1."""
    return float(values[:, 20:70, 70:].mean() * 127.5 + 127.5)


def comment(out: Path) -> tuple[str, str]:
    with av.open(str(out)) as container:
        return container.metadata["title"], container.metadata["comment"]


def test_the_file_says_what_it_is(spoken, face, tmp_path):
    _, done, _, _ = spoken
    words = "the mouth in this film was made by Crossfade from words.wav with runs/someone"
    assert comment(done.out) == ("talk (synthetic)", f"synthetic: {words}")
    short = wave(tmp_path / "words.wav", taps(0.1))
    drive(speaker(), short, face, tmp_path / "b.mp4", label="künstlich", screen=Said())
    assert comment(tmp_path / "b.mp4") == ("b (künstlich)", f"künstlich: {words}")
    drive(speaker(), short, face, tmp_path / "c.mp4", label=None, screen=Said())
    assert comment(tmp_path / "c.mp4") == ("c", words)
    with pytest.raises(UserError, match="--label: is empty"):
        drive(speaker(), short, face, tmp_path / "d.mp4", label=" ", screen=Said())
    assert not (tmp_path / "d.mp4").exists()


SOUNDS = {
    "narrow.wav": (8000, 2, {}, 0.6),
    "tiny.wav": (16000, 1, {}, 0.1),
    "wide.mp3": (48000, 2, {"format": "MP3"}, 0.6),
    "wide.opus": (48000, 1, {"format": "OGG", "subtype": "OPUS"}, 0.6),
    "cd.flac": (44100, 2, {}, 0.6),
}


@pytest.mark.parametrize("name", SOUNDS)
def test_any_sound(face, tmp_path, name):
    rate, channels, options, seconds = SOUNDS[name]
    audio = wave(tmp_path / name, tone(rate, seconds, channels), rate, **options)
    done = drive(speaker(), audio, face, tmp_path / "talk.mp4", screen=Said())
    heard = listen(audio).samples / 16000
    assert done.frames == int(np.ceil(heard * 25)) and abs(heard - seconds) < 0.08
    with av.open(str(done.out)) as container:
        track = container.streams.audio[0]
        assert (track.layout.nb_channels, track.rate) == (channels, 44100 if rate == 44100 else 48000)
        assert abs(length(track) - heard) < 0.04
        assert container.streams.video[0].frames == done.frames


def test_the_sound_of_a_film_or_an_m4a_will_do(face, tmp_path):
    audio = write_video(tmp_path / "speech.mp4", 20, sound=("aac", 48000, tone(48000, 0.8)))
    done = drive(speaker(), audio, face, tmp_path / "talk.mp4", screen=Said())
    assert abs(done.frames - 20) <= 1
    given, found = read_audio(audio, rate=16000), read_audio(done.out, rate=16000)
    shared = min(len(given), len(found)) - 1600
    assert np.corrcoef(given[1600:shared], found[1600:shared])[0, 1] > 0.99


def test_silence_is_rendered_with_a_warning_and_nothing_is_not(face, tmp_path):
    said = Said()
    silent = wave(tmp_path / "silent.wav", np.zeros(8000, np.float32))
    done = drive(speaker(), silent, face, tmp_path / "talk.mp4", screen=said)
    assert said.lines[0] == f"warning: {silent}: is silent; the mouth will hardly move"
    assert done.frames == 13 and max(mouths(done.out)) < 60
    before = done.out.read_bytes()
    (tmp_path / "text.wav").write_text("no sound at all")
    for bad in (wave(tmp_path / "none.wav", np.zeros(0, np.float32)), tmp_path / "text.wav", tmp_path / "gone.wav"):
        with pytest.raises(Unreadable) as error:
            drive(speaker(), bad, face, done.out, screen=Said())
        assert "\n" not in str(error.value)
    assert done.out.read_bytes() == before


def test_where_it_stops_nothing_is_left_and_what_was_there_stays(face, tmp_path):
    audio, out = wave(tmp_path / "words.wav", taps()), tmp_path / "films" / "talk.mp4"
    with pytest.raises(RuntimeError, match="stopped"):
        drive(speaker(Loudness(stop=20)), audio, face, out, screen=Said())
    assert list(out.parent.iterdir()) == []
    out.write_text("before")
    with pytest.raises(RuntimeError, match="stopped"):
        drive(speaker(Loudness(stop=20)), audio, face, out, screen=Said())
    assert [path.read_text() for path in out.parent.iterdir()] == ["before"]


class Killed(Loudness):
    """Asks its own process to end after a few batches."""

    def __call__(self, arrays):
        if self.total == 24:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__call__(arrays)


def test_a_signal_leaves_nothing(face, tmp_path):
    audio, out = wave(tmp_path / "words.wav", taps()), tmp_path / "films" / "talk.mp4"
    with pytest.raises(KeyboardInterrupt):
        drive(speaker(Killed()), audio, face, out, screen=Said())
    assert list(out.parent.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_where_a_film_cannot_be(face, tmp_path):
    audio = wave(tmp_path / "words.wav", taps(0.1))
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").touch()
    for out, words in {"talk.avi": "as .mp4; found .avi", "folder.mp4": "is a folder", "file/talk.mp4": "cannot be written"}.items():
        with pytest.raises(UserError, match=words):
            drive(speaker(), audio, face, tmp_path / out, screen=Said())


def test_without_x264_it_is_mpeg_4_and_said(face, tmp_path, monkeypatch):
    monkeypatch.setattr(film, "ENCODERS", {name: options for name, options in film.ENCODERS.items() if name != "libx264"})
    said = Said()
    done = drive(speaker(), wave(tmp_path / "a.wav", taps()), face, tmp_path / "a.mp4", screen=said)
    assert "this PyAV has no x264: pictures are coded by mpeg4" in said.lines
    assert len(mouths(done.out)) == 50
    assert np.corrcoef(np.array(mouths(done.out)), np.arange(50) // 10 % 2)[0, 1] > 0.95


def test_a_clip_of_a_prepared_folder_by_name(face, tmp_path):
    audio = wave(tmp_path / "a.wav", taps(0.2))
    assert drive(speaker(), audio, face / "clips" / "talk", tmp_path / "a.mp4", screen=Said()).frames == 5
    with pytest.raises(UserError, match="no clip of that name"):
        drive(speaker(), audio, face / "clips" / "other", tmp_path / "a.mp4", screen=Said())
    with pytest.raises(UserError, match="needs --detector"):
        drive(speaker(), audio, face.parent / "one pictures", tmp_path / "a.mp4", screen=Said())


def test_a_prepared_video_that_is_another_now(tmp_path):
    folder = prepare(tmp_path / "two", 6)
    (tmp_path / "two pictures" / "3.png").unlink()
    with pytest.raises(UserError, match="has 5 pictures, had 6 when it was prepared"):
        drive(speaker(), wave(tmp_path / "a.wav", taps(0.2)), folder, tmp_path / "a.mp4", screen=Said())


def test_memory_does_not_grow_with_the_sound(tmp_path, monkeypatch):
    monkeypatch.setattr(sound_rows, "PIECE", 50)
    monkeypatch.setattr(sound_rows, "CONTEXT", 10)
    folder = prepare(tmp_path / "long", 8)

    def peak(seconds: float) -> int:
        audio = wave(tmp_path / f"{seconds}.wav", taps(seconds))
        tracemalloc.start()
        drive(speaker(Loudness(keep=False)), audio, folder, tmp_path / "a.mp4", screen=Said())
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(0.5)
    # how far the threads run ahead moves a peak by up to 1 MB; 24 s more are 1.5 MB of sound, 600 kB of rows, 50 MB of pictures
    assert min(peak(30) for _ in range(2)) < max(peak(6) for _ in range(3)) + 1_000_000


def test_ahead_keeps_the_order_and_passes_errors_on():
    with ahead(iter(range(5))) as items:
        assert list(items) == [0, 1, 2, 3, 4]

    def broken():
        yield 1
        raise UserError("no more")

    with pytest.raises(UserError, match="no more"), ahead(broken()) as items:
        list(items)


# ---- real faces


def needs(path: Path) -> Path:
    pytest.importorskip("cv2")
    for each in (path, YUNET):
        if not each.exists():
            pytest.skip(f"{each} is not there")
    return path


def test_a_real_face_speaks(tmp_path):
    video, said = needs(DATA / "grid" / "s1" / "bbaf4p.mp4"), Said()
    audio = wave(tmp_path / "a.wav", taps(1.6))
    done = drive(speaker(), audio, video, tmp_path / "a.mp4", detector=YUNET, screen=said)
    assert done.frames == 40
    given, made = (np.stack(list(Footage(path).frames(0, 40))).astype(int) for path in (video, done.out))
    loud = np.arange(40) // 10 % 2 == 1
    changed = np.abs(given - made).mean(-1)
    still = changed.max(0) < 25
    moved = made[loud].mean((0, -1)) - made[~loud].mean((0, -1)) > 60
    assert 0.02 < moved.mean() < 0.4  # the mouth and around it, not the rest
    assert still[:40].mean() > 0.95 and still[:, :60].mean() > 0.95


def test_one_picture_of_a_face_and_pictures_without_one(tmp_path):
    video, audio = needs(DATA / "grid" / "s1" / "bbaf4p.mp4"), wave(tmp_path / "a.wav", taps(0.4))
    Image.fromarray(next(Footage(video).frames())).save(tmp_path / "face.png")
    assert drive(speaker(), audio, tmp_path / "face.png", tmp_path / "a.mp4", detector=YUNET, screen=Said()).frames == 10
    Image.fromarray(grey(5, 320, 240)).save(tmp_path / "wall.png")
    with pytest.raises(UserError, match=r"wall.png: no face in any of 1 pictures"):
        drive(speaker(), audio, tmp_path / "wall.png", tmp_path / "b.mp4", detector=YUNET, screen=Said())
    Image.fromarray(next(Footage(video).frames())).resize((120, 96)).save(tmp_path / "small.png")
    with pytest.raises(UserError, match=r"small.png: none of its 1 pictures can be used: 1 too small"):
        drive(speaker(), audio, tmp_path / "small.png", tmp_path / "b.mp4", detector=YUNET, screen=Said())
