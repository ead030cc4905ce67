"""H5MD 1.1, the one format of trajectories and training sets: write, append, read by slices."""

from mlpot.data.errors import DataError, FormatError, KeysError, LabelError, UnitsError
from mlpot.data.frame import Frame, frame_of
from mlpot.data.h5md.read import Reader, add_to_hash, content_hash
from mlpot.data.h5md.several import SetReader
from mlpot.data.h5md.write import append, write

__all__ = [
    "DataError",
    "FormatError",
    "Frame",
    "KeysError",
    "LabelError",
    "Reader",
    "SetReader",
    "UnitsError",
    "add_to_hash",
    "append",
    "content_hash",
    "frame_of",
    "write",
]
