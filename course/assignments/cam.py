"""CAM from scratch

The class activation map, the stretch to one range, and the bias.
"""

MINUTES = 90
TEACHES = "what a class activation map adds up, why its mean is a logit, and what a stretch does to it"
BY_PEOPLE = {}
CAMLIB = ("camlib.one_hot", "camlib.data.Scenes")
REFUSED = ()

# %% draw
v.layout = rng.choice(["NHWC", "CNHW", "HWNC", "NWHC", "CHWN", "HWCN", "WHCN", "CNWH"])
v.w_layout = rng.choice(["KC", "CK"])
v.shape_f, v.shape_w = (f"({', '.join(letters)})" for letters in (v.layout, v.w_layout))
v.channel_axis = v.layout.index("C")
v.equation = f"{v.layout.lower()},{v.w_layout.lower()},nk->nhw"
v.from_book_f, v.from_book_w = f"nchw->{v.layout.lower()}", f"kc->{v.w_layout.lower()}"
v.to_book_f, v.to_book_w = f"{v.layout.lower()}->nchw", f"{v.w_layout.lower()}->kc"
v.low = rng.choice([-4, -3, -2, -1.5, -1, -0.5, 0.5, 1, 1.5, 2, 3, 4])
v.high = v.low + rng.choice([1.5, 2, 2.5, 3, 4, 5, 6, 8])
v.toy_f = [[[rng.randint(0, 6) for _ in range(3)] for _ in range(2)] for _ in range(2)]
v.toy_w = [rng.choice([0.5, 1.0, 1.5, 2.0, 2.5]), -rng.choice([0.5, 1.0, 1.5, 2.0])]
v.toy_b = rng.choice([-1.5, -0.75, 0.25, 0.75, 1.25, 2.5])
v.first, v.second = rng.sample(range(10), 2)
v.seed = rng.randrange(10**6)

# %% [markdown]
# # CAM from scratch
#
# **What you need.** The chapter *Class activation maps* of the book, PyTorch, and about an hour and a half.
#
# **How it works.** Write into the cells that begin with `# ANSWER` and leave that line as it is.
# After each answer stands a cell that checks something you can see; the hidden tests check more, and they give the points.
# You may add cells of your own.
# Hand in this notebook, under any name, after *Restart and run all*.
#
# **What is not allowed.** Of `camlib` you may use `camlib.one_hot` and `camlib.data.Scenes`; the maps are for you to write.
# A cell that calls `camlib.maps`, reads or writes files, or imports anything but PyTorch, NumPy, SciPy, pandas, Matplotlib and Python's mathematics is not run when your work is graded.
#
# **In your section** some things are done differently from the book, so that copying a line does not help:
#
# - feature maps $f$ come in the order {v.shape_f}, and the classifier's weight $W$ in the order {v.shape_w}: $N$ images, $C$ channels, $K$ classes, a map of $H$ rows and $W$ columns;
# - maps are stretched to the range {v.low} … {v.high};
# - target rows $T$ are (N, K), and every map you return is (N, H, W), as in the book.

# %% given
import torch

# %% [markdown]
# ## 1 By hand (2 points)
#
# One image, two channels of 2 rows and 3 columns:

# %% given
toy_f = torch.tensor(v.toy_f, dtype=torch.float32)  # (C, H, W)
toy_w = torch.tensor(v.toy_w)  # the weights of one class
toy_b = v.toy_b  # its bias
print(toy_f)
print("weights", toy_w.tolist(), "bias", toy_b)

# %% [markdown]
# Write the class activation map of this class, two rows of three numbers, and the class's logit.
# The logit is that of a net with global average pooling and a linear layer.

# %% answer by_hand
# BEGIN toy_cam, toy_logit = None, None  # a list of two lists of three numbers, and a number
toy_cam = [[sum(w * v.toy_f[c][y][x] for c, w in enumerate(v.toy_w)) for x in range(3)] for y in range(2)]
toy_logit = sum(sum(row) for row in toy_cam) / 6 + v.toy_b
# END

# %% check
assert toy_cam is not None, "replace the first None"
assert [len(row) for row in toy_cam] == [3, 3], "two rows of three numbers"
print("The shape is right.")

# %% [markdown]
# ## 2 The map (4 points)
#
# `my_cam(f, W, T)` returns the class activation map of each image's target row.
# A row may be one-hot or mixed, weights may be negative, and gradients must flow to `f` and to `W`.
# The arguments must be left as they were.
#
# Your orders: `f` is {v.shape_f}, `W` is {v.shape_w}, `T` is (N, K), and the result is (N, H, W).


