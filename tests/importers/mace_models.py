"""Models of mace-torch to import; run by a Python that has it, on ethanol.xyz and silicon.xyz in the directory.

python mace_models.py DIRECTORY
"""

import subprocess
import sys
from pathlib import Path

from ase.io import read, write

COMMON = [
    "--valid_fraction=0.1", "--energy_key=REF_energy", "--forces_key=REF_forces", "--batch_size=5",
    "--valid_batch_size=5", "--device=cpu", "--seed=1", "--eval_interval=5", "--r_max=4.5", "--radial_MLP=[16,16]",
    "--num_radial_basis=6", "--max_num_epochs=3",
]  # fmt: skip
MODELS = {
    "scale_shift": ["--train_file=ethanol_0.xyz", "--E0s=IsolatedAtom", "--model=ScaleShiftMACE",
                    "--pair_repulsion", "--hidden_irreps=16x0e + 16x1o"],
    "plain": ["--train_file=silicon_0.xyz", "--E0s=IsolatedAtom", "--model=MACE", "--hidden_irreps=16x0e",
              "--default_dtype=float32"],
    "heads": ["--config=heads.yaml", "--model=ScaleShiftMACE", "--pair_repulsion", "--max_ell=2",
              "--hidden_irreps=8x0e + 8x1o + 8x2e"],
}  # fmt: skip
HEADS = """heads:
  first: {train_file: ethanol_0.xyz, E0s: IsolatedAtom}
  second: {train_file: ethanol_1.xyz, E0s: IsolatedAtom}
"""


def prepare(name: str) -> None:
    """Two sets of few structures, each with the isolated atoms, and labels under names of their own."""
    frames = read(f"{name}.xyz", ":")
    for atoms in frames:
        found = atoms.calc.results
        atoms.calc, atoms.info = None, {"REF_energy": found["energy"]}
        atoms.arrays["REF_forces"] = found["forces"]
        if len(atoms) == 1:
            atoms.info["config_type"] = "IsolatedAtom"
    alone = [atoms for atoms in frames if len(atoms) == 1]
    whole = [atoms for atoms in frames if len(atoms) > 1]
    for k in range(2):
        write(f"{name}_{k}.xyz", whole[k::12] + alone)


if __name__ == "__main__":
    train = Path(sys.executable).with_name("mace_run_train")
    for name in ("ethanol", "silicon"):
        prepare(name)
    Path("heads.yaml").write_text(HEADS)
    for name, options in MODELS.items():
        subprocess.run([str(train), f"--name={name}", *options, *COMMON], check=True)
