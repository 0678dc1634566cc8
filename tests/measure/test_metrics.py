import math
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestCentroid

from camlib import one_hot
from camlib.measure import (
    attention_overlap,
    attention_shift,
    confusion,
    distance_ratio,
    energy_inside,
    expected_calibration_error,
    ks,
    nearest_mean_accuracy,
    pointing_game,
    silhouette,
    spatial_rank,
    threshold_iou,
    tsne,
)


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
    """The covered share of every cell of a height × width grid, by loops over half pixels: each has one nearest cell.

    Cell i looks at the middle of pixel i · H / h.
    """
    count, rows, columns = masks.shape

    def nearest(half, step, cells):
        return min(range(cells), key=lambda i: abs(half / 2 + 0.25 - (i * step + 0.5)))

    found = []
    for n in range(count):
        seen = [[[] for _ in range(width)] for _ in range(height)]
        for y in range(2 * rows):
            for x in range(2 * columns):
                cell = seen[nearest(y, rows / height, height)][nearest(x, columns / width, width)]
                cell.append(bool(masks[n, y // 2, x // 2]))
        found.append([[sum(cell) / len(cell) for cell in row] for row in seen])
    return found


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


@pytest.mark.parametrize("measure", [energy_inside, pointing_game, threshold_iou])
@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 1, 4, 4), (4, 4)])
def test_maps_and_masks_must_belong_together(measure, shape):
    with pytest.raises(ValueError, match=r"maps have shape .* and masks \(2, 8, 8\), expected \(N, H, W\) of one N"):
        measure(torch.zeros(shape), torch.zeros(2, 8, 8, dtype=torch.bool))


def test_spatial_rank_needs_channels():
    with pytest.raises(ValueError, match=r"maps have shape \(2, 4, 4\), expected \(N, C, H, W\)"):
        spatial_rank(torch.zeros(2, 4, 4))


def stretch(grid, height, width):
    """A grid resized bilinearly by loops: cell i sits on pixel i · H / h, and the last one reaches to the edge."""
    rows, columns = len(grid), len(grid[0])

    def between(i, new, old):
        at = min(i * old / new, old - 1)
        low = int(at)
        return low, min(low + 1, old - 1), at - low

    result = []
    for y in range(height):
        top, bottom, down = between(y, height, rows)
        line = []
        for x in range(width):
            left, right, along = between(x, width, columns)
            upper = grid[top][left] * (1 - along) + grid[top][right] * along
            lower = grid[bottom][left] * (1 - along) + grid[bottom][right] * along
            line.append(upper * (1 - down) + lower * down)
        result.append(line)
    return result


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("size", [(3, 2), (6, 8), (1, 1), (12, 10)])
def test_threshold_iou(size, threshold):
    generator = torch.Generator().manual_seed(2)
    maps = torch.rand(5, *size, generator=generator)
    masks = torch.rand(5, 6, 8, generator=generator) < 0.4
    for n in range(5):
        grid = stretch(maps[n].double().tolist(), 6, 8)
        high = threshold * max(map(max, grid)) - 1e-6
        both = either = 0
        for y in range(6):
            for x in range(8):
                both += grid[y][x] >= high and bool(masks[n, y, x])
                either += grid[y][x] >= high or bool(masks[n, y, x])
        assert threshold_iou(maps, masks, threshold)[n].item() == pytest.approx(both / either, rel=1e-6)


def test_iou_of_clear_cases():
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[1:3, 1:3] = True
    nothing, everywhere = torch.zeros(4, 4), torch.ones(4, 4)
    cases = [
        (mask * 0.3, mask, 1),
        (everywhere, mask, 0.25),
        (~mask * 0.3, mask, 0),
        (nothing, mask, 0),
        (-everywhere, mask, 0),
        (everywhere, ~everywhere.bool(), 0),
        (nothing, ~everywhere.bool(), 1),
    ]
    maps, masks, expected = zip(*cases, strict=True)
    assert threshold_iou(torch.stack(maps), torch.stack(masks)).tolist() == list(expected)
    assert threshold_iou(nothing[None], mask[None], threshold=0).item() == 0, "a zero is not high"


