"""How long `import mlpot` and its public names take beyond torch's own import; medians of fresh processes.

python bench/import_time.py
"""

import statistics
import subprocess
import sys

STATEMENTS = {
    "import torch": "import torch",
    "import mlpot": "import torch; import mlpot",
    "every public name": "import torch; import mlpot; [getattr(mlpot, name) for name in mlpot.__all__]",
}
CODE = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"


def seconds(statement: str) -> float:
    run = [sys.executable, "-c", CODE.format(statement)]
    return float(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    rounds = [{name: seconds(statement) for name, statement in STATEMENTS.items()} for _ in range(8)]
    measured = {name: statistics.median(r[name] for r in rounds[1:]) for name in STATEMENTS}  # the first warms up
    torch_alone = measured.pop("import torch")
    print(f"import torch: {torch_alone:.2f} s")
    for name, total in measured.items():
        print(f"{name}: {total - torch_alone:.2f} s beyond it")
