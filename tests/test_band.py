"""The band that all domains carry: found in their sound, kept in the recipe, silent beyond."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from scipy.signal import butter, sosfilt, sosfreqz
from test_adapting import SMALL, _in_a_hurry, table, train  # noqa: F401
from tiny import QUIET

import crossfade
from crossfade.clip import UserError
from crossfade.data.band import common_band
from crossfade.data.log_mel import log_mel
from crossfade.data.mel import mel_centres

RATE = 16_000
REFERENCE = {"seconds": 0.6399, "mels": 96, "low": 125.0, "high": 7500.0, "log": "natural"}
LOWPASS = butter(12, 2000, fs=RATE, output="sos")


def noises(count: int, *, seed: int, gain: float = 0.1, silent: float = 0.0) -> list[np.ndarray]:
    """White noise, a share of it silence with a click."""
    values = np.random.default_rng(seed)
    sounds = gain * values.standard_normal((count, 11_200))
    for sound in sounds[: int(silent * count)]:
        sound[200:] *= 1e-3
    return list(sounds.astype(np.float32))


def muffled(sounds: list[np.ndarray]) -> list[np.ndarray]:
    return [sosfilt(LOWPASS, sound).astype(np.float32) for sound in sounds]  # type: ignore[union-attr]


def test_the_band_ends_where_one_domain_does():
    found = common_band(log_mel(**REFERENCE), {"wide": noises(12, seed=0), "muffled": muffled(noises(12, seed=1))})
    assert found is not None and found.filters == 96
    hertz, response = sosfreqz(LOWPASS, 4096, fs=RATE)
    drop = float(hertz[np.argmax(np.abs(response) < 10 ** (-30 / 20))])
    assert found.low == 144 and abs(found.high - drop) < 150, "as far as 30 dB below"
    assert found.shared == sum(found.low <= centre <= found.high for centre in mel_centres(mels=96, low=125, high=7500, scale="htk"))


def test_gain_and_what_share_of_the_clips_is_quiet_do_not_decide():
    loud = {"a": noises(20, seed=0, gain=0.3, silent=0.1), "b": noises(20, seed=1, gain=0.003, silent=0.8)}
    found = common_band(log_mel(**REFERENCE), loud)
    assert found is not None and found.shared == found.filters == 96


def test_a_domain_without_sound_has_no_band():
    assert common_band(log_mel(), {"a": noises(3, seed=0), "b": [np.zeros(8000, np.float32)]}) is None


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


def test_a_band_without_a_filter_is_refused():
    with pytest.raises(UserError, match=r"log_mel.band: found \(7900.0, 8000.0\); no filter is centred there"):
        log_mel(**REFERENCE, band=(7900.0, 8000.0))


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
    said = json.loads((tmp_path / "run" / "notes.json").read_text())["warnings"]
    assert f"audio: listens between {low:.0f} and {high:.0f} Hz, which old and new all carry" in said
    assert recipe.data.streams["audio"]["band"] == "shared", "the recipe that was given stays as it was"


def test_a_run_that_listens_to_more_than_is_shared_is_warned_of(sounds: Path, tmp_path: Path, _in_a_hurry):  # noqa: F811
    run = train(table(tmp_path, sounds, permuted=False), tmp_path / "run", "data.streams.audio.band=null")
    (said,) = [line for line in json.loads((run / "notes.json").read_text())["warnings"] if line.startswith("audio:")]
    assert "the domains differ by more than 30 dB outside" in said and "data.streams.audio.band=shared" in said


def test_domains_with_little_in_common_are_refused_in_one_line(tmp_path: Path, _in_a_hurry):  # noqa: F811
    apart = write(tmp_path, old=butter(12, 3000, btype="high", fs=RATE, output="sos"), new=LOWPASS)
    with pytest.raises(UserError, match=r"^data.streams.audio.band: found shared, but old and new carry [0-3] of 16 filters together"):
        train(table(tmp_path, apart, permuted=False), tmp_path / "run")
    assert not (tmp_path / "run").exists()