def test_a_cell_at_the_threshold_is_in_the_region():
    maps = torch.tensor([[[1.0, 0.5], [0.25, 0.0]]])
    mask = torch.tensor([[[True, True], [False, False]]])
    assert threshold_iou(maps, mask, threshold=0.5).item() == 1
    assert threshold_iou(maps, mask, threshold=0.25).item() == pytest.approx(2 / 3)


@pytest.mark.parametrize("threshold", [-0.1, 1, math.nan])
def test_threshold_is_a_share(threshold):
    with pytest.raises(ValueError, match=f"threshold is {threshold}, expected a share of each map's maximum"):
        threshold_iou(torch.ones(1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool), threshold)


def test_masks_of_classes_are_not_taken_for_masks_of_objects():
    with pytest.raises(ValueError, match=r"masks have dtype torch.uint8, expected bool: pass segments == label"):
        threshold_iou(torch.ones(1, 2, 2), torch.full((1, 2, 2), 255, dtype=torch.uint8))


def test_ks_chart_statistic_by_loops():
    """ICASC, Figure 9."""
    generator = torch.Generator().manual_seed(0)
    p_target, p_confused = torch.rand(40, generator=generator) ** 0.5, torch.rand(40, generator=generator) ** 2

    def below(sample, p):
        return sum(value <= p for value in sample) / len(sample)

    a, b = p_target.double().tolist(), p_confused.double().tolist()
    gaps = {p: abs(below(a, p) - below(b, p)) for p in a + b}
    found = ks(p_target, p_confused)
    assert found.statistic == pytest.approx(max(gaps.values()), abs=1e-12)
    assert gaps[found.location] == pytest.approx(found.statistic, abs=1e-12)


def test_ks_of_clear_cases():
    same = torch.tensor([0.1, 0.5, 0.9])
    assert ks(same, same).statistic == 0
    assert ks(torch.tensor([0.8, 1.0]), torch.tensor([0.0, 0.25])) == (1, 0.25)
    assert ks(torch.tensor([0.0, 0.25]), torch.tensor([0.8, 1.0])) == (1, 0.25), (
        "which of the two is lower is no matter"
    )


@pytest.mark.parametrize(
    ("p_target", "p_confused", "message"),
    [
        (
            torch.rand(0),
            torch.rand(0),
            r"p_target has shape \(0,\) and p_confused \(0,\), expected \(N,\) of one N > 0",
        ),
        (torch.rand(3), torch.rand(2), r"p_target has shape \(3,\) and p_confused \(2,\)"),
        (torch.rand(3, 1), torch.rand(3, 1), r"p_target has shape \(3, 1\)"),
        (torch.tensor([0.5]), torch.tensor([1.5]), r"p_confused holds 1.5, expected probabilities in 0 … 1"),
        (torch.tensor([0.5, -0.1]), torch.tensor([0.5, 0.5]), r"p_target holds -0.1, expected probabilities"),
        (torch.tensor([math.nan]), torch.tensor([0.5]), r"p_target holds nan, expected probabilities"),
    ],
)
def test_ks_takes_probabilities(p_target, p_confused, message):
    with pytest.raises(ValueError, match=message):
        ks(p_target, p_confused)


def predictions(seed, count=60, classes=5, right=1.5):
    generator = torch.Generator().manual_seed(seed)
    target = one_hot(torch.randint(classes, (count,), generator=generator), classes)
    return 2 * torch.randn(count, classes, generator=generator) + right * target, target


@pytest.mark.parametrize("pair", [False, True])
def test_confusion_by_loops(pair):
    logits, target = predictions(0)
    p_target, p_confused = confusion(logits.requires_grad_(), target, pair)
    for n, row in enumerate(logits.double().tolist()):
        label = target[n].tolist().index(1)
        confusing = max((k for k in range(5) if k != label), key=lambda k: row[k])
        total = sum(math.exp(row[k]) for k in ((label, confusing) if pair else range(5)))
        assert p_target[n].item() == pytest.approx(math.exp(row[label]) / total, rel=1e-12)
        assert p_confused[n].item() == pytest.approx(math.exp(row[confusing]) / total, rel=1e-12)
    assert not p_target.requires_grad


