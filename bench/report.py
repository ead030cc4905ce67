"""What was measured as tables of Markdown, bars with their figures, and a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from contenders import CONTENDERS
from floor import flops_per_atom
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Figures = dict[str, Any]
Rows = list[list[str]]
OURS, QUINTIC, PLAIN = "mlpot", "mlpot, quintic", "mlpot, plain"
OTHERS = [c.name for c in CONTENDERS if c.environment != "mlpot"]
COLORS = dict(zip([c.name for c in CONTENDERS], ["C3", "C6", "0.6", "C0", "C2", "C1", "C4", "C5"], strict=True))


def markdown(results: Figures) -> str:
    """Every section that was measured, and the bars."""
    figures = {name: section["figures"] for name, section in results.items() if section["figures"]}
    some_quick = any(section["quick"] for section in results.values())
    parts = ["## Bars", *(["Some of this was quick, only to see that it works."] if some_quick else [])]
    parts += [table(["bar", "figure", "required", ""], list(bars(figures)))]
    for name, section in results.items():
        quick = ", quick: only to see that it works" if section["quick"] else ""
        busy = (
            f" on a machine with a load of {section['load']:.1f}: no figure to keep"
            if section["load"] > 0.5
            else ""
        )
        parts += [f"## {name}", f"{section['date']}, {section['threads']} threads{busy}{quick}"]
        if name in figures:
            parts += TABLES[name](figures)
        parts += ["\n".join(f"- {note}" for note in section["notes"])] if section["notes"] else []
    return "\n\n".join(parts) + "\n"


def table(header: list[str], rows: Rows) -> str:
    """Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def fastest_other(seconds: Figures) -> tuple[str, float]:
    """The name and the median of the fastest other package; infinite if none took part."""
    others = {name: seconds[name]["median"] for name in OTHERS if name in seconds}
    best = min(others, key=others.__getitem__, default="no other")
    return best, others.get(best, float("inf"))


def _energies(figures: Figures) -> list[str]:
    systems: Figures = figures["energies"]["systems"]
    names = [c.name for c in CONTENDERS if any(c.name in s["seconds"] for s in systems.values())]
    fidelity = figures.get("fidelity", {})
    header = [*(f"{n} atoms" for n in systems), "max abs(ΔF), eV/Å", "FD error, eV/Å"]
    rows, ratios = [], []
    for name in names:
        f = fidelity.get(name)
        errors = [f"{max(f[n]['float32'] for n in _sizes(f)):.0e}", f"{f['differences']:.0e}"] if f else ["", ""]
        rows.append([name, *(_ms(s["seconds"].get(name)) for s in systems.values()), *errors])
        ratios.append([name, *(_ratio(s["seconds"], name) for s in systems.values())])
    rows.append(["edges", *(str(s["n_edges"]) for s in systems.values()), "", ""])
    versions = (f"{n} {v['version']} (torch {v['torch']})" for n, v in figures["energies"]["versions"].items())
    return [
        "Energy and forces, list given, float32: median ms. Errors: see fidelity; drift: see nve.",
        table(["ms", *header], rows),
        table(["times mlpot's", *header[:-2]], ratios),
        "Versions: " + "; ".join(versions) + ".",
        *_notes(figures["energies"]["versions"]),
        *_floor(figures["energies"]),
    ]


def _notes(versions: Figures) -> list[str]:
    notes = [v["note"] for v in versions.values() if "note" in v]
    return ["Notes: " + "; ".join(notes) + "."] if notes else []


def _floor(figures: Figures) -> list[str]:
    gflops = max(figures["gemm_gflops"], default=0.0)
    rows = [
        [str(n), f"{flops / 1e6:.2f}", f"{1e6 * floor:.1f}", f"{1e6 * taken:.1f}", f"{taken / floor:.2f}"]
        for n, flops, floor, taken in floors(figures)
    ]
    header = ["atoms", "MFLOP/atom", "floor, µs/atom", "mlpot, µs/atom", "distance"]
    return [
        f"Distance from the arithmetic floor, at {gflops:.0f} GFLOP/s of matrix products:",
        table(header, rows),
    ]


