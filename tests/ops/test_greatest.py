"""The largest of each row."""

import torch

from tandem.ops import greatest


def test_the_first_of_equal_ones_and_no_number_is_told_apart():
    x = torch.tensor([[1, 3, 2, 3], [-5, -9, -4, -4], [1, torch.nan, 2, 3], [1, torch.inf, 2, 3]])
    x = torch.cat([x, torch.full((1, 4), -torch.inf)])
    assert greatest(x).tolist() == [1, 2, -1, -1, -1]