@pytest.mark.parametrize("seed", range(20))
def test_over_the_pair_the_ks_statistic_restates_the_accuracy(seed):
    """ICASC, Figure 9: D is at least 2 · accuracy - 1, whatever the logits."""
    logits, target = predictions(seed, right=0.2 * seed)
    if seed % 2:
        logits = logits.round()  # ties
    p_target, p_confused = confusion(logits, target, pair=True)
    own = (logits * target).sum(1)
    right = own > logits.masked_fill(target == 1, -torch.inf).amax(1)
    assert torch.equal(p_target > 0.5, right)
    torch.testing.assert_close(p_target + p_confused, torch.ones(60, dtype=torch.float64))
    assert ks(p_target, p_confused).statistic >= 2 * right.double().mean().item() - 1 - 1e-12


def test_over_all_classes_the_ks_statistic_does_not():
    target = one_hot(torch.zeros(6, dtype=torch.long), 3)
    logits = torch.tensor([[1.0, 0.9, 0.9], [9.0, 8.9, -9.0]]).repeat(3, 1)
    assert ks(*confusion(logits, target, pair=True)).statistic == 1, "every image is right"
    assert ks(*confusion(logits, target)).statistic == 0.5


def test_equal_logits_are_half_a_confusion():
    target = one_hot(torch.tensor([0, 3]), 4)
    for p in confusion(torch.full((2, 4), 7.0), target, pair=True):
        assert p.tolist() == [0.5, 0.5]
    for p in confusion(torch.full((2, 4), 7.0), target):
        assert p.tolist() == [0.25, 0.25]


@pytest.mark.parametrize("measure", [confusion, expected_calibration_error])
def test_predictions_of_one_class_an_image(measure):
    with pytest.raises(ValueError, match=rf"{measure.__name__} needs one class per image, but row 1 of the target"):
        measure(torch.zeros(2, 3), torch.tensor([[1.0, 0, 0], [1.0, 1, 0]]))
    with pytest.raises(ValueError, match=r"target has shape \(2, 3\), expected \(2, 4\)"):
        measure(torch.zeros(2, 4), torch.zeros(2, 3))


def test_one_class_alone_cannot_be_confused():
    with pytest.raises(ValueError, match=r"logits have shape \(2, 1\): one class alone cannot be confused"):
        confusion(torch.zeros(2, 1), torch.ones(2, 1))


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_expected_calibration_error_by_loops(bins):
    logits, target = predictions(1)
    held = [[] for _ in range(bins)]
    for row, label in zip(logits.double().tolist(), target.argmax(1).tolist(), strict=True):
        confidence = math.exp(max(row)) / sum(map(math.exp, row))
        (b,) = [b for b in range(bins) if b / bins < confidence <= (b + 1) / bins]
        held[b].append((confidence, row.index(max(row)) == label))
    expected = 0.0
    for members in filter(None, held):
        confidence, accuracy = (sum(values) / len(members) for values in zip(*members, strict=True))
        expected += len(members) / 60 * abs(accuracy - confidence)
    assert expected_calibration_error(logits, target, bins) == pytest.approx(expected, rel=1e-12)


def test_calibration_of_clear_cases():
    target = one_hot(torch.tensor([0, 0, 1, 1]), 2)
    assert expected_calibration_error(100 * target, target) == pytest.approx(0, abs=1e-12)
    assert expected_calibration_error(-100 * target, target) == pytest.approx(1)
    assert expected_calibration_error(torch.zeros(4, 2), target) == pytest.approx(0), "a coin, and says so"
    with pytest.raises(ValueError, match=r"logits have shape \(0, 2\): no images"):
        expected_calibration_error(torch.zeros(0, 2), torch.zeros(0, 2))
    with pytest.raises(ValueError, match="bins is 0, expected at least 1"):
        expected_calibration_error(torch.zeros(4, 2), target, bins=0)
    with pytest.raises(ValueError, match="logits hold numbers that are not finite"):
        expected_calibration_error(torch.full((4, 2), torch.nan), target)


def test_a_confidence_on_the_edge_of_two_bins_is_in_the_lower_one():
    """1/2, and right, shares a bin with 1/3, and wrong: their errors of -1/2 and 1/3 offset each other."""
    logits = torch.tensor([[0.0, 0.0, -1e4, -1e4], [0.0, 0.0, 0.0, -1e4]])
    target = one_hot(torch.tensor([0, 3]), 4)
    assert expected_calibration_error(logits, target, bins=2) == pytest.approx((1 / 2 - 1 / 3) / 2)
    assert expected_calibration_error(1e4 * target, target, bins=2) == 0, "1 is in the last bin"