# %% answer map
def my_cam(f, W, T):
    """The class activation map of each target row, (N, H, W)."""
    # BEGIN raise NotImplementedError("write my_cam")
    return torch.einsum(v.equation, f, W, T)
    # END


# %% check
sizes = {"N": 2, "C": 3, "H": 4, "W": 5, "K": 6}
check_f = torch.rand([sizes[letter] for letter in v.layout])
check_W = torch.rand([sizes[letter] for letter in v.w_layout])
check_map = my_cam(check_f, check_W, torch.eye(6)[:2])
assert check_map.shape == (2, 4, 5), f"expected (N, H, W) = (2, 4, 5), not {tuple(check_map.shape)}"
print("The shape is right.")

# %% [markdown]
# ## 3 The stretch (2 points)
#
# `stretch(a)` takes maps (N, H, W) and stretches each by its own minimum and maximum to the range {v.low} … {v.high}.
# A constant map has no range: every cell of it becomes {v.low}.
# Gradients are not asked for here; leaving the argument as it was is.


# %% answer stretch
def stretch(a):
    """Each map stretched by itself, (N, H, W)."""
    # BEGIN raise NotImplementedError("write stretch")
    low, high = a.amin((1, 2), keepdim=True), a.amax((1, 2), keepdim=True)
    return v.low + (v.high - v.low) * (a - low) / (high - low + 1e-6)
    # END


# %% check
stretched = stretch(torch.arange(24.0).reshape(2, 3, 4))
assert abs(stretched[0, 0, 0] - v.low) < 1e-3, "the smallest cell becomes the lower end of the range"
assert abs(stretched[0, 2, 3] - v.high) < 1e-3, "the largest cell becomes the upper end"
print("The ends are right.")

# %% [markdown]
# ## 4 Back to the logit (1 point)
#
# `logits_of(maps, T, b)` takes class activation maps (N, H, W), the target rows they belong to and the classifier's bias (K,).
# It returns the score of each row, $\sum_k T_k z_k$, as (N,), without seeing $f$ or $W$.


# %% answer logit
def logits_of(maps, T, b):
    """The score of each target row, (N,)."""
    # BEGIN raise NotImplementedError("write logits_of")
    return maps.mean((1, 2)) + T @ b
    # END


# %% check
assert logits_of(torch.zeros(2, 3, 4), torch.eye(2), torch.zeros(2)).shape == (2,), "one score per image"
print("The shape is right.")

# %% [markdown]
# ## 5 Pictures (1 point)
#
# Pictures of two classes, {v.first} and {v.second}, cropped to 32 rows and 24 columns, and the maps of an untrained net, with the mean of each channel taken out:

# %% given
from camlib.data import Scenes

scenes = Scenes("test", seed=v.seed, count=40)
print("classes:", scenes.classes[v.first], "and", scenes.classes[v.second])
chosen = (scenes.labels == v.first) | (scenes.labels == v.second)
pictures = scenes.images[chosen][:, :, :, 4:28].float() / 255 - 0.5
torch.manual_seed(v.seed)
net = torch.nn.Sequential(
    torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 12, 3, stride=2, padding=1)
)
with torch.no_grad():
    picture_maps = net(pictures)  # (N, C, H, W)
picture_maps = picture_maps - picture_maps.mean((2, 3), keepdim=True)
picture_weight = torch.randn(10, 12)  # (K, C)
print("maps", tuple(picture_maps.shape), "weight", tuple(picture_weight.shape))

# %% [markdown]
# Take the map of a difference: the CAM of class {v.first} minus the CAM of class {v.second}, for each picture.
# `brightest` lists, picture by picture, the row and the column of its largest cell.
# Mind the order of the axes: these maps are (N, C, H, W), this weight (K, C).

