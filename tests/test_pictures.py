"""Pictures: linspace over the frames whatever the keyframes, uniform in time, upright, resized as torchvision does."""

import struct

import av
import numpy as np
import pytest
from test_media import number, write_video

from crossfade.data.media import pictures, probe, read_frames
from crossfade.data.pictures import cut, resize


@pytest.mark.parametrize("count", [1, 3, 8, 50, 120])
@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("mpeg4", {"g": "250"}),
        ("mpeg4", {"g": "5"}),
        ("libx264", {"g": "7", "bf": "3"}),
        ("libx264", {"g": "12", "bf": "2", "x264-params": "open-gop=1"}),
    ],
)
def test_frames_are_linspace_whatever_the_keyframes(tmp_path, codec, options, count):
    path = write_video(tmp_path / "a.mp4", 50, codec=codec, options=options)
    with av.open(str(path)) as container:
        whole = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    indices = np.linspace(0, 49, count).astype(int)
    expected = np.stack([resize(whole[index], 32) for index in indices])
    np.testing.assert_array_equal(read_frames(path, count=count, size=32), expected)


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
