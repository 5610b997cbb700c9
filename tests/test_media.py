"""Decoding: every format against its own samples, every span against the whole, every kind of bad file against its reason."""

import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import librosa
import numpy as np
import pytest
import soundfile

from crossfade.clip import Unreadable
from crossfade.data.media import probe, read_audio, read_frames
from crossfade.data.pictures import resize

DATA = Path(os.environ.get("CROSSFADE_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA}")


def tone(rate: int, seconds: float = 1.0, channels: int = 1, hertz: float = 440.0) -> np.ndarray:
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)
    return np.stack([wave * (index + 1) / channels for index in range(channels)], axis=1).astype(np.float32)


def grey(index: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A picture whose number can be read off it after lossy coding: brightness 20 + 3 · index, left half darker."""
    picture = np.full((height, width, 3), 20 + 3 * index, dtype=np.uint8)
    picture[:, : width // 2] //= 2
    return picture


def number(picture: np.ndarray) -> int:
    """The index that `grey` drew, from (3, H, W) or (H, W, 3)."""
    channels_last = picture if picture.shape[-1] == 3 else picture.transpose(1, 2, 0)
    return round((float(channels_last[8:-8, -12:].mean()) - 20) / 3)


def write_video(
    path: Path, frames: int = 50, *, codec: str = "mpeg4", options: dict | None = None, times=None, sound=None, size=(64, 48)
) -> Path:
    """Frames at 25 fps, or at `times` in milliseconds; `sound` = (codec, rate, samples (N, C))."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        stream.bit_rate = 2_000_000
        track = container.add_stream(sound[0], rate=sound[1], layout="mono") if sound else None
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(grey(index, *size), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if track is not None:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[2].T), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = sound[1], 0
            resampler = av.AudioResampler(format=track.format, layout="mono", rate=sound[1], frame_size=track.codec_context.frame_size or 0)
            for piece in [*resampler.resample(frame), *resampler.resample(None)]:
                container.mux(track.encode(piece))
            container.mux(track.encode(None))
    return path


def truncate(path: Path, share: float) -> Path:
    whole = path.read_bytes()
    short = path.with_stem(f"{path.stem}-short{share}")
    short.write_bytes(whole[: int(len(whole) * share)])
    return short


def level(sound: np.ndarray) -> float:
    return float(np.sqrt(np.mean(sound**2)))


@pytest.mark.parametrize("rate", [8000, 44100, 48000, 192000])
@pytest.mark.parametrize(
    ("extension", "subtype"),
    [("wav", "PCM_U8"), ("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "PCM_32"), ("wav", "FLOAT"), ("wav", "DOUBLE"), ("flac", "PCM_24")],
)
def test_lossless_sound_equals_librosa(tmp_path, rate, extension, subtype):
    path = tmp_path / f"a.{extension}"
    soundfile.write(path, tone(rate, 0.5, channels=2), rate, subtype=subtype)
    expected, _ = librosa.load(path, sr=16000, mono=True, res_type="soxr_hq")
    found = read_audio(path, rate=16000)
    assert found.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("extension", "form", "subtype", "rate"),
    [
        ("ogg", "OGG", "VORBIS", 44100),
        ("opus", "OGG", "OPUS", 48000),
        ("mp3", "MP3", "MPEG_LAYER_III", 16000),
        ("mp3", "MP3", "MPEG_LAYER_III", 44100),
    ],
)
def test_lossy_sound(tmp_path, extension, form, subtype, rate):
    path = tmp_path / f"a.{extension}"
    soundfile.write(path, tone(rate, 2.0), rate, format=form, subtype=subtype)
    found = read_audio(path, rate=16000)
    assert abs(len(found) - 32000) < 1200
    assert level(found[4000:28000]) == pytest.approx(0.5 / np.sqrt(2), rel=0.03)


def test_six_channels_down_to_their_mean(tmp_path):
    path = tmp_path / "surround.wav"
    channels = np.random.default_rng(0).uniform(-0.5, 0.5, (16000, 6)).astype(np.float32)
    soundfile.write(path, channels, 16000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(path, rate=16000), channels.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize(
    ("codec", "form"), [("pcm_u8", "u8"), ("pcm_s16le", "s16"), ("pcm_s32le", "s32"), ("pcm_f64le", "dbl"), ("alac", "s16p")]
)
@pytest.mark.parametrize("channels", [1, 2])
def test_sound_tracks_of_every_sample_format(tmp_path, codec, form, channels):
    path, wave = tmp_path / "a.mkv", tone(16000, 1.0, channels=channels)
    with av.open(str(path), "w") as container:
        track = container.add_stream(codec, rate=16000, layout="mono" if channels == 1 else "stereo")
        track.format = form
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave.T), format="fltp", layout=track.layout.name)
        frame.sample_rate = 16000
        pieces = av.AudioResampler(format=form, layout=track.layout.name, rate=16000, frame_size=track.codec_context.frame_size or 160)
        for piece in [*pieces.resample(frame), *pieces.resample(None)]:
            container.mux(track.encode(piece))
        container.mux(track.encode(None))
    found = read_audio(path, rate=16000)
    assert found.shape == (16000,)
    np.testing.assert_allclose(found, wave.mean(axis=1), atol=1 / 128 if form == "u8" else 1e-4)


def test_content_decides_not_the_name(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(16000), 16000)
    for name in ("a.mp4", "a.txt", "a.raw", "noname", "слон 象.au"):
        (tmp_path / name).write_bytes((tmp_path / "a.wav").read_bytes())
        np.testing.assert_array_equal(read_audio(tmp_path / name, rate=16000), read_audio(tmp_path / "a.wav", rate=16000))


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
def test_a_span_of_sound_is_that_part_of_the_whole(tmp_path, extension):
    path, noise = tmp_path / f"a.{extension}", np.random.default_rng(1).normal(0, 0.1, 48000).astype(np.float32)
    soundfile.write(path, noise, 16000)
    whole = read_audio(path, rate=16000)
    part = read_audio(path, rate=16000, start=1.0, end=2.5)
    assert part.shape == (24000,)
    np.testing.assert_allclose(part, whole[16000:40000], atol=2e-3)
    assert len(read_audio(path, rate=16000, start=2.0, end=99.0)) == len(whole) - 32000


CONTAINERS = [
    ("mp4", "mpeg4", "aac", 44100),
    ("mpg", "mpeg1video", "mp2", 44100),
    ("webm", "libvpx", "libopus", 48000),
    ("avi", "mpeg4", "mp2", 48000),
]


@pytest.mark.parametrize(("extension", "codec", "sound", "rate"), CONTAINERS)
def test_sound_and_pictures_of_one_video(tmp_path, extension, codec, sound, rate):
    wave = tone(rate, 2.0)
    wave[: rate // 2] = 0
    path = write_video(tmp_path / f"a.{extension}", 50, codec=codec, sound=(sound, rate, wave))
    found = read_audio(path, rate=16000)
    assert abs(len(found) - 32000) < 1200
    assert level(found[:7000]) < 0.01 and level(found[10000:30000]) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)
    part = read_audio(path, rate=16000, start=0.25, end=0.75)
    assert part.shape == (8000,) and level(part[:3000]) < 0.01 and level(part[5500:]) > 0.3
    assert [number(frame) for frame in read_frames(path, count=8, size=32)] == np.linspace(0, 49, 8).astype(int).tolist()
    seen = probe(path)
    assert (seen.rate, seen.channels, seen.frames, seen.width, seen.height) == (rate, 1, 50, 64, 48)
    assert seen.seconds == pytest.approx(2.0, abs=0.1)


def bad(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / f"{kind}.wav"
    if kind == "directory":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(
            {"empty": b"", "text": b"this is no sound\n" * 200, "zeros": bytes(5000), "playlist": b"#EXTM3U\nhttp://localhost/a.ts\n"}[kind]
        )
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "no such file"),
        ("directory", "is a directory"),
        ("empty", "is empty"),
        ("text", "not a sound or video"),
        ("zeros", "not a sound or video"),
        ("playlist", "not a sound or video"),
    ],
)
def test_no_media_at_all(tmp_path, kind, reason):
    path = bad(tmp_path, kind)
    for call in (lambda: read_audio(path, rate=16000), lambda: read_frames(path, count=8, size=32), lambda: probe(path)):
        with pytest.raises(Unreadable, match=reason) as error:
            call()
        assert error.value.path == str(path) and "\n" not in str(error.value)


