import math

import numpy as np
import pytest
import torch

from camlib.analysis import energy_inside, pointing_game, spatial_rank


def test_spatial_rank_against_numpy():
    maps = torch.randn(3, 5, 4, 2, generator=torch.Generator().manual_seed(0))
    rank = spatial_rank(maps)
    for n in range(3):
        s = np.linalg.svd(maps[n].reshape(5, 8).double().numpy(), compute_uv=False)
        share = [value**2 / sum(s**2) for value in s]
        assert rank.effective[n].item() == pytest.approx(math.exp(-sum(q * math.log(q) for q in share)), rel=1e-4)
        assert rank.first_share[n].item() == pytest.approx(share[0], rel=1e-4)


def test_channels_that_share_a_pattern_have_rank_1():
    pattern, channels = torch.rand(2, 1, 4, 4), torch.randn(1, 6, 1, 1)
    rank = spatial_rank(pattern * channels)
    torch.testing.assert_close(rank.effective, torch.ones(2), rtol=0, atol=1e-4)
    torch.testing.assert_close(rank.first_share, torch.ones(2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("independent", [1, 3, 9])
def test_orthogonal_maps_of_equal_energy_count_each(independent):
    maps = 0.3 * torch.eye(9)[None, :independent].reshape(1, independent, 3, 3)
    rank = spatial_rank(maps)
    assert rank.effective.item() == pytest.approx(independent, rel=1e-5)
    assert rank.first_share.item() == pytest.approx(1 / independent, rel=1e-5)


def test_zero_maps_count_as_rank_1_beside_others():
    rank = spatial_rank(torch.stack([torch.zeros(4, 2, 2), torch.eye(4).reshape(4, 2, 2)]))
    torch.testing.assert_close(rank.effective, torch.tensor([1.0, 4.0]))
    torch.testing.assert_close(rank.first_share, torch.tensor([1.0, 0.25]))


def test_spatial_rank_takes_half_precision_and_gradients():
    maps = torch.randn(2, 3, 4, 4).bfloat16().requires_grad_()
    assert torch.equal(spatial_rank(maps).effective, spatial_rank(maps.float()).effective)
    assert not spatial_rank(maps).effective.requires_grad


def shares(masks, height, width):
    """The covered share of every cell of a height × width grid, by loops."""
    count, rows, columns = masks.shape
    tall, wide = rows // height, columns // width
    return [
        [
            [
                sum(bool(masks[n, y * tall + i, x * wide + j]) for i in range(tall) for j in range(wide))
                / (tall * wide)
                for x in range(width)
            ]
            for y in range(height)
        ]
        for n in range(count)
    ]


@pytest.mark.parametrize("size", [(3, 2), (6, 8), (1, 1)])
def test_energy_inside(size):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(4, *size, generator=generator)
    masks = torch.rand(4, 6, 8, generator=generator) < 0.4
    for n, cover in enumerate(shares(masks, *size)):
        low = maps[n].min().item()
        energy = [[maps[n, y, x].item() - low for x in range(size[1])] for y in range(size[0])]
        total = sum(map(sum, energy))
        inside = sum(energy[y][x] * cover[y][x] for y in range(size[0]) for x in range(size[1]))
        expected = inside / total if total else masks[n].float().mean().item()
        assert energy_inside(maps, masks)[n].item() == pytest.approx(expected, rel=1e-5)


def test_energy_of_clear_cases():
    mask = torch.zeros(3, 4, 4, dtype=torch.bool)
    mask[:, 1:3, 1:3] = True
    maps = torch.stack([mask[0].float(), 1 - mask[1].float(), torch.full((4, 4), -2.0)])
    assert energy_inside(maps, mask).tolist() == [1, 0, 0.25], "the object, all but the object, a constant"


@pytest.mark.parametrize("size", [(3, 2), (6, 8)])
def test_pointing_game(size):
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(40, *size, generator=generator)
    masks = torch.rand(40, 6, 8, generator=generator) < 0.5
    expected = []
    for n, cover in enumerate(shares(masks, *size)):
        places = [(maps[n, y, x].item(), y, x) for y in range(size[0]) for x in range(size[1])]
        _, y, x = max(places)
        expected.append(cover[y][x] >= 0.5)
    assert 5 < sum(expected) < 35
    assert pointing_game(maps, masks).tolist() == expected


def test_a_constant_map_points_to_its_first_place():
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, 0, 0] = True
    masks[1, 1:, 1:] = True
    assert pointing_game(torch.zeros(2, 4, 4), masks).tolist() == [True, False]


@pytest.mark.parametrize("measure", [energy_inside, pointing_game])
@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 1, 4, 4), (4, 4)])
def test_maps_and_masks_must_belong_together(measure, shape):
    with pytest.raises(ValueError, match=r"maps have shape .* and masks \(2, 8, 8\), expected \(N, H, W\) of one N"):
        measure(torch.zeros(shape), torch.zeros(2, 8, 8, dtype=torch.bool))


def test_spatial_rank_needs_channels():
    with pytest.raises(ValueError, match=r"maps have shape \(2, 4, 4\), expected \(N, C, H, W\)"):
        spatial_rank(torch.zeros(2, 4, 4))
