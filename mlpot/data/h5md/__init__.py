"""H5MD 1.1, the one format of trajectories and training sets: write, append, read by slices."""

from mlpot.data.errors import DataError, FormatError, KeysError, LabelError, UnitsError
from mlpot.data.frame import Frame, frame_of
from mlpot.data.h5md.read import Reader, content_hash
from mlpot.data.h5md.write import append, write

__all__ = [
    "DataError",
    "FormatError",
    "Frame",
    "KeysError",
    "LabelError",
    "Reader",
    "UnitsError",
    "append",
    "content_hash",
    "frame_of",
    "write",
]