@pytest.mark.parametrize("extension", ["txt", "mp3", "mp4", "gsm", "au", "raw", "m3u8", "jpg"])
def test_text_under_any_name_is_not_media(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    path.write_text("all work and no play\n" * 300)
    for call in (lambda: read_audio(path, rate=16000), lambda: read_frames(path, count=2, size=8), lambda: probe(path)):
        with pytest.raises(Unreadable):
            call()


def test_permission_denied(tmp_path):
    if not hasattr(os, "geteuid"):
        pytest.skip("POSIX permissions only")
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(16000), 16000)
    path.chmod(0)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        with pytest.raises(Unreadable, match="permission denied"):
            read_audio(path, rate=16000)
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(tmp_path, value):
    wave = tone(16000)
    wave[500] = value
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    with pytest.raises(Unreadable, match="NaN or infinity"):
        read_audio(tmp_path / "a.wav", rate=8000)


def test_impossible_rate(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(16000), 3)
    with pytest.raises(Unreadable, match="declares 3 samples a second"):
        read_audio(tmp_path / "a.wav", rate=16000)


def test_no_samples(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.empty((0, 1), np.float32), 16000)
    with pytest.raises(Unreadable, match="no sound"):
        read_audio(tmp_path / "a.wav", rate=16000)


def test_streams_that_are_not_there(tmp_path):
    silent = write_video(tmp_path / "a.mp4", 5)
    with pytest.raises(Unreadable, match="no sound in this file"):
        read_audio(silent, rate=16000)
    assert probe(silent).rate is None
    soundfile.write(tmp_path / "a.wav", tone(16000), 16000)
    with pytest.raises(Unreadable, match="no pictures in this file"):
        read_frames(tmp_path / "a.wav", count=8, size=32)
    assert probe(tmp_path / "a.wav") == type(probe(silent))(1.0, 16000, 1)


