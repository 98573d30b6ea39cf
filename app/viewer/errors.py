"""Errors as one sentence for the page."""

import errno

from lumigraph.datasets.files import printable

SENTENCE_LIMIT = 1000
"""Characters: paths are long, what a damaged file puts in a message may be longer."""


def sentence_of(error: BaseException) -> str:
    """What an error says to people, in one line."""
    match error:
        case MemoryError():
            sentence = "Out of memory: take smaller photos or fewer splats"
        case RuntimeError() if "allocate memory" in str(error):  # torch has no type for it
            return sentence_of(MemoryError())
        case OSError() if error.errno == errno.ENOSPC:
            sentence = f"The disk is full ({error.filename}): free some space"
        case OSError() if error.filename is not None and error.strerror:
            sentence = f"{error.filename}: {error.strerror}"
        case ValueError() | OSError():
            sentence = str(error) or type(error).__name__
        case _:
            sentence = f"An error of Lumigraph's own, please report it: {error!r}"
    return printable(" ".join(sentence.split()))[:SENTENCE_LIMIT]
