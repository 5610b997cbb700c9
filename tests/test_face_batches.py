"""Prepared faces as batches: who is held out, which pictures follow each other, and that no network sees the mouth it should draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crossfade.clip import UserError
from crossfade.data.face.batches import APART, GAP, Epoch, Faces, Part, divide, identity_of
from crossfade.data.face.crop import CROPS
from crossfade.data.face.prepared import Prepared, Talk, begin, read

CROP = CROPS[96]


class InMemory(Talk):
    """A talk whose pictures are in memory: picture k is grey of value k, and row j of the sound says j."""

    @property
    def faces(self) -> np.ndarray:
        return np.broadcast_to(np.arange(len(self.kept), dtype=np.uint8)[:, None, None, None], (len(self.kept), 100, 100, 3))

    @property
    def rows(self) -> np.ndarray:
        return np.broadcast_to(np.arange(len(self.kept) + 19, dtype=np.float32)[:, None], (len(self.kept) + 19, 256))


def talk(name: str, frames: int = 75, dropped: tuple[int, ...] = (), group: str = "") -> InMemory:
    kept = ~np.isin(np.arange(frames), dropped)
    return InMemory(name, group or name, Path(name), kept, np.zeros((frames, 4), np.float32), Path())


def prepared(talks: list[InMemory]) -> Prepared:
    return Prepared(Path(), CROP, {"use": "logmel256"}, 256, list(talks))


def grey(values: np.ndarray) -> np.ndarray:
    return np.rint(values * 127.5 + 127.5)


def test_of_many_groups_whole_ones_are_held_out():
    talks = [talk(f"clip {number}", group=f"said {number // 2}") for number in range(40)]
    sides = divide(prepared(talks), val=0.1, test=0.2, seed=3)
    groups = [{part.talk.group for part in side} for side in (sides.train, sides.val, sides.test)]
    assert sides.whole and [len(names) for names in groups] == [14, 2, 4]
    assert not groups[0] & groups[1] and not groups[1] & groups[2] and not groups[0] & groups[2]
    again = divide(prepared(talks[::-1]), val=0.1, test=0.2, seed=3)
    assert {part.talk.clip for part in again.test} == {part.talk.clip for part in sides.test}


def test_of_one_clip_the_end_is_held_out_behind_a_gap():
    sides = divide(prepared([talk("only", 1000)]), val=0.1, test=0.15, seed=0)
    train, val, test = sides.train[0].frames, sides.val[0].frames, sides.test[0].frames
    assert not sides.whole
    assert (train[0], train[-1], val[0], val[-1], test[0], test[-1]) == (0, 739, 760, 839, 860, 999)
    assert val[0] - train[-1] > GAP and test[0] - val[-1] > GAP  # no window of sound is on two sides
    assert {sides.test[0].group(int(frame)) for frame in test} == {"only 825", "only 900", "only 975"}


def test_too_little_video_is_refused():
    with pytest.raises(UserError, match=r"data\.split\.val: 0\.1 leaves no two pictures .* to val; give it a larger share"):
        divide(prepared([talk("short", 60)]), val=0.1, test=0.15, seed=0)


def test_an_epoch_shows_every_picture_once_in_twos():
    parts = [Part(talk("a", 20, dropped=(7,)), np.flatnonzero(~np.isin(np.arange(20), 7))), Part(talk("b", 15), np.arange(15))]
    seen: list[tuple[float, ...]] = []
    epoch = Epoch(Faces(CROP), parts, size=4, seed=5)
    for batch in epoch:
        true = grey(batch["true"].numpy())[:, 0, 0, 0]
        first, second = true[0::2], true[1::2]
        assert (second == first + 1).all() and batch["pair"].tolist() == [0, 0, 1, 1]
        identity, hidden = (grey(batch["face"].numpy())[:, channel] for channel in (0, 3))
        assert (np.abs(identity[:, 0, 0] - np.repeat(first, 2)) >= APART).all()  # never the picture that is asked for
        assert (identity[0::2] == identity[1::2]).all()  # of both the same, or the difference would be the face's
        x, y, width, height = CROP.mask
        assert not hidden[:, y : y + height, x : x + width].any() and (hidden[:, 0, 0] == true).all()
        sound = batch["audio"].numpy()
        assert sound.shape == (4, 1, 20, 256) and (sound[:, 0, 0, 0] == true).all() and (sound[:, 0, 19, 0] == true + 19).all()
        seen += true.tolist()
    assert len(epoch) == len(list(epoch)) == 8  # 3 and 5 or 6 twos of a, 7 of b, by two
    assert max(seen.count(value) for value in seen) <= 2


def test_an_epoch_goes_on_where_it_stopped_and_differs_by_seed():
    parts = [Part(talk(name, 40), np.arange(40)) for name in "ab"]
    whole = [batch["true"].numpy() for batch in Epoch(Faces(CROP), parts, size=8, seed=1)]
    rest = [batch["true"].numpy() for batch in Epoch(Faces(CROP), parts, size=8, seed=1, start=3)]
    assert len(whole) == 10 and all((one == other).all() for one, other in zip(whole[3:], rest, strict=True))
    other = [batch["true"].numpy() for batch in Epoch(Faces(CROP), parts, size=8, seed=2)]
    assert any((one != another).any() for one, another in zip(whole, other, strict=True))
    assert len(Epoch(Faces(CROP), parts, size=8, seed=1, limit=4, start=1)) == 3


def test_processes_share_an_epoch():
    parts = [Part(talk("a", 80), np.arange(80))]
    shown = [
        {tuple(grey(batch["true"].numpy())[:, 0, 0, 0]) for batch in Epoch(Faces(CROP), parts, size=8, seed=1, rank=rank, world=2)}
        for rank in (0, 1)
    ]
    assert not shown[0] & shown[1] and len(shown[0]) == len(shown[1]) == 5


def test_without_sound_every_window_is_silent_and_a_shift_makes_sound_late():
    one = talk("a", 40)
    silence = np.full((20, 256), -0.8, np.float32)
    assert (Faces(CROP, silence).batch([one], [3], [20])["audio"].numpy() == silence).all()
    assert Faces(CROP).batch([one], [13], [20], shift=5)["audio"][0, 0, 0, 0] == 8  # what was said five pictures before comes now
    assert Faces(CROP).batch([one], [38], [20], shift=-5)["audio"][0, 0, 0, 0] == 39  # where the clip's sound ends


def test_the_first_kept_picture_shows_the_face():
    one = talk("a", 40, dropped=(0, 1))
    assert identity_of(one, 10) == 2 and identity_of(one, 2) == 39 == identity_of(one, 6)


def test_a_folder_that_something_else_wrote_in_is_said_in_one_line(tmp_path: Path):
    begin(tmp_path / "faces", {"size": 96, "features": {"use": "logmel256"}, "dim": 256, "settings": {}})
    (tmp_path / "faces/clips.csv").write_text("clip;group;video;kept\na;a;a;3\n")
    with pytest.raises(UserError, match=r"clips\.csv: is not as `crossfade face prepare` wrote it"):
        read(tmp_path / "faces")
    (tmp_path / "faces/clips.csv").write_text("clip,group,video,kept\na,a,a,3\n")
    with pytest.raises(UserError, match="is gone or damaged, but"):
        read(tmp_path / "faces")
    (tmp_path / "talk.mp4").write_bytes(b"")
    with pytest.raises(UserError, match=r"talk\.mp4: is a file; give the folder"):
        read(tmp_path / "talk.mp4")