def floors(figures: Figures) -> Iterator[tuple[int, float, float, float]]:
    """Atoms; operations, least seconds and seconds per atom of mlpot."""
    gflops = max(figures["gemm_gflops"], default=0.0)
    for n, system in figures["systems"].items():
        if OURS in system["seconds"] and gflops:
            flops = flops_per_atom(system["n_edges"] / int(n))
            yield int(n), flops, flops / gflops * 1e-9, system["seconds"][OURS]["median"] / int(n)


def _fidelity(figures: Figures) -> list[str]:
    sizes = _sizes(next(iter(figures["fidelity"].values())))
    header = ["eV/Å", "forces − differences of energy, float64"]
    header += [f"{n} atoms: {what}" for n in sizes for what in ("greatest force", "float32", "float64")]
    rows = []
    for name, f in figures["fidelity"].items():
        cells = [f"{f[n][key]:.1e}" for n in sizes for key in ("greatest_force", "float32", "float64")]
        rows.append([name, f"{f['differences']:.1e}", *cells])
    return [
        "Greatest deviation of a force component from the same weights in float64; for mlpot from the filter "
        "network evaluated on every edge, so that what the table costs is in it.",
        table(header, rows),
    ]


def _sizes(fidelity: Figures) -> list[str]:
    return [n for n in fidelity if n != "differences"]


def _md(figures: Figures) -> list[str]:
    rows = [[name, f"{f['steps_per_s']:.0f}"] for name, f in figures["md"].items()]
    return ["Ethanol, ASE's Langevin, each package's own calculator.", table(["", "steps/s"], rows)]


def _training(figures: Figures) -> list[str]:
    batches = figures["training"]
    names = next(iter(batches.values()), {})
    rows = [[name, *(_ms(batch.get(name)) for batch in batches.values())] for name in names]
    return ["One optimizer step with a force loss: median ms.", table(["ms", *batches], rows)]


def _mace(figures: Figures) -> list[str]:
    rows = [[name, _ms(seconds)] for name, seconds in figures["mace"].items()]
    return [
        "One optimizer step of MACE with a force loss on five acetylacetones: median ms.",
        table(["", "ms"], rows),
    ]


def _directions(figures: Figures) -> list[str]:
    measured = figures["directions"]
    rows = [[name, f"{steps:.0f}"] for name, steps in measured["steps_per_s"].items()]
    return [
        "Energy and forces, list given, float32: median ms.",
        _by_atoms(measured["systems"]),
        "MD of ethanol, ASE's Langevin.",
        table(["", "steps/s"], rows),
    ]


def _through_ase(figures: Figures) -> list[str]:
    return [
        "Energy and forces by each package's calculator, atoms moved by 0.002 Å before each call: median ms.",
        _by_atoms(figures["through_ase"]),
    ]


def _by_atoms(systems: Figures) -> str:
    names = list(dict.fromkeys(name for seconds in systems.values() for name in seconds))
    rows = [[name, *(_ms(seconds.get(name)) for seconds in systems.values())] for name in names]
    return table(["ms", *(f"{n} atoms" for n in systems)], rows)


def _memory(figures: Figures) -> list[str]:
    memory = figures["memory"]
    sizes = sorted({n for f in memory.values() for n in f}, key=int)
    rows = [[name, *(f"{f[n]:.0f}" if n in f else "" for n in sizes)] for name, f in memory.items()]
    return [
        "Peak resident memory of a process, MiB, energy and forces.",
        table(["MiB", *(f"{n} atoms" for n in sizes)], rows),
    ]


def _egnn(figures: Figures) -> list[str]:
    egnn = figures["egnn"]
    rows = [
        [
            name,
            _ms(t),
            *(f"{egnn['deviation'][name][key]:.1e}" for key in ("greatest_force", "float32", "float64")),
        ]
        for name, t in egnn["seconds"].items()
    ]
    header = ["", "ms", "greatest force, eV/Å", "deviation from plain float64: float32", "float64"]
    return [f"EGNN, {egnn['n_atoms']} atoms, energy and forces.", table(header, rows)]


