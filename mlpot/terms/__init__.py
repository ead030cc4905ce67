"""Energies beside the network: nuclear repulsion, and the core repulsion where training has no data."""
