"""Molecular dynamics on ASE's integrators. Only this folder imports ase.md."""
