"""The program around the library.

Its rooms: the command line (`cli`, `console`, `commands`), the run folder (`run`), training
(`training`), and the page in the browser (`viewer`).
"""

import os

# OpenMP reads these variables once, when torch is loaded, so they are set before everything else.
# Threads that wait for work spin for some microseconds, and then sleep. Without any spinning a step
# on a small photo takes a third longer, since threads wake up late; with as little as 30,000 turns
# it takes twice as long when two programs share the cores.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
