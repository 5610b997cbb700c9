"""`make bench`: all tables, or those that are named; each module prints its own and returns it as data."""

from __future__ import annotations

import argparse
import json
from importlib import import_module
from pathlib import Path

TABLES = {
    "heads": "head training on a frozen encoder, against what people would use instead",
    "unfreeze": "partial unfreezing, against a plain PyTorch loop",
    "intake": "reading video clips with sound, against other readers and the bare decoder",
    "growth": "time, memory and store size for 1, 4 and 16 times the clips",
    "startup": "what starting costs",
    "exports": "every packaged recipe in ONNX and ncnn, compared with itself on real clips",
    "drift": "what the original's habits cost in accuracy on MNIST",
}


def main() -> None:
    about = "\n".join(f"  {name:9} {text}" for name, text in TABLES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=f"tables, all by default:\n{about}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", metavar="table", help=", ".join(TABLES))
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that everything runs, measures nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the tables as data here too, beside those that are there already")
    asked = parser.parse_args()
    for name in asked.tables:
        if name not in TABLES:
            parser.error(f"no table {name!r}; there is {', '.join(TABLES)}")
    for name in asked.tables or TABLES:
        found = import_module(f"benchmarks.{name}").run(asked.quick)
        if asked.json:
            _keep(asked.json, name, found)


def _keep(file: Path, name: str, found: dict) -> None:
    """After every table, for a later one may fail after hours."""
    there = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(there | {name: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
