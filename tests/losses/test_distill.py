"""KD, AT and CCM against the paper's formulas, as loops in float64 (CAM-loss, Eq. 8–12)."""

import math

import pytest
import torch
import torch.nn.functional as F
from outputs import ROWS, C, K, N, output, random_output, row_target, stretched

from camlib.losses import AT, CCM, KD, CAMLoss, CrossEntropy
from camlib.models import create
from camlib.objective import Objective, State
from camlib.observe import observe

TERMS = [KD(), KD(reduction="paper"), AT(), AT("cam_l1"), AT("original"), CCM()]
terms = pytest.mark.parametrize("term", TERMS, ids=repr)
rows = pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)


def random_maps(h, w, channels, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(N, channels, h, w, dtype=torch.float64, generator=generator)


def other_output(h, w, channels=C, seed=1, classes=K):
    weight = torch.randn(classes, channels, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 100))
    return output(random_maps(h, w, channels, seed), weight)


STUDENT, TEACHER = random_output(), other_output(3, 2, channels=7)
TAUGHT = State(teacher=TEACHER)


def probabilities(z, tau):
    powers = [math.exp(value / tau) for value in z]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("tau", [1.0, 4.0])
@pytest.mark.parametrize("reduction", ["batchmean", "paper"])
def test_kd(tau, reduction):
    """CAM-loss, Eq. 8: 1/n Σ_i τ² (p_ti log p_ti - p_ti log p_si), n classes; by default without 1/n."""
    expected = 0.0
    for student, teacher in zip(STUDENT.logits.tolist(), TEACHER.logits.tolist(), strict=True):
        for p_s, p_t in zip(probabilities(student, tau), probabilities(teacher, tau), strict=True):
            expected += tau**2 * (p_t * math.log(p_t) - p_t * math.log(p_s)) / N
    if reduction == "paper":
        expected /= K
    found = KD(tau, reduction)(STUDENT, row_target(ROWS["one-hot"]), TAUGHT)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_kd_of_a_student_that_agrees_is_0():
    shifted = STUDENT._replace(logits=STUDENT.logits + 5)
    assert abs(KD()(STUDENT, None, State(teacher=shifted)).item()) < 1e-12


def test_kd_as_others_write_it():
    """The formula of mdistiller: KL divergence summed over the classes, mean over the batch, times τ²."""
    log_student = F.log_softmax(STUDENT.logits / 4, 1)
    teacher = F.softmax(TEACHER.logits / 4, 1)
    expected = F.kl_div(log_student, teacher, reduction="none").sum(1).mean() * 4**2
    assert KD()(STUDENT, None, TAUGHT).item() == pytest.approx(expected.item(), rel=1e-9)


