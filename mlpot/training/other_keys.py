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
    **dict.fromkeys(("ema", "use_ema"), "optimizer.ema_decay: 0.999"),
    **dict.fromkeys(("scheduler", "lr_scheduler"), "optimizer.schedule: cosine"),
    **dict.fromkeys(("lr_patience", "scheduler_patience"), "optimizer.plateau_patience: 10"),
    **dict.fromkeys(("warmup", "warmup_epochs", "lr_warmup_steps"), "optimizer.warmup_steps: 100"),
    **dict.fromkeys(
        ("gradient_clip", "gradient_clip_val", "clip_grad", "max_grad_norm", "grad_clip"), "training.clip: 10.0"
    ),
    **dict.fromkeys(("early_stopping", "early_stopping_patience"), "training.patience: 50"),
    **dict.fromkeys(("num_workers", "n_workers", "dataloader_num_workers"), "data.workers: 2"),
    **dict.fromkeys(("num_gpus", "gpus", "n_gpus"), "training.devices: 1, with training.accelerator: gpu"),
    **dict.fromkeys(("max_time", "time_limit", "wall_time"), "training.max_minutes: 60"),
    **dict.fromkeys(("swa", "stage_two"), "loss.final_energy: 10.0, for the last part of the run"),
    **dict.fromkeys(
        ("huber_delta", "huber_threshold"), "loss.energy_threshold, forces_threshold and stress_threshold: 0.01"
    ),
    **dict.fromkeys(("zbl", "pair_repulsion"), "model.repulsion: true"),
    **dict.fromkeys(
        ("num_channels", "hidden_channels", "num_features", "num_interactions", "num_layers", "hidden_irreps"),
        "an argument of the network, under model.arguments (`mlpot recipe --backbone NAME` prints them)",
    ),
    **dict.fromkeys(
        ("energy_key", "forces_key", "stress_key", "virials_key", "key_mapping"),
        "an option of the command that makes a set: mlpot data convert FILE set.h5 --key energy=NAME",
    ),
    **dict.fromkeys(
        ("units", "unit", "energy_unit", "energy_units", "length_unit"),
        "an option of the command that makes a set: mlpot data convert FILE set.h5 --unit energy=kcal/mol",
    ),
    **dict.fromkeys(
        ("n_train", "num_train", "n_val", "num_val"), "data.validation: 50, frames; the others are trained on"
    ),
    **dict.fromkeys(("finetune", "fine_tune", "foundation_model", "restart", "pretrained"), "model.start: FILE"),
    **dict.fromkeys(("outdir", "output", "output_dir", "run_dir", "work_dir"), "training.directory: runs/mine"),
    **dict.fromkeys(("default_dtype", "dtype"), "training.precision: float32"),
    **dict.fromkeys(("device",), "training.accelerator: cpu or gpu"),
}
"""Keys of recipes as other packages call them."""

SAID = {
    "function": {
        "squared": "mse mseloss rmse l2 l2loss mean-squared weighted",
        "absolute": "mae maeloss l1 l1loss mean-absolute",
        "huber": "smooth-l1 smoothl1 smoothl1loss huberloss universal",
    },
    "name": {"adamw": "sgd lbfgs rmsprop adagrad lion radam nadam"},
    "schedule": {
        "plateau": "reducelronplateau reduce-on-plateau",
        "cosine": "cosineannealinglr exponential exponentiallr step steplr onecycle linear",
        "none": "constant constantlr fixed",
    },
    "precision": {
        "float64": "64 double fp64 torch.float64",
        "float32": "32 single float fp32 torch.float32 medium",
    },
}
OTHER_VALUES = {
    key: {word: f"write {own}" for own, words in values.items() for word in words.split()}
    for key, values in SAID.items()
}
"""Values of keys in several sections as other packages call them."""