def test_attention_overlap_by_loops():
    """ICASC, Eq. 3 without the mask, over all pairs."""
    maps = (
        torch.rand(3, 4, 2, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 9, 0.1, 2])[:, None, None]
    )
    for n in range(3):
        scaled = []
        for k in range(4):
            values = maps[n, k].flatten().double().tolist()
            scaled.append([value / max(values) for value in values])
        pairs = [(scaled[i], scaled[j]) for i in range(4) for j in range(i)]
        shares = [2 * sum(map(min, a, b)) / (sum(a) + sum(b)) for a, b in pairs]
        assert attention_overlap(maps)[n].item() == pytest.approx(sum(shares) / 6, rel=1e-5)


def test_attention_overlap_of_clear_cases():
    left, nothing = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]), torch.zeros(3, 2)
    right = left.flip(1)
    cases = [(left, left * 7, 1), (left, right, 0), (left, nothing, 0), (nothing, nothing, 0)]
    maps = torch.stack([torch.stack([a, b]) for a, b, _ in cases])
    assert attention_overlap(maps).tolist() == [expected for *_, expected in cases]
    assert attention_overlap(torch.stack([left, left, right])[None]).item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (2, 4, 4)])
def test_attention_overlap_needs_two_classes(shape):
    with pytest.raises(ValueError, match=r"maps have shape .*, expected \(N, k, H, W\) with two or more classes"):
        attention_overlap(torch.ones(shape))


@pytest.mark.parametrize("sizes", [((6, 8), (3, 4)), ((3, 4), (6, 8)), ((5, 5), (5, 5)), ((6, 2), (3, 4))])
def test_attention_shift_by_loops(sizes):
    """ICASC, Figures 4 and 5, as a number."""
    generator = torch.Generator().manual_seed(0)
    inner, last = (torch.rand(3, *size, generator=generator) ** 3 for size in sizes)
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    for n in range(3):
        shares = []
        for maps in (inner, last):
            values = [value for row in stretch(maps[n].double().tolist(), height, width) for value in row]
            shares.append([value / sum(values) for value in values])
        expected = sum(abs(p - q) for p, q in zip(*shares, strict=True)) / 2
        assert attention_shift(inner, last)[n].item() == pytest.approx(expected, rel=1e-5)


def test_attention_shift_of_clear_cases():
    corner, nothing, even = torch.zeros(4, 4), torch.zeros(2, 2), torch.ones(2, 2)
    corner[0, 0] = 3.0
    assert attention_shift(torch.stack([corner, corner * 0.1]), torch.stack([corner.flip(0), corner])).tolist() == [
        1,
        0,
    ]
    assert attention_shift(torch.zeros(2, 4, 4), torch.stack([nothing, even])).tolist() == [0, 0], "zeros are even"
    assert attention_shift(corner[None], nothing[None]).item() == pytest.approx(15 / 16)


def test_attention_is_not_negative():
    maps = torch.ones(1, 2, 2, 2)
    maps[0, 0, 0, 0] = -0.5
    with pytest.raises(ValueError, match=r"maps hold -0.5, expected none below 0: pass attention maps, after ReLU"):
        attention_overlap(maps)
    with pytest.raises(ValueError, match=r"maps hold -0.5, expected none below 0"):
        attention_shift(torch.ones(1, 4, 4), maps[:, 0])


@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 1, 4, 4)])
def test_layers_must_show_the_same_images(shape):
    with pytest.raises(ValueError, match=r"inner has shape .* and last \(2, 4, 4\), expected \(N, h, w\)"):
        attention_shift(torch.ones(shape), torch.ones(2, 4, 4))


def clusters(seed, count=48, features=6, classes=3, apart=4.0):
    generator = torch.Generator().manual_seed(seed)
    means = apart * torch.randn(classes, features, generator=generator)
    labels = torch.arange(count) % classes
    return means[labels] + torch.randn(count, features, generator=generator), labels


