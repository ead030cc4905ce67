"""Data in: HDF5 trajectories, conversion, inspection. Only this folder imports h5py and ase.io."""
