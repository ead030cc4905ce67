"""The page of a training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols

from mlpot.figures.training import learning_panels, logs_of, read_logs
from mlpot.html.certificate import certified, verdict
from mlpot.html.data import data_cards, example_frames, frames_of_set
from mlpot.html.evaluation import compared, errors, headline
from mlpot.html.files import RunError, duration, number, read_json
from mlpot.html.page import Html, aside, chapters, facts, finding, more, page, pictures, table, tag, tiles
from mlpot.html.view import SCRIPT, view
from mlpot.model_file import hash_of, read_header, read_weights

QUANTITIES = {
    "energy": ("meV_per_atom", "meV/atom"),
    "forces": ("meV_per_A", "meV/Å"),
    "stress": ("meV_per_A3", "meV/Å³"),
}
SETS = ("validation", "test")


def training_page(folder: Path) -> str:
    """The page of the directory of a training that has finished."""
    metrics = read_json(folder / "metrics.json")
    if "free_flight_time" in metrics:
        raise RunError(
            f"{folder} holds a propagator, of which there is no page: see metrics.json and log.csv in it, or "
            "judge it by a trajectory: mlpot propagate judge"
        )
    header = read_header(folder / "model.safetensors")
    recipe = header["card"]["recipe"]
    files = recipe["data"]["train"]
    paths = [Path(file) for file in ([files] if isinstance(files, str) else files)]
    frames = frames_of_set(paths[0]) or example_frames(header["card"])
    parts: dict[str, list[Html]] = {
        "Errors": _errors(metrics),
        "Learning": [pictures(learning_panels(read_logs(logs_of(folder))))],
        "Parity": compared(folder),
        **_evaluations(folder),
        "Structures": [view(frames)] if frames else [],
        "Data": data_cards(paths, header["card"]["training_set_hash"]),
        "Certificate": _certificate(folder / "model.safetensors", header),
        "Provenance": [facts(_provenance(metrics, header)), more("Recipe", _text(folder / "recipe.yaml"))],
    }
    return page(f"Training {folder.name}", _headline(metrics, header), *chapters(parts), script=SCRIPT)


def _headline(metrics: Mapping[str, Any], header: Mapping[str, Any]) -> Html:
    of = "test" if "test" in metrics else "validation"
    certificate = header.get("certificate", {}).get("result")
    shown = {
        f"{name.capitalize()} MAE": (number(metrics[of][f"{name}_mae_{key}"]), f"{unit}, {of} set")
        for name, (key, unit) in QUANTITIES.items()
        if f"{name}_mae_{key}" in metrics[of]
    }
    shown["Backbone"] = (metrics["backbone"], f"{metrics['n_weights']} weights")
    shown["Elements"] = (", ".join(chemical_symbols[z] for z in header["elements"]), "")
    shown["Best epoch"] = (str(metrics["best_epoch"]), f"of {metrics['epochs']}")
    shown["Time"] = (duration(metrics["seconds"]), f"on {metrics['device']}")
    shown["Certificate"] = (verdict(certificate)[1], certificate["level"]) if certificate else ("none", "")
    return tiles(shown)


def _errors(metrics: Mapping[str, Any]) -> list[Html]:
    there = [name for name in SETS if name in metrics]
    rows = []
    for quantity, (key, unit) in QUANTITIES.items():
        for kind in ("mae", "rmse"):
            values = [metrics[name].get(f"{quantity}_{kind}_{key}") for name in there]
            if any(value is not None for value in values):
                rows.append((f"{quantity} {kind.upper()}, {unit}", *map(number, values)))
    head = ("", *(f"{name}, {metrics[name]['n_structures']} structures" for name in there))
    told = [table(head, rows)]
    if "test" not in metrics:
        words = "The best epoch was chosen by the validation frames, so that errors on others tend to be greater."
        told.append(finding("note", "There was no test set", tag("p", words, " Give one as data.test.")))
    if "validation_set_of" in metrics:
        words = "The mean of the committee, which learned from all of them, is judged by a test set alone."
        told.append(finding("note", f"Validation: {metrics['validation_set_of']}", tag("p", words)))
    for name, n in metrics.get("repeated_structures", {}).items():
        if n:
            words = f"{n} of them are in the training set too: their errors say little."
            told.append(finding("warning", f"Repeated {name} structures", tag("p", words)))
    return told


def _evaluations(folder: Path) -> dict[str, list[Html]]:
    """What `mlpot evaluate` wrote into the directory, or into folders in it."""
    parts = {}
    for path in sorted([*folder.glob("evaluation.json"), *folder.glob("*/evaluation.json")]):
        found = read_json(path)
        origin = found.get("provenance", {})
        name = path.parent.name if path.parent != folder else origin.get("data", "")
        pairs = compared(path.parent) if path.parent != folder else []
        title = "Evaluation" if name in ("evaluation", "") else f"Evaluation {name}"
        parts[title] = [headline(found), facts(origin), *errors(found), *pairs]
    return parts


def _certificate(path: Path, header: Mapping[str, Any]) -> list[Html]:
    if "certificate" not in header:
        return [aside(f"The model has none. mlpot verify {path} --attach makes one.")]
    stored = header["certificate"]
    other = finding(
        "error", "Of other weights", tag("p", "The weights were changed since. Run mlpot verify --attach anew.")
    )
    is_of_these = stored["weights_sha256"] == hash_of(read_weights(path))
    return [*([] if is_of_these else [other]), *certified(stored["result"])]


LABELS = {"structures": "structures", "energy": "energies", "forces": "forces on atoms", "stress": "stresses"}
"""Labels that a training counts, in words."""


def _provenance(metrics: Mapping[str, Any], header: Mapping[str, Any]) -> dict[str, str]:
    learned_from = ", ".join(f"{metrics['labels'][key]} {what}" for key, what in LABELS.items())
    processes = metrics["processes"]
    return {
        "made": header["created"],
        "with": ", ".join(f"{name} {version}" for name, version in header["versions"].items()),
        "seed": str(metrics["seed"]),
        "learned from": learned_from,
        "training set, SHA-256": header["card"]["training_set_hash"],
        "cutoff": f"{header['cutoff']} Å",
        "computes in": header["dtype"],
        "on": f"{metrics['device']}, {processes} process{'es' if processes > 1 else ''}",
    }


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
