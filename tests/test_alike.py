import numpy as np
import pytest
import soxr

from crossfade.data.alike import hear, near_pairs, see
from crossfade.data.demo import FACES, VOICES, draw_actor, draw_face, speak


def phrase(seed: int, emotion: str = "happy") -> np.ndarray:
    rng = np.random.default_rng(seed)
    return soxr.resample(speak(draw_actor(rng), VOICES[emotion], 1.2, rng), 16000, 8000)


def film(seed: int, emotion: str = "happy") -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack(draw_face(draw_actor(rng), FACES[emotion], 6, 16, rng)).transpose(0, 3, 1, 2)


def test_a_sound_is_like_itself_through_gain_bits_and_rate_and_unlike_others():
    sound = phrase(0)
    coarse = np.round(sound * 0.3 * 2**11) / 2**11
    resampled = soxr.resample(soxr.resample(sound, 8000, 44100), 44100, 8000)
    mine = hear(sound)
    assert mine.dtype == np.float32 and np.linalg.norm(mine) == pytest.approx(1, abs=1e-5)
    assert min(float(mine @ hear(other)) for other in (sound, coarse, resampled)) > 0.995
    assert max(float(mine @ hear(phrase(seed))) for seed in range(1, 20)) < 0.99


def test_a_film_is_like_itself_through_light_and_noise_and_unlike_others():
    frames = film(0)
    dimmed = np.clip(frames * 0.8 + np.random.default_rng(0).normal(0, 1, frames.shape), 0, 255).astype(np.uint8)
    mine = see(frames)
    assert mine is not None and np.linalg.norm(mine) == pytest.approx(1, abs=1e-5)
    assert float(mine @ see(dimmed)) > 0.98
    assert max(float(mine @ see(film(seed))) for seed in range(1, 20)) < 0.98
    assert see(np.full((6, 3, 16, 16), 90, np.uint8)) is None
    one, still = see(frames[:1]), see(np.repeat(frames[:1], 6, 0))
    assert one is not None and still is not None and one.shape == (256,) and still.shape == mine.shape
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5) and np.linalg.norm(still) == pytest.approx(1, abs=1e-5)


def test_short_sounds_have_a_fingerprint():
    assert hear(np.array([0.5], np.float32)).shape == hear(phrase(0)).shape


@pytest.mark.parametrize("spread", [0.0, 2.0])
def test_near_pairs_equals_the_plain_search(spread):
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(700, 24)) + spread * rng.normal(size=(700, 1)) * rng.normal(size=24)
    vectors[rng.integers(0, 700, 60)] = vectors[rng.integers(0, 700, 60)] + 0.01 * rng.normal(size=(60, 24))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    kin, seconds = rng.integers(0, 4, (1, 700)), rng.choice([1.0, 1.01, 2.0], 700)
    cosine = vectors @ vectors.T
    plain = {
        (i, j)
        for i, j in zip(*np.nonzero(np.triu(cosine, 1) >= 0.99), strict=True)
        if kin[0, i] != kin[0, j] and min(seconds[i], seconds[j]) >= 0.98 * max(seconds[i], seconds[j])
    }
    found = near_pairs(vectors, kin, seconds, alike=0.99)
    assert {pair[:2] for pair in found} <= plain and all(value >= 0.99 for *_, value in found)
    # one pair for each row: whoever has a near-duplicate is in a chain of them
    assert {i for pair in plain for i in pair} == {i for pair in found for i in pair[:2]} or spread == 2.0
    assert found == sorted(found) and found


def test_near_pairs_of_one():
    assert near_pairs(np.eye(1, 8, dtype=np.float32), np.zeros((1, 1), int), np.ones(1), alike=0.9) == []
