"""CAM-loss

The loss on maps: its value, the weights it moves, a net that cheats it, and a control.
"""

MINUTES = 150
TEACHES = "what CAM-loss compares, which weights its gradient reaches, how it can be cheated, and what a control is for"
BY_PEOPLE = {"argument": 3}
CAMLIB = ("camlib.one_hot", "camlib.maps.cam", "camlib.maps.caam", "camlib.maps.minmax")
REFUSED = ("CAMLoss",)

# %% draw
v.power = rng.choice([1.25, 1.5, 1.75, 2, 2.25, 2.5, 2.75, 3, 3.5, 4])
v.first, v.frozen, v.second, v.head = rng.sample(
    ["amber", "birch", "cedar", "dune", "ember", "fern", "grove", "heath", "iris", "juniper", "kelp", "lotus"], 4
)
v.first_weight, v.frozen_weight, v.second_weight, v.head_weight = (
    f"{layer}.weight" for layer in (v.first, v.frozen, v.second, v.head)
)
v.head_bias = f"{v.head}.bias"
v.seed = rng.randrange(10**6)
v.k = rng.randrange(4)
v.channel = rng.randrange(5)
v.weight = [[rng.choice([0.1, 0.2, 0.3, 0.4, 0.5]) for _ in range(5)] for _ in range(4)]
for row in range(4):
    # No other channel's largest weight belongs to class k, so one solution is to use this channel alone.
    v.weight[row][v.channel] = 0.9 if row == v.k else rng.choice([0.2, 0.3, 0.4])
others = [row for row in range(4) if row != v.k]
for channel in range(5):
    if channel != v.channel:
        v.weight[rng.choice(others)][channel] = 0.7
v.guide_seed = rng.randrange(10**6)

# %% [markdown]
# # CAM-loss
#
# **What you need.** The chapters *Class activation maps* and *CAM-loss* of the book, PyTorch's autograd, and two to three hours.
#
# **How it works.** Write into the cells that begin with `# ANSWER` and leave that line as it is.
# After each answer stands a cell that checks something you can see; the hidden tests check more, and they give the points.
# You may add cells of your own.
# Hand in this notebook, under any name, after *Restart and run all*.
#
# **What is not allowed.** Of `camlib` you may use `camlib.maps.cam`, `camlib.maps.caam`, `camlib.maps.minmax` and `camlib.one_hot`; the loss is for you to write.
# A cell that uses anything else of it, reads or writes files, or imports anything but PyTorch, NumPy, SciPy, pandas, Matplotlib and Python's mathematics is not run when your work is graded.
#
# **In your section** the distance between the two maps is not the paper's absolute difference but its power {v.power}.

# %% given
import torch

import camlib.maps

# %% [markdown]
# ## 1 The value (4 points)
#
# `my_cam_loss(f, W, T)` takes feature maps (N, C, H, W), the classifier's weight (K, C) and target rows (N, K).
# It stretches the CAAM of each image and the CAM of its target row to 0 … 1, takes the absolute difference to the power {v.power}, and returns its mean over cells and images, one number.
#
# Two things about gradients, as in Algorithm 1 of the paper:
#
# - the classifier's weight gets no gradient from this loss: cross-entropy alone moves it;
# - the feature maps get their gradient through *both* maps.


# %% answer value
def my_cam_loss(f, W, T):
    """CAM-loss with the power of your section, one number."""
    # BEGIN raise NotImplementedError("write my_cam_loss")
    guide = camlib.maps.minmax(camlib.maps.cam(f, W.detach(), T))
    return (camlib.maps.minmax(camlib.maps.caam(f)) - guide).abs().pow(v.power).mean()
    # END


# %% check
check_f = torch.rand(2, 3, 4, 5)
check_loss = my_cam_loss(check_f, torch.rand(6, 3), torch.eye(6)[:2])
assert check_loss.shape == (), f"expected one number, not the shape {tuple(check_loss.shape)}"
assert 0 <= check_loss <= 1, "a mean of distances between maps in 0 … 1 lies in 0 … 1"
print("One number, in its range.")

# %% [markdown]
# ## 2 Which weights it moves (2 points)
#
# A small net with the layers `{v.first}`, `{v.frozen}`, `{v.second}` and `{v.head}`.
# The second of them does not learn.

# %% given
from collections import OrderedDict

