"""Arguments of ASE calculators as other packages call them, and what they are called here."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

FIRST = 'the first argument, without a name: MLPotCalculator("model.safetensors")'
DTYPE = 'dtype="float64" or dtype="float32"'
DEVICE = 'device="cpu", "cuda" or "cuda:1"'
SKIN = "skin=0.5, in Å"
IN_FILE = "not needed, as the file of a potential says it"
ONE_HEAD = f"{IN_FILE}: a potential has one head"
UNITS = "not needed, as results are in eV, eV/Å and eV/Å³"
COMPILED = "not needed, as what computes is compiled"
NAMES = "not needed, as results have ASE's names: energy, forces, stress"
OTHER_KEYWORDS = {
    **dict.fromkeys(
        ("model", "models", "model_path", "model_paths", "model_file", "model_name", "checkpoint",
         "checkpoint_path", "compile_path", "predictor", "predict_unit", "file", "filename", "path"), FIRST
    ),
    **dict.fromkeys(("default_dtype", "precision", "float_dtype", "default_type", "set_global_dtype"), DTYPE),
    **dict.fromkeys(("use_gpu", "use_cuda", "gpu", "gpu_id", "cuda", "cpu"), DEVICE),
    **dict.fromkeys(("head", "heads", "task_name", "modal", "model_type"), ONE_HEAD),
    **dict.fromkeys(
        ("chemical_symbols", "species_to_type_name", "chemical_species_to_atom_type_map", "type_names",
         "type_dict", "species", "elements", "cutoff", "r_max", "charges_key", "allow_unfrozen"), IN_FILE
    ),
    **dict.fromkeys(("cutoff_skin", "cutoff_shell", "neighbor_skin", "nl_skin"), SKIN),
    **dict.fromkeys(("neighbor_list", "neighbor_list_cls", "neighborlist"), f"not needed; for its skin: {SKIN}"),
    **dict.fromkeys(
        ("energy_key", "force_key", "forces_key", "stress_key", "info_keys", "arrays_keys"), NAMES
    ),
    **dict.fromkeys(
        ("energy_unit", "position_unit", "length_unit", "stress_unit", "force_unit", "energy_units_to_eV",
         "length_units_to_A", "energy_units", "length_units", "stress_weight"), UNITS
    ),
    **dict.fromkeys(
        ("compile", "compile_mode", "fullgraph", "enable_cueq", "enable_oeq", "jit", "use_compile",
         "torch_compile", "converter", "transforms", "additional_inputs"), COMPILED
    ),
    **dict.fromkeys(
        ("dispersion", "damping", "dispersion_xc", "dispersion_cutoff"),
        "another calculator, added by ase.calculators.mixing.SumCalculator",
    ),
    "atoms": "made so: atoms.calc = MLPotCalculator(...)",
}  # fmt: skip
"""Words of the calculators of some ten packages, and of ASE."""


def refused_keywords(given: Iterable[str], own: Iterable[str]) -> str:
    """What to say of arguments that a calculator does not have.

    Args:
        given: their names.
        own: names that it has.
    """
    own, told = list(own), []
    for name in given:
        near = get_close_matches(name, own, n=1)
        here = OTHER_KEYWORDS.get(name) or (f"{near[0]}=..., perhaps" if near else "")
        told.append(f"{name} (here {here})" if here else name)
    return f"MLPotCalculator has no argument {', '.join(told)}. It has {', '.join(own)}."
