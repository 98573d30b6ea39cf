"""Fitting Gaussian splats: the plan, the start, the steps and density control."""