def averaged(maps, h, w):
    """Adaptive average pooling of one (C, H, W): cell (i, j) is the mean of the rows and columns it overlaps."""

    def span(i, cells, size):
        return range(i * size // cells, -(-(i + 1) * size // cells))

    height, width = maps.shape[1:]
    result = torch.zeros(len(maps), h, w, dtype=torch.float64)
    for c in range(len(maps)):
        for i in range(h):
            for j in range(w):
                values = [maps[c, y, x].item() for y in span(i, h, height) for x in span(j, w, width)]
                result[c, i, j] = sum(values) / len(values)
    return result


def cams(net, rows, size):
    """The CAM of each target, averaged down: lists of H · W numbers."""
    found = []
    for n, maps in enumerate(net.maps[-1].detach()):
        channels = averaged(maps, *size).flatten(1).tolist()
        weights = [sum(rows[n][i] * net.weight[i, k].item() for i in range(K)) for k in range(len(channels))]
        found.append([sum(w * f for w, f in zip(weights, place, strict=True)) for place in zip(*channels, strict=True)])
    return found


def caams(net, size):
    return cams(net._replace(weight=torch.ones(K, net.maps[-1].shape[1])), [[1 / K] * K] * N, size)


def mean_distance(student, teacher, power):
    distances = [abs(a - b) ** power for s, t in zip(student, teacher, strict=True) for a, b in zip(s, t, strict=True)]
    return sum(distances) / len(distances)


# The size of the student's maps, of the teacher's, and the one to compare at.
SIZES = [((3, 2), (3, 2), (3, 2)), ((6, 6), (3, 2), (3, 2)), ((3, 2), (6, 4), (3, 2)), ((3, 4), (5, 7), (3, 4))]
sizes = pytest.mark.parametrize(("student_size", "teacher_size", "size"), SIZES)


@rows
@sizes
def test_ccm(rows, student_size, teacher_size, size):
    """CAM-loss, Eq. 10: the student's CAAM' against the teacher's CAM' of the target."""
    student, teacher = other_output(*student_size, seed=3), other_output(*teacher_size, 7)
    expected = mean_distance(map(stretched, caams(student, size)), map(stretched, cams(teacher, rows, size)), 1)
    assert 0.1 < expected < 1
    found = CCM()(student, row_target(rows), State(teacher=teacher))
    assert found.item() == pytest.approx(expected, rel=1e-9)


@rows
@sizes
@pytest.mark.parametrize(("form", "power"), [("cam_l1", 1), ("cam_l2", 2)])
def test_at_on_cams(rows, student_size, teacher_size, size, form, power):
    """CAM-loss, Eq. 9: the student's CAM' against the teacher's CAM' of the target."""
    student, teacher = other_output(*student_size, seed=3), other_output(*teacher_size, 7)
    pair = (map(stretched, cams(net, rows, size)) for net in (student, teacher))
    expected = mean_distance(*pair, power)
    assert 0.05 < expected < 1
    found = AT(form)(student, row_target(rows), State(teacher=teacher))
    assert found.item() == pytest.approx(expected, rel=1e-9)


@sizes
def test_at_in_its_original_form(student_size, teacher_size, size):
    """Zagoruyko and Komodakis: Q = mean_c f², divided by its length over the map."""
    student, teacher = other_output(*student_size, seed=3), other_output(*teacher_size, 7)
    pair = []
    for net in (student, teacher):
        squares = [averaged(maps.square().mean(0, keepdim=True), *size).flatten().tolist() for maps in net.maps[-1]]
        pair.append([[q / math.sqrt(sum(r * r for r in values)) for q in values] for values in squares])
    expected = mean_distance(*pair, 2)
    found = AT("original")(student, row_target(ROWS["one-hot"]), State(teacher=teacher))
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_at_as_others_write_it():
    """The formula of mdistiller, for maps of one size."""

    def attention(maps):
        return F.normalize(maps.pow(2).mean(1).reshape(N, -1))

    expected = (attention(STUDENT.maps[-1]) - attention(TEACHER.maps[-1])).pow(2).mean()
    assert AT("original")(STUDENT, row_target(ROWS["one-hot"]), TAUGHT).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("seed", range(20))
def test_ccm_is_bounded_by_l_cam_and_at(seed):
    """CAM-loss, Eq. 11: L_ccm ≤ L_cam + L_at, image by image."""
    student, teacher = other_output(4, 5, seed=2 * seed), other_output(4, 5, 7, seed=2 * seed + 1)
    target = row_target(list(ROWS.values())[seed % 3])
    for n in range(N):
        state = State(teacher=output(teacher.maps[0][[n]], teacher.weight))
        alone = output(student.maps[0][[n]], student.weight), target[[n]], state
        assert CCM()(*alone) <= CAMLoss()(*alone) + AT("cam_l1")(*alone) + 1e-12


def test_the_whole_loss_reads_the_teacher_of_the_objective():
    """CAM-loss, Eq. 12: β L_ce + (1 - β) L_kd + γ L_ccm, with gradients for the student alone."""
    torch.manual_seed(0)
    student, teacher = observe(create("resnet8", K)), observe(create("resnet8", K))
    images, target = torch.randn(N, 3, 16, 16), torch.tensor(ROWS["one-hot"]).float()
    objective = Objective(teacher=teacher, ce=(0.5, CrossEntropy()), kd=(0.5, KD()), ccm=(1.0, CCM()))
    parts = objective(student, images, target)
    state = State(teacher=teacher(images))
    out = student(images)
    for name, term in (("ce", CrossEntropy()), ("kd", KD()), ("ccm", CCM())):
        assert parts[name].item() == pytest.approx(term(out, target, state).item(), rel=1e-5)
    expected = 0.5 * parts["ce"] + 0.5 * parts["kd"] + parts["ccm"]
    assert parts["loss"].item() == pytest.approx(expected.item(), rel=1e-6)
    parts["loss"].backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in student.parameters())