torch.manual_seed(v.seed)
small = torch.nn.Sequential(
    OrderedDict(
        [
            (v.first, torch.nn.Conv2d(3, 6, 3, bias=False)),
            ("relu_1", torch.nn.ReLU()),
            (v.frozen, torch.nn.Conv2d(6, 6, 3, bias=False).requires_grad_(False)),
            ("relu_2", torch.nn.ReLU()),
            (v.second, torch.nn.Conv2d(6, 8, 3, bias=False)),
            ("relu_3", torch.nn.ReLU()),
        ]
    )
)
small_head = torch.nn.Linear(8, 4)
images, rows = torch.rand(6, 3, 16, 14), torch.eye(4)[torch.arange(6) % 4]
names = {v.head_weight: small_head.weight, v.head_bias: small_head.bias, **dict(small.named_parameters())}
small_f = small(images)  # (N, C, H, W)
small_logits = small_head(small_f.mean((2, 3)))
print(list(names))

# %% [markdown]
# Which of these tensors get a gradient that is not zero
#
# - from CAM-loss alone: `moved_by_cam_loss`, a set of names as they are printed above;
# - from cross-entropy alone: `moved_by_cross_entropy`?
#
# Think first; then let autograd tell you.

# %% answer moved
# BEGIN moved_by_cam_loss, moved_by_cross_entropy = None, None  # two sets of names
moved_by_cam_loss = {v.first_weight, v.second_weight}
moved_by_cross_entropy = moved_by_cam_loss | {v.head_weight, v.head_bias}
# END

# %% check
assert moved_by_cam_loss is not None, "replace the first None"
assert set(moved_by_cam_loss) | set(moved_by_cross_entropy) <= set(names), "a name that the net does not have"
print("Names of the net.")

# %% [markdown]
# ## 3 A net that cheats (2 points)
#
# A loss on maps can be driven to zero by a net that has learnt nothing.
# This is the classifier's weight, four classes and five channels:

# %% given
W = torch.tensor(v.weight)  # (K, C)
print(W)

# %% [markdown]
# Make `cheating_maps`, feature maps (3, 5, 4, 6) that could come out of a ReLU (none is negative), are not constant over the cells of any image, and
#
# - give a CAM-loss of zero, *whatever* the target of each image is;
# - let the classifier, without bias, answer class {v.k} for every image.

# %% answer cheat
# BEGIN cheating_maps = None  # a tensor (3, 5, 4, 6)
cheating_maps = torch.zeros(3, 5, 4, 6)
cheating_maps[:, v.channel] = torch.arange(24.0).reshape(4, 6)
# END

# %% check
assert cheating_maps is not None and cheating_maps.shape == (3, 5, 4, 6), "a tensor (3, 5, 4, 6)"
print("The shape is right.")

# %% [markdown]
# ## 4 A control of your own (1 point, and 3 for the argument)
#
# CAM-loss pulls the CAAM to a *guide*, the CAM of the target.
# If training with it helps, is it because of *this* guide, or would any pull have helped?
# A control answers that: the same loss with a guide from which the thing in question has been taken away.
#
# `my_guide(f, W, T)` returns the guide of your control, (N, H, W), within 0 … 1, for any number of images, channels, classes and cells.
# No gradient flows through it, and it is not the stretched CAM of the target.
# Take none of the book's controls (the CAM of a random class, a constant 1/2).


# %% answer control
def my_guide(f, W, T):
    """The guide of my control, (N, H, W), within 0 … 1."""
    # BEGIN raise NotImplementedError("write my_guide")
    # The target's CAM with its cells shuffled: the same values, in other places.
    guide = camlib.maps.minmax(camlib.maps.cam(f, W, T)).detach()
    order = torch.randperm(guide[0].numel())
    return guide.flatten(1)[:, order].reshape(guide.shape)
    # END


# %% check
check_guide = my_guide(check_f, torch.rand(6, 3), torch.eye(6)[:2])
assert check_guide.shape == (2, 4, 5), f"expected (N, H, W) = (2, 4, 5), not {tuple(check_guide.shape)}"
assert 0 <= check_guide.min() and check_guide.max() <= 1, "within 0 … 1"
print("Shape and range are right.")

# %% [markdown]
# Argue for it in the next cell, in at most 200 words.
# Which part of CAM-loss does your control keep, and which does it take away?
# What would you conclude if a net trained with it did as well as one trained with CAM-loss, and what if it did worse?
# What else might explain the result?

# %% [markdown] words argument
# The control keeps everything about the guide but the place: the shuffled map has the same values as the target's CAM, so the pull on the CAAM's distribution of values is the same.
# What it takes away is *where* the evidence for the target lies.
# If it did as well as CAM-loss over enough paired seeds, the place of the evidence would not be what helps; some regularisation by a sparse or peaked CAAM would be the simpler reading.
# If it did worse than CAM-loss but no worse than cross-entropy alone, that would speak for the place.
# If it did worse than cross-entropy, a harmful pull and a useful guide could not be told apart: shuffled cells ask for maps that no convolution makes, which neighbouring cells moved together would not.

