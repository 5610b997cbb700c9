import hashlib
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from crossfade.clip import UserError
from crossfade.data.demo import FACES, VOICES, draw_actor, draw_face, speak, write_demo
from crossfade.data.ravdess import EMOTIONS, ravdess


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_demo(tmp_path_factory.mktemp("demo"), actors=6, repetitions=2, size=48)


def digests(root: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*.*") if path.is_file()}


def test_it_is_a_ravdess_of_real_files(corpus):
    found = ravdess(root=corpus)
    assert len(found.clips) == 6 * 8 * 2 and found.skipped == [] and {clip.group for clip in found.clips} == {f"0{n}" for n in range(1, 7)}
    sound = soundfile.info(found.clips[0].media["audio"])
    assert (sound.samplerate, sound.channels, sound.frames, sound.subtype) == (16000, 1, 19200, "PCM_16")
    with av.open(found.clips[0].media["video"]) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate, len(list(container.decode(video=0)))) == (48, 48, 12, 14)


def test_the_seed_decides_every_byte(corpus, tmp_path):
    first = write_demo(tmp_path / "a", actors=1, repetitions=1, size=48, workers=1)
    again = write_demo(tmp_path / "b", actors=1, repetitions=1, size=48)
    assert digests(first) == digests(again) and len(digests(first)) == 16
    assert digests(first).items() <= digests(corpus).items()
    other = digests(write_demo(tmp_path / "c", actors=1, repetitions=1, size=48, seed=1))
    assert not set(other.values()) & set(digests(first).values())


def test_ear_and_eye_each_tell_six_apart_and_together_eight():
    assert len(set(VOICES.values())) == len(set(FACES.values())) == 6
    assert len({(VOICES[emotion], FACES[emotion]) for emotion in EMOTIONS}) == 8 and list(VOICES) != [] and set(VOICES) == set(EMOTIONS)


def told_apart(features: np.ndarray, one: int, other: int) -> float:
    """(actors, emotions, takes, D): how often a take is nearer to the other takes of its emotion than to those of the other, same actor."""
    hits = []
    for actor in features:
        for right, wrong in ((actor[one], actor[other]), (actor[other], actor[one])):
            for take, row in enumerate(right):
                rest = np.delete(right, take, 0).mean(0)
                hits.append(np.linalg.norm(row - rest) < np.linalg.norm(row - wrong.mean(0)))
    return float(np.mean(hits))


def test_what_one_sense_tells_apart_the_other_does_not():
    people = [draw_actor(np.random.default_rng([7, actor])) for actor in range(8)]
    rng = np.random.default_rng(0)
    sounds = np.array([[[spectrum(speak(actor, VOICES[name], 1.2, rng)) for _ in range(4)] for name in EMOTIONS] for actor in people])
    pictures = np.array(
        [[[layout(draw_face(actor, FACES[name], 3, 32, rng)[2]) for _ in range(4)] for name in EMOTIONS] for actor in people]
    )
    for pair, plain, dim in (
        (("sad", "fearful"), sounds, pictures),
        (("angry", "disgust"), sounds, pictures),
        (("neutral", "calm"), pictures, sounds),
        (("happy", "surprised"), pictures, sounds),
    ):
        one, other = map(EMOTIONS.index, pair)
        assert told_apart(plain, one, other) > 0.75 and told_apart(dim, one, other) < 0.65, pair


def spectrum(sound: np.ndarray) -> np.ndarray:
    power = np.abs(np.fft.rfft(np.lib.stride_tricks.sliding_window_view(sound, 512)[::256] * np.hanning(512))) ** 2
    bands = np.log(power[:, 1:].reshape(len(power), 32, 8).mean(2) + 1e-6)
    quarters = [part.mean(0) for part in np.array_split(bands - bands.mean(), 4)]
    return np.concatenate(quarters)


def layout(picture: np.ndarray) -> np.ndarray:
    """A grey picture with its level and contrast removed."""
    grey = picture.mean(2)
    return ((grey - grey.mean()) / grey.std()).ravel()


def test_sound_and_picture_are_well_formed():
    rng = np.random.default_rng(3)
    actor = draw_actor(rng)
    for emotion in EMOTIONS:
        sound, frames = speak(actor, VOICES[emotion], 0.5, rng), draw_face(actor, FACES[emotion], 2, 32, rng)
        assert sound.dtype == np.float32 and sound.shape == (8000,) and np.isfinite(sound).all() and 0.01 < np.abs(sound).max() <= 1
        assert [frame.shape for frame in frames] == [(32, 32, 3)] * 2 and frames[0].dtype == np.uint8


@pytest.mark.parametrize("options", [{"actors": 25}, {"repetitions": 5}, {"size": 33}, {"seconds": 0.0}])
def test_numbers_that_ravdess_has_no_names_for(tmp_path, options):
    with pytest.raises(UserError, match="expected 1-24 actors"):
        write_demo(tmp_path, **options)