def test_tsne_keeps_clusters_and_repeats_itself():
    features, labels = clusters(0)
    points = tsne(features.requires_grad_(), seed=0, perplexity=5)
    assert points.shape == (48, 2)
    assert points.dtype == torch.float32
    distances = torch.cdist(points, points).fill_diagonal_(torch.inf)
    assert torch.equal(labels[distances.argmin(1)], labels)
    assert torch.equal(tsne(features, seed=0, perplexity=5), points)


@pytest.mark.parametrize("count", [30, 70])
def test_tsne_of_many_features_is_that_of_their_principal_components(count):
    features, _ = clusters(1, count=count, features=60)
    centred = features.double() - features.double().mean(0)
    components = torch.from_numpy(PCA(min(50, count), random_state=3).fit_transform(centred.numpy()))
    assert torch.equal(tsne(features, 3, perplexity=5), tsne(components, 3, perplexity=5))


def test_tsne_shows_its_progress_if_asked(capsys):
    features, _ = clusters(2, count=20)
    tsne(features, seed=0, perplexity=5)
    assert capsys.readouterr() == ("", "")
    tsne(features, seed=0, perplexity=5, progress=True)
    assert "Iteration 50" in capsys.readouterr().out


@pytest.mark.parametrize("perplexity", [20, 30, 0, -1])
def test_tsne_names_perplexity_and_samples(perplexity):
    with pytest.raises(ValueError, match=f"perplexity is {perplexity} but there are 20 samples: pass a positive"):
        tsne(torch.randn(20, 4), seed=0, perplexity=perplexity)


@pytest.mark.parametrize("shape", [(40, 2, 2), (40, 1), (40,)])
def test_tsne_takes_rows_of_features(shape):
    with pytest.raises(ValueError, match=r"features have shape \(40.*\), expected \(N, D\) with D of two or more"):
        tsne(torch.randn(shape), seed=0)


def test_tsne_of_equal_features_is_refused():
    with pytest.raises(ValueError, match="all 40 rows of the features are equal"):
        tsne(torch.full((40, 60), 0.3), seed=0)


@pytest.mark.parametrize(
    "features",
    [
        1e-30 * torch.randn(40, 5),
        1e-25 * torch.randn(40, 60),
        1000 + 1e-12 * torch.randn(40, 5, dtype=torch.float64),
        1e30 * torch.randn(40, 5),
    ],
    ids=["tiny", "tiny and many", "nearly equal", "huge"],
)
def test_tsne_of_features_that_single_precision_cannot_hold(features):
    points = tsne(features, seed=0, perplexity=5)
    assert points.isfinite().all()
    assert points.std(0).min() > 0


def test_features_that_are_not_finite_are_named():
    features, labels = clusters(0, count=20)
    features[7, 1] = torch.nan
    for measure in (distance_ratio, silhouette, partial(nearest_mean_accuracy, features, labels)):
        with pytest.raises(ValueError, match="row 7 of the features is not finite"):
            measure(features, labels)
    with pytest.raises(ValueError, match="row 7 of the features is not finite"):
        tsne(features, seed=0, perplexity=5)


def test_distance_ratio_of_classes_that_are_points():
    features, labels = clusters(0, count=64, features=512)
    points = torch.stack([features[labels == k][0] for k in range(int(labels.max()) + 1)])[labels]
    assert distance_ratio(1000 + points, labels) < 1e-6


def test_distance_ratio_by_loops():
    features, labels = clusters(3, count=30)
    same, other = [], []
    for i in range(30):
        for j in range(i):
            distance = math.dist(features[i].tolist(), features[j].tolist())
            (same if labels[i] == labels[j] else other).append(distance)
    expected = (sum(same) / len(same)) / (sum(other) / len(other))
    assert distance_ratio(features.requires_grad_(), labels) == pytest.approx(expected, rel=1e-6)


