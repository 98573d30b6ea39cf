"""Kernels for splats in Triton, which need no CUDA toolkit."""
