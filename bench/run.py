"""Speed, memory and accuracy of mlpot beside other packages, each in its own environment, in one run and in turn.

    make bench                                    everything
    python bench/run.py energies md               some sections
    python bench/run.py --packages schnetpack     mlpot and one other package
    python bench/run.py --quick                   only to see that all works

Writes bench.json, bench.md and bench.png each time a section ends; sections that are not run keep the figures of
an earlier run.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from contenders import CONTENDERS, PROJECT, THROUGH_ASE
from report import draw, markdown
from sections import SECTIONS, Bench, measure

ENVIRONMENTS = list(dict.fromkeys(c.environment for c in (*CONTENDERS, *THROUGH_ASE)))


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--packages", nargs="*", default=ENVIRONMENTS[1:], help="besides mlpot; all by default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--longest", type=float, default=5.0, help="seconds that one call of another package may take"
    )
    parser.add_argument("--model", type=Path, help="a trained potential of ethanol, for the drift")
    parser.add_argument("--quick", action="store_true", help="few rounds, small systems")
    parser.add_argument("--output", type=Path, default=PROJECT / "runs/bench")
    given = parser.parse_args()
    for kind, names, known in (("section", given.sections, SECTIONS), ("package", given.packages, ENVIRONMENTS)):
        if wrong := set(names) - set(known):
            parser.error(f"unknown {kind} {', '.join(sorted(wrong))}; choose of {', '.join(known)}")
    return given


def main() -> None:
    """Measure, print, write."""
    given = arguments()
    bench = Bench(
        folder=given.output,
        environments=["mlpot", *given.packages],
        threads=given.threads,
        quick=given.quick,
        longest=given.longest,
        model=given.model,
        load=os.getloadavg()[0],
    )
    given.output.mkdir(parents=True, exist_ok=True)
    file = given.output / "bench.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    for name in given.sections or SECTIONS:
        print(f"measuring {name} ...", flush=True)
        results[name] = measure(bench, name)
        print(f"{name}: {results[name]['seconds']} s", flush=True)
        results = {section: results[section] for section in SECTIONS if section in results}
        write(results, given.output)
    bench.close()
    print(f"\n{(given.output / 'bench.md').read_text()}\nin {given.output}: bench.json, bench.md, bench.png")


def write(results: dict[str, Any], folder: Path) -> None:
    """Figures, tables and picture of all that was measured, so that a run that is ended keeps its sections."""
    for name, text in (("bench.json", json.dumps(results, indent=1)), ("bench.md", markdown(results))):
        part = folder / f".{name}.part"
        part.write_text(text)
        part.replace(folder / name)
    draw(results, folder / "bench.png")


if __name__ == "__main__":
    main()