# %% answer pictures
# BEGIN brightest = None  # [(row, column), …]
difference = torch.zeros(len(pictures), 10)
difference[:, v.first], difference[:, v.second] = 1, -1
reordered, weight = torch.einsum(v.from_book_f, picture_maps), torch.einsum(v.from_book_w, picture_weight)
flat = my_cam(reordered, weight, difference).flatten(1).argmax(1)
brightest = [(int(i) // picture_maps.shape[3], int(i) % picture_maps.shape[3]) for i in flat]
# END

# %% check
assert brightest is not None and len(brightest) == len(pictures), "one (row, column) for each picture"
print("As many as there are pictures.")

# %% show
import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 4, figsize=(8, 2.8))
for axis, picture, (row, column) in zip(axes, pictures, brightest, strict=False):
    axis.imshow((picture + 0.5).permute(1, 2, 0).numpy())
    axis.add_patch(plt.Rectangle((4 * column - 0.5, 4 * row - 0.5), 4, 4, fill=False, edgecolor="red", linewidth=2))
    axis.set_title(f"row {row}, column {column}")
    axis.axis("off")
plt.show()

# %% [markdown]
# You are done: *Restart and run all*, look whether every check passes, and hand in the notebook.


# %% tests
def data(seed, negative=False, sizes=(3, 4, 5, 7, 6)):
    """Maps in the book's order, and the same in the section's; N, C, H, W, K."""
    generator = torch.Generator().manual_seed(v.seed + seed)
    n, c, h, w, k = sizes
    f = torch.rand(n, c, h, w, generator=generator)
    weight = torch.rand(k, c, generator=generator) - (0.9 if negative else 0)
    return f, weight, theirs(f), torch.einsum(v.from_book_w, weight).clone()


def theirs(f):
    return torch.einsum(v.from_book_f, f).clone()


def right_cam(f, weight, rows):
    return torch.einsum("nk,kc,nchw->nhw", rows.double(), weight.double(), f.double())


def one_hot_rows(n, k):
    return torch.eye(k)[torch.arange(n) * 2 % k]


# %% test by_hand 1 the map by hand
f = torch.tensor(v.toy_f, dtype=torch.float64)
expected = torch.einsum("c,chw->hw", torch.tensor(v.toy_w, dtype=torch.float64), f)
same(number("toy_cam"), expected)

# %% test by_hand 1 the logit by hand, with its bias
f = torch.tensor(v.toy_f, dtype=torch.float64)
expected = (torch.tensor(v.toy_w, dtype=torch.float64) * f.mean((1, 2))).sum() + v.toy_b
same(number("toy_logit"), expected)

# %% test map 1 one-hot rows, on maps that are not square
f, weight, f_, weight_ = data(1)
rows = one_hot_rows(3, 6)
same(call("my_cam", f_, weight_, rows), right_cam(f, weight, rows))

# %% test map 1 soft rows mix the maps
f, weight, f_, weight_ = data(2)
rows = (one_hot_rows(3, 6) + 1) / 7
same(call("my_cam", f_, weight_, rows), right_cam(f, weight, rows))

# %% test map 1 negative weights leave negative cells
f, weight, f_, weight_ = data(3, negative=True)
rows = one_hot_rows(3, 6)
same(call("my_cam", f_, weight_, rows), right_cam(f, weight, rows))

# %% test map 1 gradients flow to f and W, and nothing is changed in place
f, weight, f_, weight_ = data(4)
rows = one_hot_rows(3, 6)
before = f_.clone(), weight_.clone(), rows.clone()
call("my_cam", f_, weight_, rows)
unchanged(before, (f_, weight_, rows))
f_.requires_grad_(), weight_.requires_grad_(), f.requires_grad_(), weight.requires_grad_()
factor = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(v.seed))
(call("my_cam", f_, weight_, rows) * factor).sum().backward()
(right_cam(f, weight, rows) * factor).sum().backward()
same(f_.grad, theirs(f.grad))
same(weight_.grad, torch.einsum(v.from_book_w, weight.grad))

# %% test stretch 1 each map by its own minimum and maximum
a = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(v.seed)) * torch.tensor([1.0, 9, 30])[:, None, None] - 3
low, high = a.amin((1, 2), keepdim=True).double(), a.amax((1, 2), keepdim=True).double()
same(call("stretch", a.clone()), v.low + (v.high - v.low) * (a.double() - low) / (high - low))

# %% test stretch 1 a constant map, and nothing is changed in place
a = torch.tensor([2.0, -5.0])[:, None, None].expand(2, 3, 4).clone()
same(call("stretch", a.clone()), torch.full((2, 3, 4), float(v.low)))
a = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(v.seed))
before = a.clone()
call("stretch", a)
unchanged((before,), (a,))

# %% test logit 1 the mean of the map plus the row's bias
generator = torch.Generator().manual_seed(v.seed)
maps, b = torch.randn(3, 4, 6, generator=generator), torch.randn(5, generator=generator) + 1
rows = (torch.eye(5)[:3] + 0.25) / 2.25
same(call("logits_of", maps, rows, b), maps.double().mean((1, 2)) + rows.double() @ b.double())

# %% test pictures 1 the brightest cell of each difference
from camlib.data import Scenes

