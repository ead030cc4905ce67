"""`mlpot info`: a potential on one screen, or all that its file says; as in `cli`, imports stand inside."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlpot.cli.data import console, new_table, print_facts
from mlpot.cli.options import Model, counted

if TYPE_CHECKING:
    from mlpot.potential import Potential

SETS = ("validation", "test")
UNITS = {
    "energy": ("meV_per_atom", "meV/atom"),
    "forces": ("meV_per_A", "meV/Å"),
    "stress": ("meV_per_A3", "meV/Å³"),
}
LABELS = {"energy": "energies", "forces": "forces on atoms", "stress": "stresses"}
MOST = 12  # things of a kind in a line
LONGEST = 60  # characters of a word that a file says


def info(
    model: Model,
    as_json: Annotated[
        bool | None,
        typer.Option(
            "--json/--text",
            help="Print all that the file says as JSON, or what matters as text. Without either, text goes to a "
            "terminal and JSON elsewhere, where a script reads it.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Tell what a potential is: elements, training, errors, certificate, what computes it, and what it lacks."""
    from mlpot.equivariance import rotated_copies
    from mlpot.executors import computed_by, computed_on_cuda_by
    from mlpot.model_file import load_potential

    potential = load_potential(model)
    computed = {
        "computed on a CPU by": computed_by(potential),
        "computed on a CUDA device by": computed_on_cuda_by(potential),
        "mirror images": potential.mirror_images,
        "rotated copies": rotated_copies(potential),
    }
    if not sys.stdout.isatty() if as_json is None else as_json:
        text = json.dumps({**potential.header, **computed}, indent=2, ensure_ascii=False)
        # Numbers of a list stand in one line; line breaks are never in a string of JSON.
        print(re.sub(r'\[\n\s*([^][{}"]+?)\n\s*\]', lambda found: f"[{' '.join(found[1].split())}]", text))
        return
    print_facts({name: _shown(fact) for name, fact in (_facts(potential) | computed).items()})
    _print_errors(_at(potential.header, "card", "metrics"))
    last = {"certificate": _told(_certificate, potential.header), "not there": _told(_lacking, potential)}
    print_facts({name: _shown(fact) for name, fact in last.items()})
    console.print(f"All that the file says: mlpot info {model} --json", markup=False, soft_wrap=True)


def _facts(potential: Potential) -> dict[str, str]:
    """What the file says of the potential and of its training; empty where it says nothing."""
    from ase.data import chemical_symbols

    header, n_weights = potential.header, sum(p.numel() for p in potential.parameters())
    symbols = [chemical_symbols[z] for z in potential.elements]
    energies = (f"{symbol} {e:.4f}" for symbol, e in zip(symbols, potential.reference.tolist(), strict=True))
    return {
        "potential": f"{_network(potential)}, {n_weights} weights, {header['dtype']}",
        "elements": ", ".join(symbols),
        "isolated atoms, eV": _few(energies),
        "cutoff": f"{potential.cutoff:g} Å; messages reach {potential.n_passes * potential.cutoff:g} Å",
        "units": ", ".join(f"{quantity} {unit}" for quantity, unit in header["units"].items()),
        "trained on": _told(_training_set, header),
        "its structures": _told(_ranges, _at(header, "card", "ranges")),
        "training": _told(_training, _at(header, "card", "metrics")),
        "imported from": _imported(_at(header, "card", "imported")),
        "started from": _word(header, "card", "start", "model"),
        "made": f"{_word(header, 'created')}, with mlpot {_word(header, 'versions', 'mlpot')}",
    }


def _told(say: Callable[[Any], str], of: Any) -> str:
    """What there is to say of a part of the file, which may be of any version, or of a stranger."""
    try:
        return say(of)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return f"not as this mlpot writes it ({error!r})"


def _network(potential: Potential) -> str:
    of, arguments = potential.backbone_name, potential.arguments
    if "member" in arguments:
        return f"{of} of {arguments.get('n_members', '')} {arguments['member']}"
    return f"{of} {arguments['network']}" if "network" in arguments else of


def _training_set(header: Mapping[str, Any]) -> str:
    labels = _at(header, "card", "labels")
    if not labels:
        return ""
    n = ", ".join(f"{labels.get(key, 0)} {what}" for key, what in LABELS.items())
    return f"{_word(header, 'card', 'training_set')}: {counted(labels.get('structures', 0), 'structure')} ({n})"