@pytest.mark.parametrize(("extension", "frames"), [("wav", 48000), ("flac", 48000), ("mp3", 48000)])
def test_truncated_sound(tmp_path, extension, frames):
    path = tmp_path / f"a.{extension}"
    soundfile.write(path, np.random.default_rng(2).normal(0, 0.1, frames).astype(np.float32), 16000)
    if extension != "mp3":  # most of an MP3 declares no length: what is there is all there is
        with pytest.raises(Unreadable, match="truncated"):
            read_audio(truncate(path, 0.3), rate=16000)
    part = read_audio(truncate(path, 0.8), rate=16000)
    assert 0.6 * frames < len(part) < 0.85 * frames
    np.testing.assert_allclose(part[:20000], read_audio(path, rate=16000)[:20000], atol=1e-4)


@pytest.mark.parametrize("extension", ["mp4", "mkv"])
def test_truncated_video(tmp_path, extension):
    fast = {"movflags": "faststart"} if extension == "mp4" else {}
    source = write_video(tmp_path / f"raw.{extension}", 70, options={"g": "10"}, sound=("aac", 44100, tone(44100, 2.8)))
    path = tmp_path / f"a.{extension}"
    with av.open(str(source)) as given, av.open(str(path), "w", options=fast) as made:
        tracks = {stream.index: made.add_stream_from_template(stream) for stream in given.streams}
        for packet in given.demux():
            if packet.dts is not None:
                packet.stream = tracks[packet.stream.index]
                made.mux(packet)
    for call in (lambda p: read_frames(p, count=8, size=32), lambda p: read_audio(p, rate=16000)):
        with pytest.raises(Unreadable, match="truncated"):
            call(truncate(path, 0.3))
        call(truncate(path, 0.85))
    kept = [number(frame) for frame in read_frames(truncate(path, 0.85), count=8, size=32)]
    assert kept == sorted(kept) and 40 < kept[-1] < 69


