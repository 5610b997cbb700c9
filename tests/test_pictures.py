"""Pictures: linspace over the frames whatever the keyframes and what is skipped, uniform in time, upright, resized as torchvision does."""

import struct

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from test_media import number, write_video

from crossfade.data import pictures as pictures_module
from crossfade.data.media import pictures, probe, read_frames
from crossfade.data.pictures import cut, resize

CODINGS = [
    ("mp4", "mpeg4", {"g": "250"}),
    ("mp4", "mpeg4", {"g": "5"}),
    ("mkv", "mpeg4", {"g": "12", "bf": "2"}),
    ("mp4", "libx264", {"g": "7", "bf": "3"}),
    ("mp4", "libx264", {"g": "12", "bf": "2", "x264-params": "open-gop=1"}),
    ("mp4", "libx264", {"g": "250", "bf": "5", "x264-params": "b-adapt=0:b-pyramid=normal"}),
    ("ts", "libx264", {"g": "20", "bf": "3", "x264-params": "b-adapt=0:b-pyramid=none"}),
    ("mkv", "libx264", {"g": "20", "bf": "3", "x264-params": "b-adapt=0:interlaced=1"}),
    ("mp4", "libx265", {"g": "20", "x265-params": "bframes=4:b-adapt=0:log-level=none"}),
    ("mpg", "mpeg1video", {"g": "12", "bf": "2"}),
    ("ts", "mpeg2video", {"g": "12", "bf": "2"}),
    ("webm", "libvpx-vp9", {"g": "20"}),
]


def all_frames(path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize(("extension", "codec", "options"), CODINGS)
def test_frames_are_linspace_whatever_the_keyframes(tmp_path, extension, codec, options):
    path = write_video(tmp_path / f"a.{extension}", 50, codec=codec, options=options)
    whole = [resize(picture, 32) for picture in all_frames(path)]
    assert len(whole) == 50
    for count in (1, 3, 8, 50, 120):
        expected = np.stack([whole[index] for index in np.linspace(0, 49, count).astype(int)])
        np.testing.assert_array_equal(read_frames(path, count=count, size=32), expected)


@pytest.mark.parametrize(("extension", "codec"), [("mp4", "libx264"), ("mpg", "mpeg1video")])
def test_what_no_picture_refers_to_is_decoded_only_where_it_is_wanted(tmp_path, monkeypatch, extension, codec):
    options = {"g": "60", "bf": "3", **({"x264-params": "b-adapt=0:b-pyramid=none:scenecut=0"} if codec == "libx264" else {})}
    path = write_video(tmp_path / f"a.{extension}", 50, codec=codec, options=options)
    with av.open(str(path)) as container:
        kinds = [frame.pict_type for frame in container.decode(video=0)]
    decoded = []

    def counting(*given, stamped=pictures_module._stamped):
        for stamp, frame in stamped(*given):
            decoded.append(stamp)
            yield stamp, frame

    monkeypatch.setattr(pictures_module, "_stamped", counting)
    assert [number(frame) for frame in read_frames(path, count=3, size=32)] == [0, 24, 49]
    assert kinds.count(PictureType.B) > 10
    assert len(decoded) <= 50 - kinds.count(PictureType.B) + 2 * 3, "a wanted one, and what follows it in the file, may be a B frame"


@pytest.mark.parametrize("span", [(0.0, None), (1.01, 1.5)])
@pytest.mark.parametrize(("extension", "codec", "options"), [*CODINGS[:4], *CODINGS[-3:], ("avi", "mpeg4", {"g": "9"})])
def test_packets_too_large_to_be_kept_are_read_again(tmp_path, monkeypatch, extension, codec, options, span):
    path = write_video(tmp_path / f"a.{extension}", 50, codec=codec, options=options)
    kept = read_frames(path, count=8, size=32, start=span[0], end=span[1])
    monkeypatch.setattr(pictures_module, "KEPT", 2000)
    np.testing.assert_array_equal(read_frames(path, count=8, size=32, start=span[0], end=span[1]), kept)


@pytest.mark.parametrize("extension", ["mp4", "mkv", "mpg", "avi"])
@pytest.mark.parametrize(("start", "end"), [(1.0, 2.0), (0.5, None), (1.01, 1.03), (1.5, 99.0)])
def test_a_span_of_pictures(tmp_path, extension, start, end):
    path = write_video(tmp_path / f"a.{extension}", 60, codec="mpeg1video" if extension == "mpg" else "mpeg4", options={"g": "10"})
    stop = 60 if end is None else min(60, int(np.ceil(end * 25 - 1e-9)))
    expected = np.arange(int(start * 25 + 1e-9), stop)[np.linspace(0, stop - int(start * 25 + 1e-9) - 1, 4).astype(int)]
    assert [number(frame) for frame in read_frames(path, count=4, size=32, start=start, end=end)] == expected.tolist()


def test_variable_frame_rate_is_uniform_in_time(tmp_path):
    times = [*range(0, 1000, 100), *range(1000, 2000, 20)]
    path = write_video(tmp_path / "a.mkv", 60, times=times)
    goals = np.linspace(0, times[-1], 5)
    assert [number(frame) for frame in read_frames(path, count=5, size=32)] == [
        max(i for i, t in enumerate(times) if t <= goal) for goal in goals
    ]


@pytest.mark.parametrize("frames", [1, 3])
def test_short_videos_repeat_frames(tmp_path, frames):
    path = write_video(tmp_path / "a.mp4", frames)
    assert [number(frame) for frame in read_frames(path, count=8, size=32)] == np.linspace(0, frames - 1, 8).astype(int).tolist()
    assert probe(path).frames == frames


TURNS = {0: (1, 0, 0, 1), 3: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 1: (0, -1, 1, 0)}  # rot90 count -> a, b, c, d of the display matrix


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("mirrored", [False, True])
def test_display_matrix_is_honoured(tmp_path, turns, mirrored):
    path = write_video(tmp_path / "a.mp4", 2)
    plain = next(pictures(path, count=1))
    a, b, c, d = TURNS[turns]
    matrix = (-a if mirrored else a, b, 0, -c if mirrored else c, d, 0, 0, 0, 1 << 14)
    content = bytearray(path.read_bytes())
    struct.pack_into(">9i", content, content.find(b"tkhd") + 44, *(value << 16 for value in matrix))
    path.write_bytes(content)
    expected = np.rot90(plain, turns)
    np.testing.assert_array_equal(next(pictures(path, count=1)), expected[:, ::-1] if mirrored else expected)


def test_resize_equals_torchvision_and_box_cuts_first(tmp_path):
    from torch import from_numpy
    from torchvision.transforms.functional import resize as reference

    path = write_video(tmp_path / "a.mp4", 3)
    picture = next(pictures(path, count=1))
    np.testing.assert_array_equal(resize(picture, 24), reference(from_numpy(picture).permute(2, 0, 1), [24, 24], antialias=True).numpy())
    box = (0.5, 0.25, 1.0, 0.75)
    np.testing.assert_array_equal(read_frames(path, count=1, size=24, box=box)[0], resize(picture[12:36, 32:64], 24))
    assert cut(picture, (0.99, 0.99, 0.991, 0.991)).shape == (1, 1, 3)
