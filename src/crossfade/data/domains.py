"""Two domains, of which one has labels: the other's are taken away before anything can look at them, and come back for the test alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from crossfade.clip import NEITHER, SOURCE, TARGET, Clip, UserError, seed_of
from crossfade.data.split import HEARD, Splits, absent_classes

SHARES = 1 << 32


@dataclass(frozen=True)
class Domains:
    """Names of domains; `labelled` is the share of the target's training clips whose labels may be used after all, always the same ones."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    labelled: float = 0.0
    seed: int = 0

    def number(self, clip: Clip) -> int:
        return SOURCE if clip.domain in self.source else TARGET if clip.domain in self.target else NEITHER

    def hidden(self, clip: Clip) -> Clip:
        return replace(clip, labels={})

    def shown(self, clip: Clip) -> bool:
        """Whether this target clip belongs to the fixed part that keeps its labels in training."""
        return seed_of(self.seed, "labelled", clip.id) % SHARES < self.labelled * SHARES


Split = Callable[[list[Clip]], Splits]


def split_across(clips: Sequence[Clip], domains: Domains, split: Split, label: str | None = None) -> Splits:
    """Each domain split by itself, the target without its labels: they come back in `test`, and for the part of train that may show them.

    train and val hold both domains, test the target alone; the source's own test clips are set `aside`. `label` is the one whose absent
    classes are warned of. Raises UserError where a domain has no clips.
    """
    by_number = {number: [clip for clip in clips if domains.number(clip) == number] for number in (SOURCE, TARGET)}
    _refuse_empty(clips, domains, by_number)
    known = {clip.id: clip for clip in by_number[TARGET]}
    ours, theirs = f"source ({', '.join(domains.source)})", f"target ({', '.join(domains.target)})"
    source = _said_of(ours, split, by_number[SOURCE])
    target = _said_of(theirs, split, [domains.hidden(clip) for clip in by_number[TARGET]])
    train = [*source.train, *(known[clip.id] if domains.shown(clip) else clip for clip in target.train)]
    test = [known[clip.id] for clip in target.test]
    absent = [*_untaught(clips, [*by_number[SOURCE], *train], label), *_untested(theirs, train, test, label)]
    warnings = [*source.warnings, *target.warnings, *absent, *_heard(source.train, target)]
    return Splits(train, [*source.val, *target.val], test, warnings, source.test)


def _said_of(side: str, split: Split, clips: list[Clip]) -> Splits:
    """A domain's own split, of which every warning and error says whose it is."""
    try:
        made = split(clips)
    except UserError as error:
        raise UserError(f"{side}: {error}") from None
    return replace(made, warnings=[f"{side}: {warning}" for warning in made.warnings])


def _untaught(clips: Iterable[Clip], teaching: Iterable[Clip], label: str | None) -> list[str]:
    """Classes that the corpus has and those clips have not: all of the source, for what its split keeps from training is said there."""
    lost = absent_classes(clips, teaching, label)
    return [f"{label}: no clip of the source is of class {', '.join(lost)}, so no training clip teaches it"] if lost else []


def _untested(side: str, train: Iterable[Clip], test: Iterable[Clip], label: str | None) -> list[str]:
    if label and test and not any(label in clip.labels for clip in test):
        return [f"{side}: {label}: no clip of test has a label, so how good it is there is not known; what is judged is the source's"]
    lost = absent_classes(train, test, label)
    return [f"{side}: {label}: no clip of class {', '.join(lost)} is in test"] if lost else []


def _heard(trained_on: Sequence[Clip], target: Splits) -> list[str]:
    shared = {clip.group for clip in trained_on} & {clip.group for clip in target.test}
    return [f"{HEARD.format('test')}, in the other domain ({len(shared)} groups)"] if shared else []


def _refuse_empty(clips: Sequence[Clip], domains: Domains, by_number: dict[int, list[Clip]]) -> None:
    both = sorted(set(domains.source) & set(domains.target))
    if both:
        raise UserError(f"data.domains: {both[0]!r} is a source and a target at once; name it once")
    there = sorted({clip.domain for clip in clips} - {""})
    has = f"the corpus has the domains {', '.join(map(repr, there))}"
    if not there:
        raise UserError("data.domains: the corpus has no domains; they are folders, domain/class/*, or the column `domain` of a CSV")
    if not {*domains.source, *domains.target} & {*there}:
        said = f"the recipe says source {', '.join(domains.source)} and target {', '.join(domains.target)}"
        raise UserError(f"data.domains: {said}, but {has}; name them: data.domains={{source: […], target: […]}}")
    for key, names, found in (("source", domains.source, by_number[SOURCE]), ("target", domains.target, by_number[TARGET])):
        absent = [name for name in names if name not in there]
        if absent or not found:
            wanted = repr(absent[0]) if absent else "nothing"
            empty = ", a folder without any clip" if absent and _is_folder(clips, absent[0]) else ""
            raise UserError(f"data.domains.{key}: found {wanted}{empty}; {has}")


def _is_folder(clips: Iterable[Clip], name: str) -> bool:
    """Whether there is a folder of this name beside one that a domain is named after."""
    named = {folder for clip in clips for path in clip.media.values() for folder in path.parents if folder.name == clip.domain != ""}
    return any(folder.with_name(name).is_dir() for folder in named)