def _nve(figures: Figures) -> list[str]:
    nve = figures["nve"]
    return [f"{nve['model']}:", "\n".join(f"- {line}" for line in nve["lines"])] if nve["lines"] else []


TABLES: dict[str, Callable[[Figures], list[str]]] = {
    "memory": _memory,
    "energies": _energies,
    "fidelity": _fidelity,
    "md": _md,
    "training": _training,
    "directions": _directions,
    "through_ase": _through_ase,
    "mace": _mace,
    "egnn": _egnn,
    "nve": _nve,
}


def bars(figures: Figures) -> Iterator[list[str]]:
    """What the project promises of speed, beside what was measured."""
    yield from _energy_bars(figures.get("energies", {"systems": {}, "gemm_gflops": []}))
    speed = {name: f["steps_per_s"] for name, f in figures.get("md", {}).items()}
    others = {name: speed[name] for name in OTHERS if name in speed}
    if OURS in speed and others:
        best = max(others, key=others.__getitem__)
        yield _bar(f"MD of ethanol, steps/s, against {best}", speed[OURS] / others[best], 5)
    batch = figures.get("training", {}).get("8 Si64", {})
    for name, least in ((PLAIN, 5), ("SchNetPack SchNet", 6)):
        if OURS in batch and name in batch:
            ratio = batch[name]["median"] / batch[OURS]["median"]
            yield _bar(f"training step, 14 336 edges, against {name}", ratio, least)
    maces = figures.get("mace", {})
    for ours in (name for name in maces if name.startswith("mlpot") and name.removeprefix("mlpot ") in maces):
        theirs = ours.removeprefix("mlpot ")
        ratio = maces[theirs]["median"] / maces[ours]["median"]
        yield _bar(f"training step, 5 acetylacetones, {ours}, against mace-torch", ratio, 8)
    yield from _direction_bars(figures)
    seconds = figures.get("egnn", {}).get("seconds", {})
    for ours in (name for name in seconds if name.startswith("mlpot")):
        plain = seconds[ours.replace("mlpot", "plain")]["median"]
        yield _bar(f"{ours}, energy + forces, against the plain one", plain / seconds[ours]["median"], 2.5)
    for name, limit in ((OURS, 1e-4), (QUINTIC, 1e-6)):
        if name in figures.get("fidelity", {}):
            yield from _fidelity_bars(name, figures["fidelity"][name], limit)


MACE_BARS: dict[str, dict[str, dict[str, float]]] = {
    "directions": {
        "MACE 64x0e": {"9": 10, "27": 15, "216": 30, "1000": 40},
        "MACE 128x0e+128x1o": {"216": 45, "1000": 45},
    },
    "through_ase": {
        "symmetrix-xl MACE 64x0e": {"9": 15, "27": 15, "216": 5, "1000": 2.5},
        "symmetrix-xl MACE 128x0e+128x1o": {"9": 10, "27": 8, "216": 2, "1000": 1.3},
    },
}
"""Times faster by section, other package and number of atoms."""


def _direction_bars(figures: Figures) -> Iterator[list[str]]:
    systems = {
        "directions": figures.get("directions", {}).get("systems", {}),
        "through_ase": figures.get("through_ase", {}),
    }
    for section, by_name in MACE_BARS.items():
        for theirs, least in by_name.items():
            ours = "mlpot " + theirs.removeprefix("symmetrix-xl ")
            for n, bar in least.items():
                seconds = systems[section].get(n, {})
                if ours in seconds and theirs in seconds:
                    ratio = seconds[theirs]["median"] / seconds[ours]["median"]
                    yield _bar(f"{ours}, energy + forces, {n} atoms, against {theirs}", ratio, bar)
    seconds = systems["directions"].get("1000", {})
    other, time = fastest_other({n: t for n, t in seconds.items() if "MACE" not in n})
    if "mlpot ACE" in seconds and time < float("inf"):
        ratio = time / seconds["mlpot ACE"]["median"]
        yield _bar(f"mlpot ACE, energy + forces, 1000 atoms, against {other}", ratio, 5)
    for name, steps in figures.get("directions", {}).get("steps_per_s", {}).items():
        yield _bar(f"MD of ethanol, {name}, steps/s", steps, 1000)


