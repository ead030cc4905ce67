"""From a recipe to a trained potential. Lightning is imported here and nowhere else."""