scenes = Scenes("test", seed=v.seed, count=40)
chosen = (scenes.labels == v.first) | (scenes.labels == v.second)
pictures = scenes.images[chosen][:, :, :, 4:28].float() / 255 - 0.5
torch.manual_seed(v.seed)
net = torch.nn.Sequential(
    torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 12, 3, stride=2, padding=1)
)
with torch.no_grad():
    f = net(pictures)
f = f - f.mean((2, 3), keepdim=True)
weight = torch.randn(10, 12)
cells = torch.einsum("c,nchw->nhw", weight[v.first] - weight[v.second], f)
theirs_ = number("brightest")
assert theirs_.shape == (len(cells), 2), f"brightest has shape {tuple(theirs_.shape)}"
found = torch.stack([a[int(y), int(x)] for a, (y, x) in zip(cells, theirs_, strict=True)])
same(found, cells.amax((1, 2)))


# %% wrong map 9 ReLU on the map
def my_cam(f, W, T):
    return torch.einsum(v.equation, f, W, T).relu()


# %% wrong map 8 argmax in place of the row
def my_cam(f, W, T):
    T = torch.nn.functional.one_hot(T.argmax(1), T.shape[1]).float()
    return torch.einsum(v.equation, f, W, T)


# %% wrong map 5 rows and columns swapped
def my_cam(f, W, T):
    return torch.einsum(v.equation, f, W, T).transpose(1, 2)


# %% wrong map 6 the mean over channels
def my_cam(f, W, T):
    return torch.einsum(v.equation, f, W, T) / f.shape[v.channel_axis]


# %% wrong map 9 gradients cut off
def my_cam(f, W, T):
    return torch.einsum(v.equation, f.detach(), W, T)


# %% wrong map 9 the weight changed in place
def my_cam(f, W, T):
    answer = torch.einsum(v.equation, f, W, T)
    if not W.requires_grad:
        W.zero_()
    return answer


# %% wrong map 5 camlib's own map
import camlib.maps

my_cam = camlib.maps.cam

# %% wrong map 5 camlib's own map, by another name
import camlib as library


def my_cam(f, W, T):
    m = library.maps
    return m.cam(torch.einsum(v.to_book_f, f), torch.einsum(v.to_book_w, W), T)


# %% wrong stretch 8 minimum and maximum over the batch
def stretch(a):
    return v.low + (v.high - v.low) * (a - a.min()) / (a.max() - a.min() + 1e-6)


# %% wrong stretch 9 NaN on a constant map
def stretch(a):
    low, high = a.amin((1, 2), keepdim=True), a.amax((1, 2), keepdim=True)
    return v.low + (v.high - v.low) * (a - low) / (high - low)


# %% wrong stretch 9 changed in place
def stretch(a):
    a -= a.amin((1, 2), keepdim=True)
    a /= a.amax((1, 2), keepdim=True) + 1e-6
    a *= v.high - v.low
    a += v.low
    return a


# %% wrong stretch 8 the book's range
def stretch(a):
    low, high = a.amin((1, 2), keepdim=True), a.amax((1, 2), keepdim=True)
    return (a - low) / (high - low + 1e-6)


# %% wrong logit 9 the bias forgotten
def logits_of(maps, T, b):
    return maps.mean((1, 2))


# %% wrong by_hand 9 the logit by hand without its bias
toy_cam = [[sum(w * v.toy_f[c][y][x] for c, w in enumerate(v.toy_w)) for x in range(3)] for y in range(2)]
toy_logit = sum(sum(row) for row in toy_cam) / 6

# %% wrong by_hand 9 the bias in every cell of the map
toy_cam = [[sum(w * v.toy_f[c][y][x] for c, w in enumerate(v.toy_w)) + v.toy_b for x in range(3)] for y in range(2)]
toy_logit = sum(sum(row) for row in toy_cam) / 6

# %% [markdown] rubric
# Nothing here is graded by people.
# When a student asks about a lost point, the instructor's report names the test; these are the usual causes.
#
# | Test | Usual cause |
# |---|---|
# | one-hot rows, not square | rows and columns swapped; the mean over channels in place of the sum |
# | soft rows | `argmax` in place of the row |
# | negative weights | a ReLU on the map, as in Grad-CAM |
# | gradients, in place | `.detach()`, `.data` or `torch.no_grad()`; `*=` on an argument |
# | each map by its own minimum and maximum | one minimum for the whole batch |
# | a constant map | no small number in the denominator: 0/0 |
# | the mean plus the row's bias | the bias left out, or one class's bias for a mixed row |
