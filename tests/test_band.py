"""The band that all domains carry: found in their sound, kept in the recipe, silent beyond."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from scipy.signal import butter, sosfilt, sosfreqz
from test_adapting import SMALL, _in_a_hurry, table, train  # noqa: F401
from test_exact import Watching
from tiny import QUIET

import crossfade
from crossfade.clip import UserError
from crossfade.data.augment import spectrogram_masks
from crossfade.data.band import Common, common_band, level
from crossfade.data.log_mel import LogMel, log_mel
from crossfade.data.mel import mel_centres
from crossfade.training.loop import Interrupted

RATE = 16_000
REFERENCE = {"seconds": 0.6399, "mels": 96, "low": 125.0, "high": 7500.0, "log": "natural"}
LOWPASS = butter(12, 2000, fs=RATE, output="sos")


def noises(count: int, *, seed: int, gain: float = 0.1, hums: float = 0.0) -> list[np.ndarray]:
    """White noise; a share of it, first in the list, is a hum instead."""
    values, seconds = np.random.default_rng(seed), np.arange(11_200) / RATE
    sounds = gain * values.standard_normal((count, 11_200))
    for sound in sounds[: int(hums * count)]:
        sound[:] = gain * np.sin(2 * np.pi * 440 * seconds)
    return list(sounds.astype(np.float32))


def muffled(sounds: list[np.ndarray]) -> list[np.ndarray]:
    return [sosfilt(LOWPASS, sound).astype(np.float32) for sound in sounds]  # type: ignore[union-attr]


def common(stream: LogMel, *domains: list[np.ndarray]) -> Common:
    levels = [level(stream, sounds) for sounds in domains]
    return common_band(stream, [each for each in levels if each is not None])


def test_the_band_ends_where_one_domain_does():
    found = common(log_mel(**REFERENCE), noises(12, seed=0), muffled(noises(12, seed=1)))
    hertz, response = sosfreqz(LOWPASS, 4096, fs=RATE)
    drop = float(hertz[np.argmax(np.abs(response) < 10 ** (-30 / 20))])
    assert found.filters == 96 and found.low == 144 and abs(found.high - drop) < 150, "as far as 30 dB below"
    assert found.shared == sum(found.low <= centre <= found.high for centre in mel_centres(mels=96, low=125, high=7500, scale="htk"))


def test_gain_and_what_share_of_the_clips_are_of_a_kind_do_not_decide():
    found = common(log_mel(**REFERENCE), noises(20, seed=0, gain=0.3), noises(20, seed=1, gain=0.003, hums=0.4))
    assert found.shared == found.filters == 96


def test_filters_too_narrow_to_hear_anything_are_nobodys():
    stream = log_mel(mels=128)
    found = common(stream, noises(12, seed=0, gain=0.3), noises(12, seed=1, gain=0.003))
    assert not stream.bank.any(0).all() and found.shared == found.filters == 128


def test_a_domain_without_sound_has_no_level():
    assert level(log_mel(), [np.zeros(8000, np.float32)]) is None


@pytest.mark.parametrize("options", [{}, REFERENCE, {"scale": "slaney", "power": 1.0}])
def test_beyond_the_band_there_is_silence_and_within_it_nothing_changes(options):
    sound = noises(1, seed=0)[0]
    whole, part = log_mel(**options), log_mel(**options, band=(400.0, 3000.0))
    heard, mask = part.finish(sound)
    within = (whole.centres >= 400) & (whole.centres <= 3000)
    expected, same = whole.finish(sound)
    silence = whole.finish(np.zeros_like(sound))[0]
    assert 0 < within.sum() < len(within) and (mask == same).all()
    assert (heard[:, within] == expected[:, within]).all() and (heard[:, ~within] == silence[:, ~within]).all()


def test_masks_fall_within_the_band_alone():
    """What they are filled with is the mean of what is heard, not of the silence beside it."""
    sound, masks = noises(1, seed=0)[0], spectrogram_masks(frequency=20, time=12, probability=1.0)
    stream = log_mel(**REFERENCE, band=(400.0, 3000.0))
    plain, masked = stream.finish(sound)[0], stream.finish(sound, [masks], torch.Generator().manual_seed(0))[0]
    changed = (plain != masked)[0].any(1).numpy()
    heard = (stream.centres >= 400) & (stream.centres <= 3000)
    assert changed.any() and not (changed & ~heard).any()
    assert masked[plain != masked].unique().allclose(plain[:, heard].mean(), atol=1e-5)


@pytest.mark.parametrize(
    ("band", "said"),
    [
        ((7900.0, 8000.0), r"log_mel.band: found \(7900.0, 8000.0\); no filter is centred there, the nearest at \d+, \d+ Hz"),
        ((300.0, 12000.0), r"there is nothing above rate / 2 = 8000 Hz"),
        ("[4000, 300]", r"data.streams.audio.band: found \[4000, 300\]; 0 ≤ low < high is needed"),
        ("[-5, 300]", "0 ≤ low < high is needed"),
        ("[.nan, 300]", "0 ≤ low < high is needed"),
        ("[300]", r"it is \[low, high\] in hertz, shared"),
        ("wide", r"found 'wide'; it is \[low, high\] in hertz, shared"),
    ],
)
def test_a_band_that_is_none_is_refused(band, said: str):
    with pytest.raises(UserError, match=said):
        if isinstance(band, str):
            crossfade.load("audio", [f"data.streams.audio.band={band}"])
        log_mel(**REFERENCE, band=band)


def test_shared_needs_domains():
    with pytest.raises(UserError, match=r"data.streams.audio.band: found 'shared', but data.domains names none"):
        crossfade.load("audio", ["data.streams.audio.band=shared"])


def write(root: Path, **through: np.ndarray | None) -> Path:
    """Tones and hisses, 20 of each in each of two domains, each heard through a filter of its own."""
    values, seconds = np.random.default_rng(0), np.arange(11_200) / RATE
    for domain, heard_through in through.items():
        for number in range(40):
            sound = np.sin(2 * np.pi * values.uniform(300, 600) * seconds) if number % 2 else values.standard_normal(len(seconds))
            heard = sound + 0.3 * values.standard_normal(len(seconds))
            soundfile.write(
                root / f"{domain}{number:02}.wav", 0.1 * (heard if heard_through is None else sosfilt(heard_through, heard)), RATE
            )  # type: ignore[operator]
    return root


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("sounds"), old=None, new=LOWPASS)


def test_a_run_finds_the_band_and_says_so(sounds: Path, tmp_path: Path, _in_a_hurry):  # noqa: F811
    recipe = crossfade.load("cough", SMALL, corpus=table(tmp_path, sounds, permuted=False))
    crossfade.train(recipe, tmp_path / "run", screen=QUIET)
    low, high = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["data"]["streams"]["audio"]["band"]
    assert low < 400 and 1900 < high < 3000
    line = f"audio: hears {low:g} to {high:g} Hz alone, by data.streams.audio.band"
    assert json.loads((tmp_path / "run" / "notes.json").read_text())["heard"] == [line]
    assert recipe.data.streams["audio"]["band"] == "shared", "the recipe that was given stays as it was"
    with pytest.raises(UserError, match=r"band: found 'shared'; a finished run hears what it learnt with"):
        crossfade.evaluate(tmp_path / "run", overrides=["data.streams.audio.band=shared"])


def test_a_run_ended_before_its_first_checkpoint_says_the_same(sounds: Path, tmp_path: Path, _in_a_hurry):  # noqa: F811
    given = table(tmp_path, sounds, permuted=False)
    with pytest.raises(Interrupted):
        train(given, tmp_path / "run", screen=Leaving())
    before = [(tmp_path / "run" / name).read_text() for name in ("recipe.yaml", "notes.json")]
    crossfade.resume(tmp_path / "run", screen=QUIET)
    assert before == [(tmp_path / "run" / name).read_text() for name in ("recipe.yaml", "notes.json")]


class Leaving(Watching):
    """Asks to stop before anything was learnt."""

    def phase(self, *args, **kwargs):
        raise Interrupted(15)


def test_a_run_that_goes_on_from_another_hears_what_that_heard(sounds: Path, tmp_path: Path, _in_a_hurry):  # noqa: F811
    given = table(tmp_path, sounds, permuted=False)
    train(given, tmp_path / "source", "phases.adapt.epochs=0", "data.streams.audio.band=[500,1800]")
    assert crossfade.load("cough", SMALL, corpus=given, start=tmp_path / "source").data.streams["audio"]["band"] == [500.0, 1800.0]


def test_clips_from_all_over_a_list_are_listened_to(sounds: Path, tmp_path: Path, _in_a_hurry, monkeypatch):  # noqa: F811
    """The list may be class by class: with two of three clips wide, and those last, the band is wide."""
    monkeypatch.setattr("crossfade.readiness.ENOUGH", 20)
    monkeypatch.setattr("crossfade.data.band.ENOUGH", 20)
    narrow = sorted(sounds.glob("new*.wav"))[:10]
    rows = [f"{path},old,{'hum' if path in narrow else 'hiss'}" for path in [*narrow, *sorted(sounds.glob("old*.wav"))[:28]]]
    rows += [f"{path},new,{'hum' if number % 2 else 'hiss'}" for number, path in enumerate(sorted(sounds.glob("old*.wav"))[28:])]
    (tmp_path / "t.csv").write_text("\n".join(["audio,domain,label", *rows]))
    run = train(tmp_path / "t.csv", tmp_path / "run", "data.streams.audio.band=null", "phases.adapt.epochs=0", "phases.source.epochs=1")
    assert not [line for line in json.loads((run / "notes.json").read_text())["warnings"] if line.startswith("audio:")]


def test_a_run_that_listens_to_more_than_is_shared_is_warned_of(sounds: Path, tmp_path: Path, _in_a_hurry):  # noqa: F811
    run = train(table(tmp_path, sounds, permuted=False), tmp_path / "run", "data.streams.audio.band=null")
    (said,) = [line for line in json.loads((run / "notes.json").read_text())["warnings"] if line.startswith("audio:")]
    assert "elsewhere they differ by more than 30 dB" in said and "data.streams.audio.band=shared listens to what all carry" in said


def test_domains_with_little_in_common_are_refused_in_one_line(tmp_path: Path, _in_a_hurry):  # noqa: F811
    apart = write(tmp_path, old=butter(12, 3000, btype="high", fs=RATE, output="sos"), new=LOWPASS)
    with pytest.raises(UserError, match=r"^data.streams.audio.band: found shared, but old and new carry [0-3] of 16 filters alike"):
        train(table(tmp_path, apart, permuted=False), tmp_path / "run")
    assert not (tmp_path / "run").exists()
