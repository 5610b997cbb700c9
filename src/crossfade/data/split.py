"""Train, val and test: whole groups, close to the class proportions, the same for the same seed and any order of the clips."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

import numpy as np

from crossfade.clip import SEVERAL, Clip, UserError, classes_in
from crossfade.data.labels import names_in
from crossfade.data.ravdess import RAVDESS_FOLDS

SPLITS = ("train", "val", "test")
ASIDE = "source"  # what `Splits.aside` is called, in predictions.csv too
HEARD = "speakers in {} were heard in training"
FoldLists = Sequence[Sequence[str | int]]


@dataclass(frozen=True)
class Splits:
    """Three lists of clips, each sorted by id, and what a reader of the results must know."""

    train: list[Clip]
    val: list[Clip]
    test: list[Clip]
    warnings: list[str] = field(default_factory=list)
    aside: list[Clip] = field(default_factory=list)  # judged too, under a name of their own: test clips of the domain trained on

    @property
    def sides(self) -> dict[str, list[Clip]]:
        """Name -> clips, of all four."""
        return {**{name: getattr(self, name) for name in SPLITS}, ASIDE: self.aside}

    def counts(self, target: str, *, several: bool = False) -> dict[str, dict[str, int]]:
        """split -> class -> number of clips, every class in each split; clips of unknown label are left out.

        `several`: a clip may have several classes, and counts for each.
        """
        labels = {side: _labels(getattr(self, side), target) for side in SPLITS}
        tallies = {side: Counter(name for label in found for name in names_in(label, several)) for side, found in labels.items()}
        classes = sorted(set().union(*tallies.values()))
        return {side: {label: tally[label] for label in classes} for side, tally in tallies.items()}


def split(
    clips: list[Clip],
    *,
    by: Literal["group", "clip", "column", "auto"] = "group",
    ratios: tuple[float, float, float] = (0.7, 0.15, 0.15),
    groups: dict[Literal["train", "val", "test"], list[str | int]] | None = None,
    target: str | None = None,
    folds: int | list[list[str | int]] | Literal["ravdess"] | None = None,
    fold: int | None = None,
    seed: int = 0,
) -> Splits:
    """Three sides. `by` group keeps groups whole; clip does not, and warns; column takes what the corpus says; auto is column where
    the corpus says anything, and group elsewhere.

    `groups` names groups of a split; the groups that none names are shared, by `ratios`, between the splits that name none.
    `folds` (a number, lists of groups, or ravdess for the published ones) and `fold`, 0 … k − 1, are one round of
    cross-validation. `target` is the label whose proportions are kept close and whose absent classes are warned of.
    Raises UserError, always where a group would be on two sides and `by` is not clip.
    """
    if folds is not None or fold is not None:
        return _round(clips, folds, fold, by, groups, target, seed)
    shares = _shares(ratios)
    if groups and by != "group":
        raise UserError(f"split: groups are named but by is {by!r}; say by: group, or name no groups")
    ways = {"group": lambda: _by_group(clips, shares, groups or {}, target, seed), "clip": lambda: _by_clip(clips, shares, target, seed)}
    ways["column"] = lambda: _by_column(clips, shares, target, seed)
    ways["auto"] = lambda: _by_auto(clips, shares, groups or {}, target, seed)
    sides, warnings = ways[by]()
    shared = _shared(sides, may_share=by == "clip")
    return _splits(sides, shared + warnings, target)


def folds(clips: list[Clip], k: int | FoldLists, *, target: str | None = None, seed: int = 0) -> list[Splits]:
    """k-fold over groups: each clip is in test once; val is the next fold, train the rest. `k` may be lists of groups.

    Groups that no list names are in train in every round, with a warning. Raises UserError.
    """
    number = _dealt(clips, k, target, seed) if isinstance(k, int) else _listed(clips, k)
    count = max(number.values()) + 1
    unlisted = sorted({clip.group for clip in clips} - set(number))
    warnings = [f"groups in no fold, trained on and never tested: {', '.join(unlisted)}"] if unlisted else []
    return [_fold(clips, number, test, count, warnings, target) for test in range(count)]


# ---- three ways to assign: each returns the clips of every split, and warnings

Assigned = tuple[dict[str, list[Clip]], list[str]]


def _by_group(clips: list[Clip], shares: dict[str, float], groups: Mapping, target: str | None, seed: int) -> Assigned:
    side = _named(clips, groups)
    rest = [clip for clip in clips if clip.group not in side]
    free = {name: share for name, share in shares.items() if name not in groups}
    if rest and free:
        side |= _greedy(_grouped(rest), free, target, seed)
        rest = []
    unused = sorted({clip.group for clip in rest})
    warnings = [f"{len(rest)} clips are not used, no split names their groups: {', '.join(unused)}"] if unused else []
    return _gather(clips, [side.get(clip.group, "") for clip in clips]), warnings


def _by_clip(clips: list[Clip], shares: dict[str, float], target: str | None, seed: int) -> Assigned:
    ordered = _ordered(clips)
    units = {f"clip {i}": [clip] for i, clip in enumerate(ordered)}
    side = _greedy(units, shares, target, seed, noun="clips")
    return _gather(ordered, [side[name] for name in units]), []


def _by_column(clips: list[Clip], shares: dict[str, float], target: str | None, seed: int, *, says_what_it_takes: bool = True) -> Assigned:
    said = _gather(clips, [clip.split for clip in clips])
    if not said["train"]:
        raise UserError("split: by is column, but no clip of the corpus says train; add a split column or say by: group")
    silent = sum(not clip.split for clip in clips)
    warnings = [f"{silent} clips are not used, their split is empty"] if silent else []
    lacking = {name: share for name, share in shares.items() if not said[name]}
    if not lacking:
        return said, warnings
    side = _greedy(_grouped(said["train"]), {"train": shares["train"]} | lacking, target, seed)
    taken = _gather(said["train"], [side[clip.group] for clip in said["train"]])
    if says_what_it_takes:
        warnings.append(f"no clip says {' or '.join(lacking)}: taken from the groups that say train")
    return {name: said[name] if name != "train" and name not in lacking else taken[name] for name in SPLITS}, warnings


def _by_auto(clips: list[Clip], shares: dict[str, float], groups: Mapping, target: str | None, seed: int) -> Assigned:
    if not any(clip.split for clip in clips):
        return _by_group(clips, shares, groups, target, seed)
    return _by_column(clips, shares, target, seed, says_what_it_takes=False)  # auto asks for that


def _gather(clips: list[Clip], sides: list[str]) -> dict[str, list[Clip]]:
    return {name: [clip for clip, side in zip(clips, sides, strict=True) if side == name] for name in SPLITS}


def _splits(sides: dict[str, list[Clip]], warnings: list[str], target: str | None) -> Splits:
    train, val, test = (_ordered(sides[side]) for side in SPLITS)
    return Splits(train, val, test, warnings + _absent(sides, target))


def _grouped(clips: list[Clip]) -> dict[str, list[Clip]]:
    units: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        units[clip.group].append(clip)
    return dict(sorted(units.items()))


def _ordered(clips: list[Clip]) -> list[Clip]:
    return sorted(clips, key=lambda clip: (clip.id, clip.group, sorted(map(str, clip.media.values())), clip.span[0]))


def _labels(clips: Iterable[Clip], target: str | None) -> list[str]:
    return [clip.labels[target] for clip in clips if target in clip.labels] if target else []


def _kinds(label: str) -> list[str]:
    """The classes that a label joins; a label of none, "|", is a kind of its own."""
    return classes_in(label) or [label] if SEVERAL in label else [label]


def _shares(ratios: tuple[float, float, float]) -> dict[str, float]:
    """The wanted splits and their share of the clips."""
    if min(ratios) < 0 or ratios[0] == 0 or abs(sum(ratios) - 1) > 1e-6:
        raise UserError(f"split: ratios {tuple(ratios)} do not add up to 1 with train above 0; as in (0.7, 0.15, 0.15)")
    return {name: ratio for name, ratio in zip(SPLITS, ratios, strict=True) if ratio > 0}


# ---- whole units into shares


def _greedy(units: dict[str, list[Clip]], shares: dict[str, float], target: str | None, seed: int, noun: str = "groups") -> dict[str, str]:
    """unit -> split. The largest unit first, each to the split that lacks most of what the unit holds; none stays empty.

    `units` must come in an order that does not depend on that of the clips.
    """
    if len(units) < len(shares):
        raise UserError(f"split: {len(units)} {noun} ({', '.join(units)}) cannot fill {' and '.join(shares)}; {_advice(len(units), noun)}")
    held = _histograms(list(units.values()), target)
    weight = 1 / held.sum(0)
    lacking = np.array(list(shares.values()))[:, None] / sum(shares.values()) * held.sum(0)
    empty = np.ones(len(shares), bool)
    chosen = np.zeros(len(units), int)
    order = np.random.default_rng(seed).permutation(len(units))
    order = order[np.argsort(-held[order, 0], kind="stable")]
    for done, unit in enumerate(order):
        gain = lacking @ (held[unit] * weight)
        if len(units) - done <= empty.sum():
            gain[~empty] = -np.inf
        chosen[unit] = side = int(gain.argmax())
        lacking[side] -= held[unit]
        empty[side] = False
    names = list(shares)
    return {unit: names[side] for unit, side in zip(units, chosen, strict=True)}


def _advice(count: int, noun: str) -> str:
    """What would work with so few units."""
    if noun == "clips" or count < 2:
        return "add clips" if noun == "clips" else "add groups, or say by: clip and live with its warning"
    return "add groups, name fewer splits (ratios with a 0), or say by: clip and live with its warning"


def _histograms(units: list[list[Clip]], target: str | None) -> np.ndarray:
    """(units, 1 + classes): the clips of each unit, in all and of each class; an unknown label is a class too."""
    labels = [[kind for clip in unit for kind in _kinds(clip.labels.get(target or "", ""))] for unit in units]
    column = {label: 1 + i for i, label in enumerate(sorted(set().union(*labels)))}
    held = np.zeros((len(units), 1 + len(column)))
    for i, row in enumerate(labels):
        np.add.at(held[i], [0] * len(units[i]) + [column[label] for label in row], 1)
    return held


# ---- groups by name


def _named(clips: list[Clip], groups: Mapping) -> dict[str, str]:
    """group -> the split that names it."""
    there = sorted({clip.group for clip in clips})
    unknown = [name for name in groups if name not in SPLITS]
    if unknown:
        raise UserError(f"split: groups: no split {unknown[0]!r}; it is train, val or test")
    pairs = [(_match(name, there), side) for side, names in groups.items() for name in names]
    _refuse_twice(clips, pairs)
    return dict(pairs)


def _match(name: str | int, there: list[str]) -> str:
    """The group of that name: the same text, or the one group of the same whole number (2 is "02")."""
    if str(name) in there:
        return str(name)
    same = [group for group in there if group.isdecimal() and str(name).isdecimal() and int(group) == int(name)]
    if len(same) == 1:
        return same[0]
    near = get_close_matches(str(name), there, 1, 0.0) or ["none"]
    raise UserError(f"split: no group {str(name)!r} among {len(there)}; the nearest is {near[0]!r}")


def _refuse_twice(clips: list[Clip], pairs: list[tuple[str, object]]) -> None:
    """UserError where a group is given to two splits or folds."""
    twice = [name for name, n in Counter(name for name, _ in pairs).items() if n > 1]
    if twice:
        count, places = sum(clip.group == twice[0] for clip in clips), [str(place) for name, place in pairs if name == twice[0]]
        raise UserError(f"split: group {twice[0]!r} ({count} clips) is named twice, in {' and '.join(places)}; name each group once")


# ---- folds


def _round(clips: list[Clip], k: object, fold: int | None, by: str, groups: object, target: str | None, seed: int) -> Splits:
    """One round of `folds`, for `split`."""
    if by != "group" or groups:
        raise UserError("split: folds go over groups; say by: group and name no groups beside them")
    if k is None:
        raise UserError(f"split: fold {fold} without folds; say folds: 5, lists of groups, or ravdess")
    if isinstance(k, str):
        rounds, warnings = _published(clips, target)
    else:
        rounds, warnings = folds(clips, k, target=target, seed=seed), []  # pyright: ignore[reportArgumentType]
    if fold is None or not 0 <= fold < len(rounds):
        raise UserError(f"split: fold is {fold}; with {len(rounds)} folds it is 0 to {len(rounds) - 1}")
    chosen = rounds[fold]
    return Splits(chosen.train, chosen.val, chosen.test, warnings + chosen.warnings)


def _published(clips: list[Clip], target: str | None) -> tuple[list[Splits], list[str]]:
    """The published folds of RAVDESS; actors that the corpus lacks are said, a fold without any is refused."""
    there = {clip.group for clip in clips}
    lists = [[actor for actor in fold if actor in there] for fold in RAVDESS_FOLDS]
    if not all(lists):
        number = [bool(actors) for actors in lists].index(False)
        raise UserError(
            f"split: published fold {number} ({', '.join(RAVDESS_FOLDS[number])}) has no clip here; say folds: 5 instead of ravdess"
        )
    lacking = sorted({actor for fold in RAVDESS_FOLDS for actor in fold} - there)
    return folds(clips, lists, target=target), [f"actors of the published folds that are not here: {', '.join(lacking)}"] if lacking else []


def _dealt(clips: list[Clip], k: int, target: str | None, seed: int) -> dict[str, int]:
    """group -> fold, dealt so that the folds resemble each other."""
    units = _grouped(clips)
    _refuse_count(k)
    if len(units) < k:
        advice = f"say folds: {len(units)} or less" if len(units) >= 3 else "folds need 3 groups or more"
        raise UserError(f"split: {len(units)} groups cannot fill {k} folds; {advice}")
    side = _greedy(units, {str(i): 1 / k for i in range(k)}, target, seed)
    return {name: int(fold) for name, fold in side.items()}


def _listed(clips: list[Clip], lists: FoldLists) -> dict[str, int]:
    """group -> fold, as the lists say."""
    there = sorted({clip.group for clip in clips})
    _refuse_count(len(lists))
    if not all(lists):
        raise UserError("split: folds: a list is empty; name at least one group in each")
    pairs = [(_match(name, there), i) for i, names in enumerate(lists) for name in names]
    _refuse_twice(clips, [(name, f"fold {i}") for name, i in pairs])
    return dict(pairs)


def _refuse_count(k: int) -> None:
    if k < 3:
        raise UserError(f"split: {k} folds; at least 3 are needed: one to test, one to choose by, the others to train on")


def _fold(clips: list[Clip], number: dict[str, int], test: int, count: int, warnings: list[str], target: str | None) -> Splits:
    name = {test: "test", (test + 1) % count: "val"}
    sides = _gather(clips, [name.get(number.get(clip.group, -1), "train") for clip in clips])
    return _splits(sides, warnings, target)


# ---- what must be said


def _shared(sides: dict[str, list[Clip]], *, may_share: bool) -> list[str]:
    """Warnings, or UserError, for groups on two sides."""
    held = {side: {clip.group for clip in clips} for side, clips in sides.items()}
    for one, other in (("train", "test"), ("train", "val"), ("val", "test")):
        both = sorted(held[one] & held[other])
        if both and not may_share:
            counts = [sum(clip.group == both[0] for clip in sides[side]) for side in (one, other)]
            found = f"group {both[0]!r} is in {one} ({counts[0]} clips) and {other} ({counts[1]} clips), {len(both)} such groups"
            raise UserError(f"split: {found}; give each group one side, or say by: clip and live with its warning")
    heard = [HEARD.format(side) for side in ("test", "val") if held["train"] & held[side]]
    return heard[:1]


def absent_classes(wanted: Iterable[Clip], there: Iterable[Clip], target: str | None) -> list[str]:
    """The classes of which there are clips among those `wanted` and not among those `there`, sorted."""
    return sorted(_classes(wanted, target) - _classes(there, target))


def _classes(clips: Iterable[Clip], target: str | None) -> set[str]:
    return {kind for label in _labels(clips, target) for kind in _kinds(label)} - {SEVERAL}


def _absent(sides: dict[str, list[Clip]], target: str | None) -> list[str]:
    """Warnings for classes that are not in train, or not in a test that there is."""
    everywhere = [clip for clips in sides.values() for clip in clips]
    absent = {side: absent_classes(everywhere, sides[side], target) for side in ("train", "test") if sides[side]}
    return [f"{target}: no clip of class {', '.join(labels)} is in {side}" for side, labels in absent.items() if labels]
