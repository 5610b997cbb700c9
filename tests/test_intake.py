"""What can be read is found before training: nothing unreadable ends a run, everything left out is named."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from test_packed import idx_bytes, write
from tiny import bound_by_modes

from crossfade.clip import Clip, Unreadable
from crossfade.data.intake import Reader, count_by_streams, take_in
from crossfade.data.log_mel import log_mel
from crossfade.data.ravdess import ravdess
from crossfade.data.streams import frames, image, waveform
from crossfade.stock import listing
from crossfade.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def reader(store):
    return Reader({"audio": waveform(seconds=0.3), "video": frames(count=2, size=16)}, store)


@pytest.fixture
def clips(demo_clips) -> list[Clip]:
    return ravdess(root=demo_clips).clips[:6]


def wav(path: Path, seconds: float = 0.3) -> Path:
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, round(16000 * seconds)), 16000)
    return path


def test_good_clips_come_back_in_order_with_their_streams(clips, reader):
    steps = []
    found = take_in(clips, reader, advance=lambda: steps.append(1))
    assert found.clips == clips and set(found.streams.values()) == {("audio", "video")} and found.failed == [] and len(steps) == 6


def test_each_file_is_decoded_once(clips, reader, monkeypatch):
    take_in(clips, reader)
    broken = replace(reader, streams={name: Refusing(stream) for name, stream in reader.streams.items()})
    assert len(take_in(clips, broken).clips) == 6


class Refusing:
    """A stream whose files have all become unreadable."""

    def __init__(self, stream):
        self.stream, self.key, self.reads = stream, stream.key, stream.reads

    def decode(self, clip):
        raise Unreadable(clip.id, "gone")


def test_bad_files_are_named_with_a_reason_and_the_rest_goes_on(clips, reader, tmp_path):
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("not a sound at all, just words\n" * 20)
    (tmp_path / "text.mp4").write_text("not a film\n" * 50)
    (tmp_path / "folder.wav").mkdir()
    bad = {
        "empty": {"audio": tmp_path / "empty.wav"},
        "text": {"audio": tmp_path / "text.wav"},
        "gone": {"audio": tmp_path / "gone.wav"},
        "folder": {"audio": tmp_path / "folder.wav"},
        "half": {"audio": wav(tmp_path / "good.wav"), "video": tmp_path / "text.mp4"},
    }
    given = [*clips[:2], *(Clip(name, media, {}, name) for name, media in bad.items()), clips[2]]
    found = take_in(given, reader)
    assert [clip.id for clip in found.clips] == [clips[0].id, clips[1].id, "half", clips[2].id]
    assert found.streams["half"] == ("audio",)
    assert [Path(path).name for path, _ in found.failed] == ["empty.wav", "text.wav", "gone.wav", "folder.wav", "text.mp4"]
    assert all(reason and "\n" not in reason for _, reason in found.failed) and found.failed_files == 5


def test_a_file_without_permission_is_named(reader, tmp_path):
    wav(tmp_path / "secret.wav").chmod(0)
    with bound_by_modes():
        found = take_in([Clip("a", {"audio": tmp_path / "secret.wav"}, {}, "g")], reader)
    assert found.failed[0][1] == "Permission denied"


def test_permission_errors_from_the_system_are_unreadable_files(reader, tmp_path, monkeypatch):
    path = wav(tmp_path / "secret.wav")
    opened = Path.open

    def refuse(self, *args, **options):
        if self == path:
            raise PermissionError(13, "Permission denied")
        return opened(self, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    assert take_in([Clip("a", {"audio": path}, {}, "g")], reader).failed == [(str(path), "Permission denied")]


def test_a_file_that_fails_for_two_streams_is_one_failed_file(store, tmp_path):
    (tmp_path / "text.mp4").write_text("not a film\n" * 50)
    both = Reader({"audio": waveform(), "video": frames(count=2, size=16)}, store)
    found = take_in([Clip("a", {"video": tmp_path / "text.mp4"}, {}, "g")], both)
    assert len(found.failed) == 2 and found.failed_files == 1 and found.clips == []


def test_a_clip_without_any_of_the_media_is_not_taken(reader, tmp_path):
    found = take_in([Clip("a", {"image": tmp_path / "a.png"}, {}, "g")], reader)
    assert found.clips == [] and found.failed == []
    with pytest.raises(Unreadable, match="has no audio or video file"):
        reader.read(Clip("a", {"image": tmp_path / "a.png"}, {}, "g"), "audio")


def test_sound_comes_from_the_audio_file_before_the_video(reader, clips, tmp_path):
    assert reader.source(clips[0], "audio") == clips[0].media["audio"]
    assert reader.source(replace(clips[0], media={"video": tmp_path / "a.mp4"}), "audio") == tmp_path / "a.mp4"


def test_stretches_of_one_file_are_stored_apart_and_streams_of_one_decoding_together(store, tmp_path):
    reader = Reader({"audio": waveform(seconds=0.1), "mel": log_mel(seconds=0.1)}, store)
    path = wav(tmp_path / "a.wav")
    clips = [Clip(f"a{start}", {"audio": path}, {}, "g", span=(start, start + 0.1)) for start in (0.0, 0.1)]
    take_in(clips, reader)
    assert len(list(store.root.rglob("*.npy"))) == 2
    assert not np.array_equal(reader.read(clips[0], "audio"), reader.read(clips[1], "audio"))


def test_a_replaced_file_is_read_anew(store, tmp_path):
    reader = Reader({"audio": waveform(seconds=0.1)}, store)
    clip = Clip("a", {"audio": wav(tmp_path / "a.wav")}, {}, "g")
    before = np.array(reader.read(clip, "audio"))
    soundfile.write(tmp_path / "a.wav", np.zeros(4800), 16000)
    os.utime(tmp_path / "a.wav", (1, 1))
    assert before.any() and not reader.read(clip, "audio").any()


def test_what_is_stored_is_named_for_a_person(store, tmp_path):
    reader = Reader({"audio": waveform(seconds=0.1), "video": frames(count=2, size=16)}, store, "tiny")
    clip = Clip("a", {"audio": wav(tmp_path / "a.wav")}, {}, "g")
    take_in([clip], reader)
    assert reader.remember(clip, "audio", "loud", lambda clip: True) and reader.remember(clip, "audio", "loud", None)  # type: ignore[arg-type]
    (entry,) = listing(store.root)
    assert entry.what == "decoded sound, rate 16000, samples 1600" and entry.recipes == ["tiny"] and entry.entries == 2
    take_in([clip], Reader(reader.streams, store, "other"))
    assert listing(store.root)[0].recipes == ["tiny", "other"]


def test_a_damaged_decoding_is_decoded_again(store, tmp_path):
    reader = Reader({"audio": waveform(seconds=0.1)}, store)
    clip = Clip("a", {"audio": wav(tmp_path / "a.wav")}, {}, "g")
    before = np.array(reader.read(clip, "audio"))
    (path,) = store.root.rglob("*.npy")
    damaged = bytearray(path.read_bytes())
    damaged[1000] ^= 1
    path.write_bytes(damaged)
    assert np.array_equal(reader.read(clip, "audio"), before) and path.read_bytes() != damaged


def test_a_reader_of_another_store_has_shelves_of_its_own(reader, clips, tmp_path):
    take_in(clips, reader)
    take_in(clips, replace(reader, store=Store(tmp_path / "second")))
    assert len(list((tmp_path / "second").rglob("*.npy"))) == len(list(reader.store.root.rglob("*.npy"))) == 12
    take_in(clips, replace(reader, store=Store(tmp_path / "third", keep=False)))
    assert not (tmp_path / "third").exists()


def test_a_request_to_stop_does_not_wait_for_the_rest(clips, reader):
    class Stop(Exception):
        pass

    class Slow(Refusing):
        taken = 0

        def decode(self, clip):
            Slow.taken += 1
            raise Unreadable(clip.id, "slow")

    def stop():
        raise Stop

    slow = replace(reader, streams={"audio": Slow(waveform(seconds=0.2))})
    with pytest.raises(Stop):
        take_in(clips * 200, slow, advance=stop)
    assert Slow.taken < 1000


def stills(store: Store) -> Reader:
    return Reader({"image": image(size=6)}, store)


def test_pictures_of_a_file_of_many_are_not_stored_each(store, tmp_path):
    many = np.random.default_rng(0).integers(0, 256, (9, 6, 6), dtype=np.uint8)
    path, steps = write(tmp_path / "many", idx_bytes(many)), []
    clips = [Clip(str(number), {"image": path}, {}, str(number), item=number) for number in range(10)]
    hurt = Clip("hurt", {"image": write(tmp_path / "hurt", idx_bytes(many)[:-1])}, {}, "h", item=0)
    found = take_in([clips[0], hurt, *clips[1:], replace(hurt, id="more", item=1)], stills(store), advance=lambda: steps.append(1))
    assert found.clips == clips[:9] and set(found.streams.values()) == {("image",)} and len(steps) == 12
    assert [Path(path).name for path, _ in found.failed] == ["hurt", "many", "hurt"] and found.failed_files == 2
    assert "so none of number 9" in found.failed[1][1] and "declares 9 × 6 × 6" in found.failed[0][1]
    np.testing.assert_array_equal(stills(store).read(clips[4], "image"), np.broadcast_to(many[4], (1, 3, 6, 6)))
    assert not list(store.root.rglob("*.npy"))
    with pytest.raises(Unreadable, match="so none of number 9"):
        stills(store).read(clips[9], "image")


def test_what_is_kept_of_two_pictures_of_a_file_is_kept_apart(store, tmp_path):
    path = write(tmp_path / "many", idx_bytes(np.zeros((2, 6, 6), np.uint8)))
    clips = [Clip(str(number), {"image": path}, {}, "g", item=number) for number in range(2)]
    answers = [stills(store).remember(clip, "image", "first?", lambda clip: clip.item == 0) for clip in clips]
    again = [stills(store).remember(clip, "image", "first?", lambda clip: clip.item != 0) for clip in clips]
    assert answers == again == [True, False]


def test_seventy_thousand_are_taken_in_in_no_time(store, tmp_path):
    path = write(tmp_path / "many", idx_bytes(np.zeros((70_000, 2, 2), np.uint8)))
    media = {"image": path}
    clips = [Clip(str(number), media, {}, str(number), item=number) for number in range(70_000)]
    started = time.process_time()
    assert len(take_in(clips, stills(store)).clips) == 70_000
    assert time.process_time() - started < 3, "about 0.3 s"


def test_a_folder_as_people_have_them(store, tmp_path):
    """A corrupt picture, a CMYK JPEG, a picture of one pixel, an animation, a text called .png: named, and what can be is used."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    good = Image.fromarray(pixels)
    for name in ("good.png", "corrupt.png"):
        good.save(tmp_path / name)
    (tmp_path / "corrupt.png").write_bytes((tmp_path / "good.png").read_bytes()[:200])
    good.convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    good.save(tmp_path / "moving.gif", save_all=True, append_images=[Image.new("RGB", (12, 12))])
    (tmp_path / "text.png").write_text("not a picture\n")
    clips = [Clip(path.name, {"image": path}, {}, path.name) for path in sorted(tmp_path.glob("*.*"))]
    for _ in range(2):  # the second time from the store
        found = take_in(clips, stills(store))
        assert [clip.id for clip in found.clips] == ["cmyk.jpg", "good.png", "moving.gif"]
        said = {Path(path).name: reason for path, reason in found.failed}
        assert set(said) == {"cmyk.jpg", "corrupt.png", "dot.png", "moving.gif", "text.png"}
        assert "1 × 1 pixels" in said["dot.png"] and "not an image" in said["text.png"] and "truncated" in said["corrupt.png"]
        assert "the first is used" in said["moving.gif"] and "CMYK" in said["cmyk.jpg"]


def test_counts_by_streams():
    assert count_by_streams({"a": ("audio", "video"), "b": ("audio",), "c": ("audio", "video")}) == {"audio+video": 2, "audio": 1}
