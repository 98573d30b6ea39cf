"""A plugin of pytest: `lumigraph.kernels` uses the native module that LUMIGRAPH_NATIVE names."""

import importlib.util
import os
import sys

NAME = "lumigraph.kernels._native"
spec = importlib.util.spec_from_file_location(NAME, os.environ["LUMIGRAPH_NATIVE"])
assert spec is not None
assert spec.loader is not None
sys.modules[NAME] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[NAME])
