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
    times = []
    for _ in range(5):
        run = [sys.executable, "-c", CODE.format(statement)]
        times.append(float(subprocess.run(run, check=True, capture_output=True, text=True).stdout))
    return statistics.median(times)


if __name__ == "__main__":
    measured = {name: seconds(statement) for name, statement in STATEMENTS.items()}
    torch_alone = measured.pop("import torch")
    print(f"import torch: {torch_alone:.2f} s")
    for name, total in measured.items():
        print(f"{name}: {total - torch_alone:.2f} s beyond it")
