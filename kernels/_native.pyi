"""Native CPU kernels; call them through lumigraph.kernels."""



def active_level() -> str:
    """The instruction set in use: baseline, avx2 or avx512."""

def select_level(name: str) -> None:
    """Use another instruction set from now on; for tests and benchmarks."""

def available_levels() -> list[str]:
    """The instruction sets this processor can run, slowest first."""
