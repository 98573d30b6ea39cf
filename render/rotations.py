"""Rotations as quaternions (w, x, y, z)."""

import torch
from torch import Tensor


def quaternions_from_matrices(matrices: Tensor) -> Tensor:
    """Unit quaternions with w >= 0 of rotation matrices. [..., 3, 3] -> [..., 4]

    The quaternion is the eigenvector of the largest eigenvalue of a symmetric 4x4 matrix
    (Bar-Itzhack 2000, eq. 8). It is exact at every angle, and robust to rounding in the matrix.
    """
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in matrices.unbind(-2))
    rows = [
        [a + e + i, h - f, c - g, d - b],
        [h - f, a - e - i, b + d, c + g],
        [c - g, b + d, e - a - i, f + h],
        [d - b, c + g, f + h, i - a - e],
    ]
    symmetric = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    quaternions = torch.linalg.eigh(symmetric).eigenvectors[..., -1]
    return torch.where(quaternions[..., :1] < 0, -quaternions, quaternions)
