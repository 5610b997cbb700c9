"""Two domains, of which one has labels: the other's are taken away before anything can look at them, and come back for the test alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from crossfade.clip import NEITHER, SOURCE, TARGET, Clip, UserError, seed_of
from crossfade.data.split import HEARD, Splits

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


def split_across(clips: Sequence[Clip], domains: Domains, split: Callable[[list[Clip]], Splits]) -> Splits:
    """Each domain split by itself, the target without its labels: they come back in `test`, and for the part of train that may show them.

    train and val hold both domains, test the target alone; the source's own test clips are set `aside`. Raises UserError where a domain
    has no clips.
    """
    by_number = {number: [clip for clip in clips if domains.number(clip) == number] for number in (SOURCE, TARGET)}
    _refuse_empty(clips, domains, by_number)
    known = {clip.id: clip for clip in by_number[TARGET]}
    source, target = split(by_number[SOURCE]), split([domains.hidden(clip) for clip in by_number[TARGET]])
    return Splits(
        [*source.train, *(known[clip.id] if domains.shown(clip) else clip for clip in target.train)],
        [*source.val, *target.val],
        [known[clip.id] for clip in target.test],
        [*source.warnings, *target.warnings, *_heard(source.train, target)],
        source.test,
    )


def _heard(trained_on: Sequence[Clip], target: Splits) -> list[str]:
    shared = {clip.group for clip in trained_on} & {clip.group for clip in target.test}
    return [f"{HEARD.format('test')}, in the other domain ({len(shared)} groups)"] if shared else []


def _refuse_empty(clips: Sequence[Clip], domains: Domains, by_number: dict[int, list[Clip]]) -> None:
    both = sorted(set(domains.source) & set(domains.target))
    if both:
        raise UserError(f"data.domains: {both[0]!r} is a source and a target at once; name it once")
    there = sorted({clip.domain for clip in clips})
    for key, names, found in (("source", domains.source, by_number[SOURCE]), ("target", domains.target, by_number[TARGET])):
        absent = [name for name in names if name not in there]
        if absent or not found:
            wanted = repr(absent[0]) if absent else "nothing"
            raise UserError(f"data.domains.{key}: found {wanted}; the corpus has the domains {', '.join(map(repr, there))}")
