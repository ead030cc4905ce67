"""Many trainings that answer one question: would more data help, and which network is worth its cost."""
