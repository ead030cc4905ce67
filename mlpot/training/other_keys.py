"""Keys of training recipes as other packages call them, and what they are called here."""

from mlpot.models import DEFAULT

OTHER_KEYS = {
    **dict.fromkeys(("lr", "learningrate", "learning_rate"), "optimizer.learning_rate: 0.001"),
    **dict.fromkeys(("n_epochs", "max_epochs", "num_epochs", "max_num_epochs"), "training.epochs: 100"),
    **dict.fromkeys(("batchsize", "batch"), "training.batch_size: 5"),
    **dict.fromkeys(("train_file", "train_path", "dataset", "training_set"), "data.train: set.h5"),
    **dict.fromkeys(("valid_file", "val", "valid", "valid_fraction", "val_fraction"), "data.validation: 0.1"),
    "test_file": "data.test: test.h5",
    **dict.fromkeys(("r_max", "rcut", "rc", "cut_off"), "model.arguments.cutoff: 5.0, in Å"),
    **dict.fromkeys(
        ("e0s", "atomic_energies", "isolated_atom_energies"), "data.reference_energies: {H: -13.6}, in eV"
    ),
    **dict.fromkeys(("network", "architecture", "model_type", "type"), f"model.backbone: {DEFAULT}"),
    **dict.fromkeys(("energy_weight", "loss_energy"), "loss.energy: 1.0"),
    **dict.fromkeys(("forces_weight", "force_weight", "force", "loss_forces"), "loss.forces: 1.0"),
    **dict.fromkeys(("stress_weight", "virial", "virials_weight"), "loss.stress: 1.0"),
    **dict.fromkeys(("optim", "optimiser"), "optimizer.name: adamw"),
    **dict.fromkeys(("ema",), "optimizer.ema_decay: 0.999"),
    **dict.fromkeys(("finetune", "fine_tune", "foundation_model", "restart", "pretrained"), "model.start: FILE"),
    **dict.fromkeys(("outdir", "output", "output_dir", "run_dir", "work_dir"), "training.directory: runs/mine"),
    **dict.fromkeys(("default_dtype", "dtype"), "training.precision: float32"),
    **dict.fromkeys(("device",), "training.accelerator: cpu or gpu"),
}
"""Keys of recipes as other packages call them."""
