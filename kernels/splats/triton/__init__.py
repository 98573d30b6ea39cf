"""Kernels for splats in Triton: they need an NVIDIA GPU, but no CUDA toolkit."""
