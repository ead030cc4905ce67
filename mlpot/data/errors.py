"""What can be wrong with a data file, by name."""


class DataError(ValueError):
    """A data file cannot be used; the message says what, why and what to do."""


class FormatError(DataError):
    """The file is damaged, of another kind or version, or has shapes that disagree."""


class UnitsError(DataError):
    """A unit is missing, unknown or of the wrong dimension."""


class LabelError(DataError):
    """A structure or label has values that nothing can be learned from, such as NaN; frames are named by index."""


class KeysError(DataError):
    """The names under which a file keeps its labels are not known, or are ambiguous."""


class LeftOutWarning(UserWarning):
    """A part of a source is not in what was read of it, or not in the file that was written."""