# %% [markdown]
# You are done: *Restart and run all*, look whether every check passes, and hand in the notebook.


# %% tests
def right_loss(f, weight, rows):
    def stretched(a):
        low, high = a.amin((1, 2), keepdim=True), a.amax((1, 2), keepdim=True)
        return (a - low) / (high - low + 1e-6)

    guide = torch.einsum("nk,kc,nchw->nhw", rows, weight.detach(), f)
    return (stretched(f.sum(1)) - stretched(guide)).abs().pow(v.power).mean()


def data(seed):
    """Maps of different size from image to image, so that the batch has no minimum of its own; W, one-hot rows."""
    generator = torch.Generator().manual_seed(v.seed + seed)
    f = torch.rand(3, 4, 5, 7, generator=generator) * torch.tensor([1.0, 4, 20])[:, None, None, None]
    return f, torch.randn(6, 4, generator=generator), torch.eye(6)[torch.tensor([0, 2, 5])]


def gradient(call, f, weight, rows):
    f, weight = f.clone().requires_grad_(), weight.clone().requires_grad_()
    loss = call("my_cam_loss", f, weight, rows)
    assert isinstance(loss, torch.Tensor) and loss.requires_grad, "the loss has no gradient"
    loss.sum().backward()
    assert f.grad is not None and bool((f.grad != 0).any()), "the feature maps get no gradient"
    return f.grad, weight.grad


# %% test value 1 one-hot targets
f, weight, rows = data(1)
same(call("my_cam_loss", f, weight, rows), right_loss(f, weight, rows))

# %% test value 1 soft targets
f, weight, rows = data(2)
rows = 0.6 * rows + 0.4 * rows.roll(1, 1)
same(call("my_cam_loss", f, weight, rows), right_loss(f, weight, rows))

# %% test value 1 the feature maps get their gradient through both maps
f, weight, rows = data(3)
expected = f.clone().requires_grad_()
right_loss(expected, weight, rows).backward()
found, _ = gradient(call, f, weight, rows)
same(found * 1000, expected.grad * 1000)

# %% test value 1 the classifier's weight gets none
found, of_weight = gradient(call, *data(4))
assert of_weight is None or bool((of_weight == 0).all()), "the weight gets a gradient"

# %% test moved 1 by CAM-loss
found = value("moved_by_cam_loss")
assert set(found) == {v.first_weight, v.second_weight}, f"not {sorted(found)}"

# %% test moved 1 by cross-entropy
found = value("moved_by_cross_entropy")
assert set(found) == {v.first_weight, v.second_weight, v.head_weight, v.head_bias}, f"not {sorted(found)}"

# %% test cheat 1 no loss for any target, without being constant
maps = number("cheating_maps")
assert maps.shape == (3, 5, 4, 6) and maps.isfinite().all(), "not finite maps (3, 5, 4, 6)"
assert maps.min() >= 0, "a map is negative"
assert (maps.sum(1).amax((1, 2)) - maps.sum(1).amin((1, 2)) > 1e-3).all(), "the maps are constant"
for k in range(4):
    loss = right_loss(maps.float(), torch.tensor(v.weight), torch.eye(4)[[k] * 3])
    assert loss < 1e-4, f"the loss is {loss:.4f} for class {k}"

# %% test cheat 1 the section's class, for every image
maps = number("cheating_maps")
assert maps.shape == (3, 5, 4, 6), "not maps (3, 5, 4, 6)"
logits = maps.mean((2, 3)) @ torch.tensor(v.weight, dtype=torch.float64).T
assert (logits.topk(2).values.diff(dim=1).abs() > 1e-6).all(), "two classes are even"
assert (logits.argmax(1) == v.k).all(), "another class wins"


# %% test control 1 shape, range, no gradient, and another map than the target's
def copies(shape):
    generator = torch.Generator().manual_seed(v.guide_seed)
    f = torch.rand(shape, generator=generator, requires_grad=True)
    weight = torch.randn(6, shape[1], generator=generator, requires_grad=True)
    rows = torch.eye(6)[torch.arange(shape[0])]
    guide = call("my_guide", f, weight, rows)
    assert isinstance(guide, torch.Tensor), "a tensor is asked for"
    assert guide.shape == (shape[0], *shape[2:]), f"the shape is {tuple(guide.shape)}"
    assert guide.isfinite().all() and guide.min() >= 0 and guide.max() <= 1, "outside of 0 … 1"
    assert not guide.requires_grad, "a gradient flows through the guide"
    a = torch.einsum("nk,kc,nchw->nhw", rows, weight, f).detach()
    low, high = a.amin((1, 2), keepdim=True), a.amax((1, 2), keepdim=True)
    gap = (guide - (a - low) / (high - low + 1e-6)).abs().mean()
    assert gap > 0.02, "it is the target's CAM"
    assert (guide - 0.5).abs().max() > 1e-3, "it is the book's constant control"