def test_a_point_is_at_no_distance_from_itself():
    """Pairs so close that the rounding of a row's distance to itself would be a hundredth of theirs."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(30, 64, dtype=torch.float64, generator=generator)
    step = torch.zeros(64, dtype=torch.float64)
    step[0] = 1e-5
    features, labels = torch.cat([centres, centres + step]), torch.arange(30).repeat(2)
    between = (features[:, None] - features[None]).norm(dim=2)[labels[:, None] != labels].mean().item()
    assert distance_ratio(features, labels) * between == pytest.approx(1e-5, rel=1e-3)


def test_distance_ratio_of_more_images_than_are_taken_at_a_time():
    features, labels = clusters(4, count=2100, features=2)
    distances = np.linalg.norm(features[:, None].double().numpy() - features[None].double().numpy(), axis=2)
    same = (labels[:, None] == labels).numpy()
    expected = distances[same & ~np.eye(2100, dtype=bool)].mean() / distances[~same].mean()
    assert distance_ratio(features, labels) == pytest.approx(expected, rel=1e-9)


def test_silhouette_by_loops():
    features, labels = clusters(5, count=20, apart=1.0)
    labels[0] = 7  # alone in its class
    rows, values = features.double().tolist(), []
    for i in range(20):
        means = {}
        for k in set(labels.tolist()):
            members = [j for j in range(20) if labels[j] == k and j != i]
            if members:
                means[k] = sum(math.dist(rows[i], rows[j]) for j in members) / len(members)
        a = means.pop(int(labels[i]), None)
        b = min(means.values())
        values.append(0.0 if a is None else (b - a) / max(a, b))
    assert silhouette(features.requires_grad_(), labels) == pytest.approx(sum(values) / 20, rel=1e-9)


def test_groups_of_clear_cases():
    labels = torch.tensor([4, 4, 1, 1])
    points = torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0], [3.0, 4.0]])
    assert distance_ratio(points, labels) == 0
    assert silhouette(points, labels) == 1
    assert distance_ratio(torch.ones(4, 2), labels) == 1, "nothing to tell them apart"
    assert silhouette(torch.ones(4, 2), labels) == 0


@pytest.mark.parametrize("measure", [distance_ratio, silhouette])
@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (torch.rand(3, 2), torch.tensor([5, 5, 5]), "all 3 images are of class 5: two or more classes are needed"),
        (torch.rand(3, 2), torch.tensor([0, 1, 2]), "no class has two of the 3 images"),
        (torch.rand(3, 2), torch.tensor([0, 1]), r"features have shape \(3, 2\) and labels \(2,\), expected"),
        (torch.rand(2, 2, 2), torch.tensor([0, 1]), r"features have shape \(2, 2, 2\)"),
        (torch.rand(0, 2), torch.tensor([]), r"features have shape \(0, 2\) and labels \(0,\)"),
    ],
)
def test_groups_need_two_classes_and_a_pair(measure, features, labels, message):
    with pytest.raises(ValueError, match=message):
        measure(features, labels)


def test_nearest_mean_accuracy_against_scikit_learn():
    features, labels = clusters(6, count=90, apart=0.7)
    labels = labels * 10 + 3
    train, test = (features[:60].requires_grad_(), labels[:60]), (features[60:], labels[60:])
    nearest = NearestCentroid().fit(train[0].detach().numpy(), train[1].numpy())
    expected = nearest.score(test[0].numpy(), test[1].numpy())
    assert 0.4 < expected < 0.95
    assert nearest_mean_accuracy(*train, *test) == pytest.approx(expected)


def test_nearest_mean_of_clear_cases():
    train, labels = torch.tensor([[0.0, 1.0], [2.0, 1.0], [10.0, 1.0]]), torch.tensor([8, 8, 2])
    test = torch.tensor([[5.0, 1.0], [6.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    found = nearest_mean_accuracy(train, labels, test, torch.tensor([8, 2, 8, 99]))
    assert found == 0.75, "a feature without variance is no matter, an unseen class is wrong"


@pytest.mark.parametrize(
    ("train", "labels", "test", "message"),
    [
        (torch.rand(2, 3), torch.tensor([1, 1]), torch.rand(1, 3), "all 2 images are of class 1"),
        (
            torch.rand(2, 3),
            torch.tensor([0, 1]),
            torch.rand(1, 4),
            r"test features have shape \(1, 4\), expected \(M, 3\)",
        ),
        (torch.rand(2, 3), torch.tensor([0, 1]), torch.rand(2, 3), r"features have shape \(2, 3\) and labels \(1,\)"),
    ],
)
def test_nearest_mean_needs_classes_and_equal_features(train, labels, test, message):
    with pytest.raises(ValueError, match=message):
        nearest_mean_accuracy(train, labels, test, torch.tensor([0]))