def test_index_at_the_end_lost(tmp_path):
    path = truncate(write_video(tmp_path / "a.mp4", 50), 0.8)
    with pytest.raises(Unreadable, match="damaged beyond reading"):
        read_frames(path, count=8, size=32)


def test_spans_that_hold_nothing(tmp_path):
    path = write_video(tmp_path / "a.mp4", 50, sound=("aac", 44100, tone(44100, 2.0)))
    soundfile.write(tmp_path / "a.wav", tone(16000, 2.0), 16000)
    for call in (
        lambda **span: read_audio(tmp_path / "a.wav", rate=16000, **span),
        lambda **span: read_audio(path, rate=16000, **span),
        lambda **span: read_frames(path, count=2, size=8, **span),
    ):
        with pytest.raises(Unreadable, match=r"starts at 5 s but the file ends at 2\.\d\d s"):
            call(start=5.0)
        with pytest.raises(Unreadable, match="holds nothing"):
            call(start=1.0, end=1.0)
        with pytest.raises(Unreadable, match="holds nothing"):
            call(start=-1.0)


def test_damage_in_the_middle_makes_no_noise(tmp_path, capfd):
    video, sound = write_video(tmp_path / "a.mp4", 50, options={"g": "10"}), tmp_path / "a.mp3"
    soundfile.write(sound, tone(16000, 3.0), 16000)
    for path in (video, sound):
        content = bytearray(path.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 300] = b"garbage" * 42 + b"xxxxxx"
        path.write_bytes(content)
    capfd.readouterr()
    assert read_frames(video, count=8, size=32).shape == (8, 3, 32, 32)
    assert len(read_audio(sound, rate=16000)) > 40000 and probe(sound).rate == 16000
    for path in (truncate(video, 0.5), truncate(sound, 0.2)):
        with suppress(Unreadable):
            read_audio(path, rate=16000)
        with suppress(Unreadable):
            read_frames(path, count=8, size=32)
    assert capfd.readouterr() == ("", "")


def test_every_truncation_and_every_flipped_stretch_ends_in_a_result_or_in_unreadable(tmp_path):
    rng = np.random.default_rng(3)
    video = write_video(tmp_path / "a.mp4", 12, sound=("aac", 44100, tone(44100, 0.5)))
    soundfile.write(tmp_path / "a.flac", tone(16000, 0.3), 16000)
    soundfile.write(tmp_path / "a.wav", tone(16000, 0.3), 16000)
    for source in (video, tmp_path / "a.flac", tmp_path / "a.wav"):
        whole = source.read_bytes()
        for trial in range(40):
            content = bytearray(whole[: rng.integers(1, len(whole))] if trial % 2 else whole)
            for place in rng.integers(0, max(min(len(content), 4000), 1), 4):
                content[place] = rng.integers(0, 256)
            path = tmp_path / "hurt"
            path.write_bytes(content)
            for call in (lambda p: read_audio(p, rate=16000), lambda p: read_frames(p, count=3, size=8), probe):
                try:
                    call(path)
                except Unreadable as error:
                    assert error.reason


@needs_data
@pytest.mark.parametrize("name", ["grid/s1/bbaf4p.mp4", "grid/s1/bbal8p.mpg", "faces/markey_8s.mp4"])
def test_real_videos(name):
    path = DATA / name
    with av.open(str(path)) as container:
        whole = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    expected = np.stack([resize(whole[index], 112) for index in np.linspace(0, len(whole) - 1, 8).astype(int)])
    np.testing.assert_array_equal(read_frames(path, count=8, size=112), expected)
    seen = probe(path)
    assert seen.frames == len(whole) and abs(len(read_audio(path, rate=16000)) / 16000 - seen.seconds) < 0.05


@needs_data
def test_real_sound_files():
    names = [
        next((DATA / folder).glob(f"*.{end}"))
        for folder, end in (("esc10/rain", "ogg"), ("cough/callcentre/cough", "mp3"), ("cough/telegram/cough", "*"))
    ]
    for path in names:
        assert abs(len(read_audio(path, rate=16000)) / 16000 - probe(path).seconds) < 0.1
