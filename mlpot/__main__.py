"""`python -m mlpot`: the command `mlpot`, of the Python that runs it."""

from mlpot.cli.main import main

main()
