"""What a check of a corpus found: how much there is, problems and notes, as data and as lines for a terminal."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field

SHOWN = 8  # findings of a kind that `lines` writes out


@dataclass(frozen=True)
class Extent:
    """How much there is of a class, group or domain; seconds, of the clips whose length is known."""

    clips: int
    total: float
    median: float
    shortest: float
    longest: float


@dataclass(frozen=True)
class Finding:
    """One thing found: its kind, the clips or files it is about, and a sentence."""

    kind: str
    where: list[str]
    text: str


@dataclass(frozen=True)
class Findings:
    """`extents`: "all", "group", "domain", "split" and every target -> name -> Extent. `problems` would bias a result, `notes` not."""

    extents: dict[str, dict[str, Extent]]
    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """The same as plain dicts and lists, for json.dump."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For a terminal: what there is, then what is wrong, then what is worth knowing."""
        tables = [line for name, table in self.extents.items() for line in _table_lines(name, table)]
        return tables + _finding_lines("problem", self.problems) + _finding_lines("note", self.notes)


def _table_lines(name: str, table: dict[str, Extent]) -> list[str]:
    rows = [f"  {key}: {_amount(extent)}" for key, extent in table.items()]
    more = [f"  … and {len(rows) - 30} more"] if len(rows) > 30 else []
    return [f"{name} ({len(rows)})" if name != "all" else name, *rows[:30], *more]


def _amount(extent: Extent) -> str:
    lengths = f", {extent.total:.0f} s in all, median {extent.median:.2f} s, {extent.shortest:.2f} to {extent.longest:.2f} s"
    return f"{extent.clips} clips" + (lengths if extent.total else "")


def _finding_lines(rank: str, findings: list[Finding]) -> list[str]:
    lines = []
    for kind, times in Counter(finding.kind for finding in findings).items():
        some = [finding for finding in findings if finding.kind == kind][:SHOWN]
        lines += [f"{rank}: {kind} ({times})", *(f"  {_where(finding)}{finding.text}" for finding in some)]
        lines += [f"  … and {times - SHOWN} more"] if times > SHOWN else []
    return lines


def _where(finding: Finding) -> str:
    shown = ", ".join(finding.where[:4]) + (f" and {len(finding.where) - 4} more" if len(finding.where) > 4 else "")
    return shown and shown + ": "
