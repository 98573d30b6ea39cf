"""What PH-Dropout was published with, for who compares with it (arXiv 2410.05468)."""

TRIALS = {"splats": 100, "field": 30}
"""Masks for a picture of Gaussian splats, and of a radiance field."""

VIEWS = {
    8: (2, 16, 26, 55, 73, 75, 86, 93),
    16: (2, 7, 13, 16, 26, 30, 53, 54, 55, 73, 75, 78, 86, 92, 93, 95),
}
"""Which of the 100 training views of the synthetic Blender scenes it learns from, from 0, by how
many they are."""
