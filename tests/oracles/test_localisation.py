"""Pointing game and energy inside the mask against Quantus, which takes maps at the masks' own resolution."""

import warnings

import pytest
import torch

from camlib.measure import energy_inside, pointing_game

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its docstrings' backslashes, wherever it is not compiled yet
    import quantus


@pytest.fixture
def maps_and_masks():
    """Maps of any sign, and rectangles, as masks of objects are, of every size."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(200, 6, 8, generator=generator)
    masks = torch.zeros(200, 6, 8, dtype=torch.bool)
    for n in range(200):
        top, left = (int(torch.randint(side, (), generator=generator)) for side in (6, 8))
        height, width = (int(torch.randint(1, side + 1, (), generator=generator)) for side in (6, 8))
        masks[n, top : top + height, left : left + width] = True
    return maps, masks


def measured(metric, maps, masks):
    """Neither normalised nor made positive: both are ours to decide."""
    plain = metric(abs=False, normalise=False, disable_warnings=True)
    return torch.as_tensor(plain.evaluate_batch(a_batch=maps.double().numpy(), s_batch=masks.numpy()))


def test_pointing_game(maps_and_masks):
    maps, masks = maps_and_masks
    found = pointing_game(maps, masks)
    assert 20 < found.sum() < 180
    assert torch.equal(found, measured(quantus.PointingGame, maps, masks).bool())


def test_energy_inside_is_relevance_mass_of_maps_that_start_at_0(maps_and_masks):
    maps, masks = maps_and_masks
    raised = maps - maps.amin((1, 2), keepdim=True)
    expected = measured(quantus.RelevanceMassAccuracy, raised, masks)
    torch.testing.assert_close(energy_inside(maps, masks).double(), expected, rtol=1e-5, atol=1e-6)
