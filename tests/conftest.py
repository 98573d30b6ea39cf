"""What every test gets: quiet threads, a fixed seed, a check that it left things as they were."""

import os
import signal
import sys
from collections.abc import Iterator

# Before torch loads OpenMP: threads that spin while they wait take the cores from each other.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Shells start background jobs with Ctrl-C ignored. Every process that a test starts would inherit
# that, and a test that ends one by Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `cuda` where there is no such device."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs an NVIDIA GPU: torch.cuda.is_available() is False")
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(skip)


def _settings() -> dict[str, object]:
    """The settings of this process that change what other tests compute."""
    native = sys.modules.get("lumigraph.kernels._native")
    return {
        "torch.get_num_threads()": torch.get_num_threads(),
        "torch.get_default_dtype()": torch.get_default_dtype(),
        "torch.is_grad_enabled()": torch.is_grad_enabled(),
        "the instruction set": native.active_level() if native else None,
        "the working directory": os.getcwd(),
    }


@pytest.fixture(autouse=True)
def same_for_every_test() -> Iterator[None]:
    """Seed torch before each test; fail one that leaves a process-wide setting changed."""
    torch.manual_seed(0)
    before = _settings()
    yield
    after = _settings()
    # A test that loads the native module first cannot have changed its instruction set.
    changed = [
        f"{name} from {value} to {after[name]}"
        for name, value in before.items()
        if value is not None and after[name] != value
    ]
    torch.set_num_threads(int(str(before["torch.get_num_threads()"])))
    assert not changed, f"this test changed {', '.join(changed)}: restore it with try/finally"