copies((3, 4, 5, 7))
copies((2, 6, 8, 4))


# %% wrong value 6 the sum in place of the mean
def my_cam_loss(f, W, T):
    guide = camlib.maps.minmax(camlib.maps.cam(f, W.detach(), T))
    return (camlib.maps.minmax(camlib.maps.caam(f)) - guide).abs().pow(v.power).sum()


# %% wrong value 8 the weight attached
def my_cam_loss(f, W, T):
    guide = camlib.maps.minmax(camlib.maps.cam(f, W, T))
    return (camlib.maps.minmax(camlib.maps.caam(f)) - guide).abs().pow(v.power).mean()


# %% wrong value 8 the guide detached
def my_cam_loss(f, W, T):
    guide = camlib.maps.minmax(camlib.maps.cam(f, W, T)).detach()
    return (camlib.maps.minmax(camlib.maps.caam(f)) - guide).abs().pow(v.power).mean()


# %% wrong value 8 the class-agnostic map detached
def my_cam_loss(f, W, T):
    guide = camlib.maps.minmax(camlib.maps.cam(f, W.detach(), T))
    return (camlib.maps.minmax(camlib.maps.caam(f)).detach() - guide).abs().pow(v.power).mean()


# %% wrong value 6 minimum and maximum over the batch
def my_cam_loss(f, W, T):
    def stretch(a):
        return (a - a.min()) / (a.max() - a.min())

    guide = stretch(camlib.maps.cam(f, W.detach(), T))
    return (stretch(camlib.maps.caam(f)) - guide).abs().pow(v.power).mean()


# %% wrong value 6 the paper's power in place of the section's
def my_cam_loss(f, W, T):
    guide = camlib.maps.minmax(camlib.maps.cam(f, W.detach(), T))
    return (camlib.maps.minmax(camlib.maps.caam(f)) - guide).abs().mean()


# %% wrong value 8 argmax in place of the row
def my_cam_loss(f, W, T):
    guide = camlib.maps.minmax(camlib.maps.cam(f, W.detach(), camlib.one_hot(T.argmax(1), T.shape[1])))
    return (camlib.maps.minmax(camlib.maps.caam(f)) - guide).abs().pow(v.power).mean()


# %% wrong value 6 a ReLU on the map
def my_cam_loss(f, W, T):
    guide = camlib.maps.minmax(camlib.maps.cam(f, W.detach(), T).relu())
    return (camlib.maps.minmax(camlib.maps.caam(f)) - guide).abs().pow(v.power).mean()


# %% wrong value 5 camlib's own loss
from camlib.losses import CAMLoss as my_cam_loss

# %% wrong moved 8 the classifier's weight among those that CAM-loss moves
moved_by_cam_loss = {v.first_weight, v.second_weight, v.head_weight}
moved_by_cross_entropy = {v.first_weight, v.second_weight, v.head_weight, v.head_bias}

# %% wrong moved 7 the frozen layer among the moved
moved_by_cam_loss = {v.first_weight, v.frozen_weight, v.second_weight}
moved_by_cross_entropy = moved_by_cam_loss | {v.head_weight, v.head_bias}

# %% wrong cheat 8 constant maps
cheating_maps = torch.zeros(3, 5, 4, 6)
cheating_maps[:, v.channel] = 1

# %% wrong cheat 8 a class of its own liking
cheating_maps = torch.zeros(3, 5, 4, 6)
cheating_maps[:, (v.channel + 1) % 5] = torch.arange(24.0).reshape(4, 6)


# %% wrong control 8 the target's own map as its control
def my_guide(f, W, T):
    return camlib.maps.minmax(camlib.maps.cam(f, W, T)).detach()


# %% wrong control 8 a control that lets the gradient through
def my_guide(f, W, T):
    return 1 - camlib.maps.minmax(camlib.maps.cam(f, W, T))


# %% [markdown] rubric
# ## The argument for the control (3 points)
#
# | Points | What to look for |
# |---|---|
# | 1 | It names what the control keeps of CAM-loss and what it takes away, and the code does that. |
# | 1 | Both outcomes are read: as good as CAM-loss, and worse. The first must not be read as "CAM-loss does not work". |
# | 1 | A rival explanation is named (the pull is stronger or weaker; the guide asks for what no net can do; too few seeds). |
#
# A control that keeps everything (the CAM of the target, rescaled) gets no point, however well it is argued.
# A random guide drawn anew at each step is a fair control, but its pull averages to a constant one: the argument should notice.
# Half points are for a sentence that is right and not explained.