@terms
def test_gradients(term):
    target = row_target(ROWS["mixed"])

    def loss(maps, weight):
        return term(output(maps, weight), target, TAUGHT)

    inputs = [tensor.clone().requires_grad_() for tensor in (STUDENT.maps[0], STUDENT.weight)]
    assert torch.autograd.gradcheck(loss, inputs)


@terms
def test_the_teacher_gets_no_gradient(term):
    teacher, student = (
        [tensor.clone().requires_grad_() for tensor in (net.maps[0], net.weight)] for net in (TEACHER, STUDENT)
    )
    term(output(*student), row_target(ROWS["one-hot"]), State(teacher=output(*teacher))).backward()
    assert [tensor.grad for tensor in teacher] == [None, None]
    assert student[0].grad.abs().sum() > 0


@terms
@rows
def test_a_batch_gives_the_mean_over_its_images(term, rows):
    target = row_target(rows)
    alone = [
        term(
            output(STUDENT.maps[0][[n]], STUDENT.weight),
            target[[n]],
            State(teacher=output(TEACHER.maps[0][[n]], TEACHER.weight)),
        ).item()
        for n in range(N)
    ]
    assert term(STUDENT, target, TAUGHT).item() == pytest.approx(sum(alone) / N, rel=1e-12)
    assert 0 < min(alone) < max(alone)


def in_half_precision(net):
    return net._replace(logits=net.logits.bfloat16(), maps=(net.maps[0].bfloat16(),), weight=net.weight.float())


@terms
def test_half_precision_gives_a_float32_loss(term):
    target = torch.tensor(ROWS["mixed"])
    with torch.autocast("cpu", torch.bfloat16):
        loss = term(in_half_precision(STUDENT), target, State(teacher=in_half_precision(TEACHER)))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(term(STUDENT, row_target(ROWS["mixed"]), TAUGHT).item(), rel=0.03)


@terms
def test_a_teacher_is_needed(term):
    name = type(term).__name__
    with pytest.raises(ValueError, match=rf"{name} needs a teacher: pass Objective\(teacher=observe\(net\), …\)"):
        term(STUDENT, row_target(ROWS["one-hot"]), State())


@terms
def test_a_teacher_of_other_classes_is_refused(term):
    with pytest.raises(ValueError, match="the teacher has 4 classes and the student 5"):
        term(STUDENT, row_target(ROWS["one-hot"]), State(teacher=other_output(3, 2, classes=4)))


@pytest.mark.parametrize("term", TERMS[2:], ids=repr)
@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((2, 3), "the student's maps are 3 × 2, the teacher's 2 × 3: one is higher, the other wider"),
        ((1, 1), "the student's maps are 3 × 2, the teacher's 1 × 1: nothing is left of a single cell"),
    ],
)
def test_maps_that_cannot_be_compared(term, size, message):
    with pytest.raises(ValueError, match=message):
        term(STUDENT, row_target(ROWS["one-hot"]), State(teacher=other_output(*size)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: KD(temperature=0), "temperature is 0, expected more than 0"),
        (lambda: KD(reduction="mean"), "reduction is 'mean', expected 'batchmean' or 'paper'"),
        (lambda: AT("l2"), "form is 'l2', expected 'cam_l2', 'cam_l1' or 'original'"),
    ],
)
def test_unknown_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_settings_show_in_the_text_of_the_term():
    assert [repr(term) for term in (KD(), AT(), CCM())] == [
        "KD(temperature=4.0, reduction='batchmean')",
        "AT(form='cam_l2')",
        "CCM()",
    ]
