"""Data in: HDF5 trajectories, conversion, inspection. The only room that knows h5py and ase.io."""
