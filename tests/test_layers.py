"""The house: who may import whom, how long a file may be, and which names are no names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "crossfade"
FILES = sorted(SOURCE.rglob("*.py"))
ISLANDS = {"data", "models", "training", "evaluation", "deploy"}
# A rung may import the rungs before it; the names on one rung may not import one another.
LADDER = [
    {"clip", "store"},
    {"rows", "stock"},
    {"settings", "signals"},
    {"use", "ncnn"},
    {"spec"},
    ISLANDS | {"recipes"},
    {"recipe"},
    {"build"},
    {"judge", "learnt", "shelf", "screen", "sketch"},
    {"activations", "explanation"},
    {"feed", "readiness"},
    {"work"},
    {"run", "tuning", "importing"},
    {"comparison", "windows"},
    {"robustness", "structures", "trial", "shipping"},
    {"exporting"},
    {"bench"},
    {"face"},
    {"tasks"},
    {"sweep"},
    {"demo"},
    {"inventory"},
    {"exchange", "talking"},
    {"cli"},
    {"__main__"},
]
MEANINGLESS = {"util", "utils", "helper", "helpers", "common", "misc", "base"}


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    """The parts of Crossfade that a file imports, wherever in the file it does so."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("crossfade.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_imports_only_lower_rungs(path: Path):
    part = part_of(path)
    if part == "__init__":
        return
    rung = next(number for number, parts in enumerate(LADDER) if part in parts)
    allowed = {part}.union(*LADDER[:rung])
    assert imported_parts(path) <= allowed, f"{part} may import only {sorted(allowed)}"


def test_the_ladder_names_every_part():
    assert {part_of(path) for path in FILES} == {"__init__"}.union(*LADDER)


def test_clip_and_store_import_nothing_of_ours():
    for name in ("clip", "store"):
        assert imported_parts(SOURCE / f"{name}.py") == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_is_one_idea(path: Path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 400
    assert path.stem.lower() not in MEANINGLESS
    assert lines and lines[0].startswith('"""'), "its first line says which idea"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_branch_on_a_variants_name(path: Path):
    """No elif that compares with a string, and no if that compares a `use` with one: variants are entries of a table."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for branch in node.orelse if isinstance(node, ast.If) else ():
            if isinstance(branch, ast.If) and isinstance(branch.test, ast.Compare):
                compared = [value for value in branch.test.comparators if isinstance(value, ast.Constant) and isinstance(value.value, str)]
                assert not compared, f"{path}:{branch.lineno}: elif on a name"


def test_importing_crossfade_imports_nothing_heavy():
    import subprocess
    import sys

    code = "import crossfade, crossfade.cli, sys; print([m for m in ('torch', 'numpy', 'av', 'sklearn', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_package_index_is_named():
    lock = (SOURCE.parents[1] / "requirements.lock").read_text()
    assert "://" not in lock and "index-url" not in lock and "torchaudio" not in lock
