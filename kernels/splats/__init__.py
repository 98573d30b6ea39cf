"""Gaussian splats: the protocol of their operations, its definition, and a backend per device."""