def _ranges(ranges: Mapping[str, Any]) -> str:
    if not ranges:
        return ""
    smallest, largest = ranges["n_atoms"]
    sizes = f"{smallest} atoms" if smallest == largest else f"{smallest} to {largest} atoms"
    force = f"forces to {ranges['largest_force_component_eV_per_A']:.3g} eV/Å"
    nearest = _few(f"{pair} {d:.2f}" for pair, d in ranges["nearest_distance_A"].items())
    return f"{sizes}, {force}; nearest atoms, Å: {nearest}"


def _training(metrics: Mapping[str, Any]) -> str:
    if "epochs" not in metrics:
        return ""
    told = f"{counted(metrics['epochs'], 'epoch')}, the best {metrics['best_epoch']}, {metrics['seconds']:.0f} s"
    return f"{told} on {metrics['device']}, seed {metrics['seed']}"


def _imported(told: Mapping[str, Any]) -> str:
    if not told:
        return ""
    return f"{_word(told, 'from')}, differs by {_word(told, 'differences', 'float64')} in float64"


def _certificate(header: Mapping[str, Any]) -> str:
    kept = _at(header, "certificate")
    result = _at(kept, "result")
    if not result:
        return "none"
    if not kept.get("of_these_weights"):
        return "of other weights, so it says nothing of these"
    failed = [check["id"] for check in result["checks"] if not check["passed"]]
    verdict = "passed" if result["passed"] else f"NOT passed: {', '.join(failed)}"
    return f"{verdict}, level {result['level']}, {len(result['checks'])} checks, {result['created']}"


def _lacking(potential: Potential) -> str:
    """What a user could expect of a potential and does not find in this file."""
    from mlpot.extrapolation import untold_kinds

    card = _at(potential.header, "card")
    labels, metrics, lacking = _at(card, "labels"), _at(card, "metrics"), list[str]()
    if not _at(potential.header, "certificate", "of_these_weights"):
        lacking.append("a certificate of these weights (mlpot verify MODEL --attach makes one)")
    if not metrics:
        lacking.append("errors (mlpot evaluate MODEL DATA finds them)")
    elif "test" not in metrics:
        lacking.append("errors on a test set, which chose nothing in the training (data.test)")
    lacking += [f"{what} in its training" for key, what in LABELS.items() if labels and not labels.get(key)]
    lacking += filter(None, [untold_kinds(potential.header)])
    if potential.domain is None:
        lacking.append("extrapolation grades, so that nothing warns of structures unlike its training")
    if potential.core_repulsion is None and potential.repulsion is None:
        lacking.append("repulsion of atoms that are closer than in its training")
    return "; ".join(lacking)


def _print_errors(metrics: Any) -> None:
    """Errors of the sets on which the training judged the potential, as far as they are numbers."""
    sets = {name: errors for name in SETS if isinstance(errors := _at(metrics, name), Mapping) and errors}
    heads = [f"{name} {kind}" for name in sets for kind in ("MAE", "RMSE")]
    n = (counted(errors.get("n_structures", "?"), f"{name} structure") for name, errors in sets.items())
    table = new_table(_shown(f"Errors of {', '.join(n)}"), "", *heads)
    for quantity, (key, unit) in UNITS.items():
        found = [e.get(f"{quantity}_{kind}_{key}") for e in sets.values() for kind in ("mae", "rmse")]
        if any(isinstance(error, float) for error in found):
            table.add_row(f"{quantity}, {unit}", *(f"{e:.4g}" if isinstance(e, float) else "" for e in found))
    if table.row_count:
        console.print(table)


def _at(told: Any, *keys: str) -> Any:
    """What stands in mappings in one another; an empty one where one of the keys does not."""
    for key in keys:
        told = told.get(key) if isinstance(told, Mapping) else None
    return {} if told is None else told


def _word(told: Any, *keys: str) -> str:
    """The same as a short text."""
    text = str(_at(told, *keys) or "")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _shown(text: str) -> str:
    """The same without what moves the cursor of a terminal, whoever made the file."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _few(things: Iterable[str]) -> str:
    shown = [*things]
    more = len(shown) - MOST
    return ", ".join(shown[:MOST]) + (f", and {more} more" if more > 0 else "")