def _energy_bars(energies: Figures) -> Iterator[list[str]]:
    for n, least in (("9", 6), ("27", 8), ("216", 10), ("1000", 10)):
        seconds = energies["systems"].get(n, {}).get("seconds", {})
        other, time = fastest_other(seconds)
        if OURS in seconds and time < float("inf"):
            yield _bar(f"energy + forces, {n} atoms, against {other}", time / seconds[OURS]["median"], least)
    large = [(taken, floor) for n, _, floor, taken in floors(energies) if n >= 1000]
    if large:
        yield _bar("distance from the floor, 1000 atoms", large[0][0] / large[0][1], 2, most=True)
    if len(large) > 1:
        most = max(abs(taken / large[0][0] - 1) for taken, _ in large)
        yield _bar("change of the cost of an atom from 1000 atoms up", most, 0.25, most=True)


def _fidelity_bars(name: str, fidelity: Figures, limit: float) -> Iterator[list[str]]:
    table_error = max(fidelity[n]["float64"] / fidelity[n]["greatest_force"] for n in _sizes(fidelity))
    yield _bar(f"{name}: table against filter network, relative", table_error, limit, most=True)
    yield _bar(f"{name}: finite-difference force error, eV/Å", fidelity["differences"], 1e-7, most=True)


def _bar(what: str, value: float, limit: float, most: bool = False) -> list[str]:
    met = value <= limit if most else value >= limit
    return [
        what,
        f"{value:.2g}" if value < 0.01 else f"{value:.2f}",
        f"{'≤' if most else '≥'} {limit:g}",
        _verdict(met),
    ]


def _verdict(met: bool) -> str:
    return "met" if met else "**missed**"


def _ms(seconds: Figures | None) -> str:
    return f"{1e3 * seconds['median']:.3g}" if seconds else ""


def _ratio(seconds: Figures, name: str) -> str:
    if name not in seconds or OURS not in seconds:
        return ""
    return f"{seconds[name]['median'] / seconds[OURS]['median']:.1f}"


def draw(results: Figures, path: Path) -> None:
    """Time per atom and peak memory against the number of atoms, both axes logarithmic."""
    figures = {name: section["figures"] for name, section in results.items()}
    energies = figures.get("energies") or {"systems": {}, "gemm_gflops": []}
    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    speed, memory = figure.subplots(1, 2)
    for axes, label in ((speed, "energy and forces, µs per atom"), (memory, "peak memory, GiB")):
        axes.set(xscale="log", yscale="log", xlabel="atoms", ylabel=label)
        axes.grid(alpha=0.3)
    for name, color in COLORS.items():
        taken = [(int(n), s["seconds"][name]) for n, s in energies["systems"].items() if name in s["seconds"]]
        _line(speed, [(n, 1e6 * t["median"] / n) for n, t in taken], name, color)
        peaks = figures.get("memory", {}).get(name, {})
        _line(memory, [(int(n), mib / 1024) for n, mib in peaks.items()], name, color)
    least = [(n, 1e6 * floor) for n, _, floor, _ in floors(energies)]
    speed.plot([n for n, _ in least], [floor for _, floor in least], "k:", label="arithmetic floor")
    figure.legend(*speed.get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)


def _line(axes: Axes, points: list[tuple[int, float]], name: str, color: str) -> None:
    width = 2.2 if name == OURS else 1.2
    x, y = [n for n, _ in points], [value for _, value in points]
    axes.plot(x, y, "o-", color=color, label=name if points else None, linewidth=width, markersize=4)
