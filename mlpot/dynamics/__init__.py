"""Molecular dynamics on ASE's integrators. The only room that knows ase.md."""
