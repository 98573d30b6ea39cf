"""Maps as rows of values, checked, and their ranking: the values in rising order with ties grouped.

Where several values are equally uncertain, no order among them is the right one. The metrics give
each of them the mean error of its group, which is what random orders within the group give in
expectation. So the order of the pixels never matters, and a constant map scores as chance does.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

NOT_NEGATIVE = ("error", "std")
"""Names of maps that may not hold negative values."""


@dataclass(frozen=True)
class Ranking:
    """Values in rising order, with equal values in one group.

    Attributes:
        order: Index of the k-th smallest value. [n]
        group: Number of the group that the k-th smallest value belongs to, from 0. [n]
        sizes: How many values each group has. [groups]
    """

    order: Tensor
    group: Tensor
    sizes: Tensor


def flattened(**maps: Tensor) -> list[Tensor]:
    """The maps as rows of float32 or float64 on the CPU.

    Raises ValueError if the maps differ in shape, are empty, are not floats or are not finite, or
    if one named in `NOT_NEGATIVE` holds a negative value.
    """
    if len({values.shape for values in maps.values()}) > 1:
        shapes = ", ".join(f"{name} {list(values.shape)}" for name, values in maps.items())
        raise ValueError(f"The maps should have one shape, but are {shapes}: resize them to one")
    rows = []
    for name, values in maps.items():
        if values.numel() == 0:
            raise ValueError(f"{name} is empty, {list(values.shape)}: give at least one value")
        if not values.is_floating_point():
            raise ValueError(f"{name} should hold floats, but holds {values.dtype}: convert it")
        row = values.detach().cpu().flatten()
        row = row if row.dtype == torch.float64 else row.float()
        unfit = int((~row.isfinite()).sum())
        if unfit:
            raise ValueError(
                f"{name} is not finite in {unfit} of {len(row)} values: leave these out of all maps"
            )
        if name in NOT_NEGATIVE and row.min() < 0:
            raise ValueError(
                f"{name} should not be negative, but goes down to {float(row.min())}: "
                "give absolute values"
            )
        rows.append(row)
    return rows


def ranking_of(values: Tensor) -> Ranking:
    """The ranking of a row of finite floats.

    The bits of the floats are sorted as integers, with those of negative numbers turned around:
    the order is the same, and PyTorch sorts integers five times as fast. Adding 0 makes -0 equal
    to 0.
    """
    integer = torch.int32 if values.dtype == torch.float32 else torch.int64
    bits = (values + 0.0).view(integer)
    info = torch.iinfo(integer)
    keys, order = torch.where(bits < 0, bits ^ info.max, bits).sort()
    _, group, sizes = keys.unique_consecutive(return_inverse=True, return_counts=True)
    return Ranking(order, group, sizes)


def ranks(ranking: Ranking) -> Tensor:
    """The rank of each value, from 1; equal values share their mean rank. [n]"""
    average = ranking.sizes.cumsum(0) - (ranking.sizes - 1) / 2
    found = torch.empty(len(ranking.order), dtype=torch.float64)
    found[ranking.order] = average.double()[ranking.group]
    return found


def levelled(values: Tensor, ranking: Ranking) -> Tensor:
    """The values in the order of the ranking, each replaced by the mean over its group. [n]"""
    ordered = values[ranking.order].double()
    if len(ranking.sizes) == len(ordered):
        return ordered
    return (torch.bincount(ranking.group, weights=ordered) / ranking.sizes)[ranking.group]
