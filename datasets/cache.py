"""Where files are kept that can be made again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder of everything cached: $LUMIGRAPH_CACHE, else `lumigraph` in the user's caches."""
    if own := os.environ.get("LUMIGRAPH_CACHE"):
        return Path(own)
    users = os.environ.get("XDG_CACHE_HOME")
    return (Path(users) if users else Path.home() / ".cache") / "lumigraph"
