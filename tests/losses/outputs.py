"""What the tests of the losses share: small outputs of a net, and target rows."""

import torch

from camlib.observe import Output

N, C, K, H, W = 3, 4, 5, 3, 2
ROWS = {
    "one-hot": [[0, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1]],
    "mixed": [[0.3, 0.7, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0.5, 0.5, 0, 0]],
    "multi-hot": [[1, 1, 0, 0, 1], [0, 0, 0, 1, 0], [1, 0, 1, 0, 0]],
}


def output(maps, weight):
    pooled = maps.mean((2, 3))
    return Output(pooled @ weight.T, (maps,), pooled, weight)


def random_output(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(N, C, H, W, dtype=dtype, generator=generator)
    return output(maps, torch.randn(K, C, dtype=dtype, generator=generator))


def row_target(rows):
    return torch.tensor(rows, dtype=torch.float64)


def stretched(values):
    low, high = min(values), max(values)
    return [(value - low) / (high - low + 1e-6) for value in values]
