"""Scenes: small pictures of objects with parts on textured grounds, and where the object is.

The set is generated, so there is nothing to download, and everything a picture shows is known: the class,
the ground behind it, every pixel of the object. In training each class stands mostly on its own ground
(the dial `rho`); in the test the ground says nothing, so a net that learnt the ground is found out there
(the mistake that CAM-loss, Figure 5 draws, made measurable).

A picture is the same bytes on every machine: all chance comes from the doubles of PCG64, and the drawing uses
only + - * /, square root, comparison and rounding, one array operation at a time. Sines, matrix products
and sums may differ in the last bit between processors; rotations therefore go by tan(angle / 2).
"""

from itertools import product

import numpy as np
import torch

CHUNK = 500  # pictures drawn at once: keeps the working arrays small
LATTICE = 17  # random values along each side of the grid that textures are interpolated from
LOOK, CHANCES = 9, 15  # random numbers behind the look of each picture, and behind each of its objects


# Shapes: functions (u, v) -> signed distance, negative inside; object units, u right, v up, within about ±1.


def ellipse(x, y, rx, ry):
    def distance(u, v):
        p, q = (u - x) / rx, (v - y) / ry
        level = np.sqrt(p * p + q * q)
        p, q = p / rx, q / ry
        return level * (level - 1) / (np.sqrt(p * p + q * q) + 1e-6)  # first order: exact on the outline

    return distance


def polygon(*numbers):  # convex; x and y of the corners in turn, counter-clockwise
    corners = list(zip(numbers[::2], numbers[1::2], strict=True))
    x, y = sum(numbers[::2]) / len(corners), sum(numbers[1::2]) / len(corners)
    radius = max((p - x) ** 2 + (q - y) ** 2 for p, q in corners) ** 0.5
    edges = []
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        nx, ny = (y1 - y0) / length, (x0 - x1) / length
        edges.append((nx, ny, nx * x0 + ny * y0))

    def distance(u, v):
        far = np.sqrt((u - x) * (u - x) + (v - y) * (v - y)) - radius  # or outlines spike at sharp corners
        for nx, ny, offset in edges:
            np.maximum(far, u * nx + v * ny - offset, out=far)
        return far

    return distance


def box(x0, y0, x1, y1):
    return polygon(x0, y0, x1, y0, x1, y1, x0, y1)


def line(x0, y0, x1, y1, width):
    dx, dy = x1 - x0, y1 - y0

    def distance(u, v):
        along = np.clip(((u - x0) * dx + (v - y0) * dy) / (dx * dx + dy * dy), 0, 1)
        p, q = u - x0 - along * dx, v - y0 - along * dy
        return np.sqrt(p * p + q * q) - width / 2

    return distance


SHAPES = {"ellipse": ellipse, "polygon": polygon, "box": box, "line": line}


def drawing(text):
    """Reads lines "role: shape numbers; twin shape numbers" into [(role, shape)]; a twin is mirrored too."""
    parts = []
    for row in filter(str.strip, text.splitlines()):
        role, shapes = row.split(":")
        for shape in shapes.split(";"):
            *twin, name = [word for word in shape.split() if word.isalpha()]
            place = SHAPES[name](*(float(word) for word in shape.split() if not word.isalpha()))
            parts.append((role.strip(), (lambda u, v, place=place: place(np.abs(u), v)) if twin else place))
    return parts


# Drawings, in painting order. The hue of "body" and "accent" is left to chance: it tells no class.

BIRD = {
    "tail": "accent: polygon -.8 .2 -.75 -.1 -.3 -.3 -.3 .1",
    "crest": "",
    "legs": "dark: line -.15 -.4 -.2 -.8 .09; line .1 -.4 .1 -.8 .09",
    "body": "body: ellipse -.05 -.15 .5 .38; ellipse .36 .28 .3 .29",
    "wing": "accent: ellipse -.15 -.12 .3 .19",
    "beak": "light: polygon .6 .4 .6 .14 .86 .24",
    "eye": "dark: ellipse .43 .34 .08 .08",
}
FINE = {  # class -> the one part of the bird that it exchanges
    "plain bird": {},
    "long beak": {"beak": "light: polygon .58 .4 .58 .16 1.3 .12"},
    "thick beak": {"beak": "light: polygon .54 .5 .54 .04 .84 -.2 1.05 -.05 .96 .36"},
    "pointed crest": {"crest": "accent: polygon .5 .45 -.25 1 .1 .3"},
    "round crest": {"crest": "accent: ellipse .3 .66 .26 .26"},
    "forked tail": {"tail": "accent: line -.4 -.1 -1 .35 .16; line -.4 -.1 -1 -.45 .16"},
    "fan tail": {"tail": "accent: polygon -.3 -.1 -.6 .7 -1 .45 -1.1 -.1"},
    "long tail": {"tail": "accent: line -.3 -.25 -1.3 -.6 .2"},
    "long legs": {"legs": "dark: line -.15 -.4 -.25 -1.25 .1; line .1 -.4 .15 -1.25 .1"},
    "white wing": {"wing": "light: ellipse -.2 -.1 .36 .25"},
}
THINGS = {
    "bird": "\n".join(BIRD.values()),
    "fish": """
        accent: polygon -.4 0 -.95 .5 -.8 0; polygon -.4 0 -.8 0 -.95 -.5; polygon .3 .3 -.25 .72 -.3 .2
        body: ellipse .12 0 .75 .42
        light: ellipse .1 0 .09 .36; ellipse .52 .1 .15 .15
        dark: ellipse .56 .1 .08 .08""",
    "mushroom": """
        light: line 0 0 0 -.6 .42
        body: polygon -.85 -.05 .85 -.05 .78 .25 .5 .58 0 .72 -.5 .58 -.78 .25
        accent: ellipse -.42 .2 .17 .14; ellipse .05 .45 .19 .15; ellipse .48 .15 .15 .13""",
    "house": """
        accent: box .3 .3 .54 .85
        light: box -.6 -.8 .6 .15
        body: polygon -.85 .1 .85 .1 0 .9
        accent: box .08 -.8 .42 -.15
        dark: box -.42 -.4 -.12 -.1""",
    "butterfly": """
        body: twin ellipse .46 .35 .42 .42
        accent: twin ellipse .36 -.38 .3 .34
        light: twin ellipse .48 .38 .17 .17
        dark: line 0 -.55 0 .5 .16; twin line 0 .5 .25 .9 .06""",
    "rocket": """
        light: ellipse 0 -.75 .18 .3
        accent: twin polygon .62 -.8 0 .1 0 -.45
        body: ellipse 0 .1 .34 .85
        light: ellipse 0 .3 .17 .17""",
    "crab": """
        accent: twin line .5 0 .75 .45 .14; twin ellipse .7 .6 .24 .26
        dark: twin line 0 -.15 .9 -.2 .09; twin line 0 -.15 .9 -.5 .09; twin line 0 -.15 .9 -.8 .09
        body: ellipse 0 -.2 .62 .42
        light: twin ellipse .2 .22 .15 .17
        dark: twin ellipse .18 .24 .08 .08""",
    "tree": """
        dark: line 0 -.2 0 -.85 .2
        body: twin ellipse .36 .05 .44 .4; ellipse 0 .45 .46 .42
        accent: ellipse -.4 .05 .12 .12; ellipse .3 -.05 .12 .12; ellipse .05 .5 .12 .12""",
    "car": """
        accent: polygon -.5 0 .5 0 .25 .5 -.35 .5
        light: box -.25 .02 .18 .34
        body: line -.7 -.15 .7 -.15 .44
        dark: twin ellipse .45 -.4 .24 .24
        light: twin ellipse .45 -.4 .1 .1""",
    "cat": """
        body: twin polygon .7 .9 .05 .45 .68 0; ellipse 0 -.1 .78 .62
        light: ellipse 0 -.4 .34 .24; twin ellipse .32 .06 .16 .16
        dark: twin ellipse .3 .06 .08 .12; ellipse 0 -.26 .1 .07""",
}
LIMBS = {  # few-shot classes: every pair of limbs and trunk, in warm and in cool colours
    "ears": "accent: twin line .15 .2 .42 .95 .24",
    "wings": "accent: twin ellipse .68 .12 .34 .24",
    "legs": "accent: twin line .32 -.2 .5 -.95 .17; line 0 -.2 0 -.95 .17",
    "tail": "accent: line .1 -.3 .85 -.3 .2; line .85 -.3 .95 .35 .2",
}
TRUNKS = {
    "round": "body: ellipse 0 0 .56 .56",
    "square": "body: box -.5 -.5 .5 .5",
    "tall": "body: ellipse 0 0 .36 .74",
    "flat": "body: line -.42 0 .42 0 .62",
    "peaked": "body: polygon -.66 -.5 .66 -.5 0 .75",
}
FACE = "light: twin ellipse .19 .08 .15 .17\ndark: twin ellipse .18 .06 .08 .09"
HUES = [(0.92, 0.42, 0.35), (0.95, 0.62, 0.25), (0.96, 0.83, 0.38), (0.93, 0.56, 0.70)]  # warm, then cool
HUES += [(0.44, 0.70, 0.40), (0.22, 0.60, 0.60), (0.38, 0.62, 0.90), (0.58, 0.46, 0.80)]
LIGHT, DARK = (0.97, 0.94, 0.87), (0.17, 0.15, 0.23)


def _things(variant, split):
    """{class name: (parts, first hue of the body, number of hues)}"""
    if variant == "few_shot":
        things = {}
        for (i, trunk), (j, limbs), (k, tone) in product(*map(enumerate, (TRUNKS, LIMBS, ("warm", "cool")))):
            # A Latin square: each split shows every trunk, limb and tone, but never the same three together.
            if ("base", "base", "base", "validation", "novel")[(i + 2 * j + k) % 5] == split:
                text = "\n".join((LIMBS[limbs], TRUNKS[trunk], FACE))
                things[f"{tone} {trunk} with {limbs}"] = (drawing(text), 4 * k, 4)
        return things
    texts = THINGS
    if variant == "fine":
        texts = {name: "\n".join((BIRD | change).values()) for name, change in FINE.items()}
    return {name: (drawing(text), 0, len(HUES)) for name, text in texts.items()}


# Grounds: functions -> how bright and how spotted, 0…1. x, y run from the top left, 0…1; phase (N, 1, 1) is
# random; noise(across, down) is a smooth field of so many cells; dots(cells, share) puts dots in some cells.


def ramp(value, low, high):
    return np.clip((value - low) / (high - low), 0, 1)


def wave(value):
    return np.abs(2 * (value - np.floor(value)) - 1)


def sky(x, y, phase, noise, dots):
    return y, ramp(noise(5, 7) + 0.3 * noise(12, 12), 0.6, 0.95)


def water(x, y, phase, noise, dots):
    ripple = wave(4 * y + 1.5 * noise(4, 5) + phase)
    return ripple * ripple, ramp(ripple + noise(14, 10), 1.45, 1.7)


def leaves(x, y, phase, noise, dots):
    return ramp(noise(9, 9), 0.3, 0.7), ramp(noise(11, 10), 0.6, 0.7)


def brick(x, y, phase, noise, dots):
    row = 6 * y + phase
    column = 3 * x + 0.5 * (np.floor(row) % 2)
    joint = np.minimum(row - np.floor(row), 2 * (column - np.floor(column)))
    return noise(5, 7), 1 - ramp(joint, 0.1, 0.3)


def meadow(x, y, phase, noise, dots):
    return noise(7, 7), dots(8, 0.25)


GROUNDS = {  # dark, bright and spot colour; class k has the ground k modulo 5 as its own
    sky: ((0.42, 0.64, 0.88), (0.72, 0.85, 0.95), (0.97, 0.97, 0.97)),
    water: ((0.13, 0.42, 0.58), (0.28, 0.62, 0.72), (0.72, 0.90, 0.92)),
    leaves: ((0.32, 0.22, 0.16), (0.52, 0.36, 0.20), (0.72, 0.45, 0.20)),
    brick: ((0.52, 0.27, 0.22), (0.68, 0.38, 0.30), (0.76, 0.70, 0.64)),
    meadow: ((0.52, 0.66, 0.28), (0.70, 0.78, 0.40), (0.97, 0.84, 0.88)),
}


def _paint(canvas, cover, colour):
    """Blends colour (N or 1, 3, 1, 1) into canvas (N, 3, H, W) where cover (N, H, W) says so."""
    canvas += cover[:, None] * (colour - canvas)


def _rgb(colours):
    return np.asarray(colours, np.float32).reshape(-1, 3, 1, 1)


def _pixel_centres(size):
    return ((np.arange(size) + 0.5) / size).astype(np.float32)


def _paint_ground(canvas, texture, lattice, phase):
    step = _pixel_centres(canvas.shape[-1])

    def noise(across, down):
        field = lattice
        for axis, cells in ((1, down), (2, across)):
            left = np.floor(step * cells).astype(int)
            t = step * cells - left.astype(np.float32)
            t = (t * t * (3 - 2 * t)).reshape((-1, 1) if axis == 1 else -1)
            near = field.take(left, axis)
            field = near + t * (field.take(left + 1, axis) - near)
        return field

    def dots(cells, share):
        cell = np.floor(step * cells).astype(int)
        chance = lattice.take(cell, 1).take(cell, 2)
        inside = step * cells - cell.astype(np.float32) - 0.5
        p = inside - 0.4 * (chance * 64 % 1 - 0.5)  # later digits of the same number move the dot
        q = inside[:, None] - 0.4 * (chance * 1024 % 1 - 0.5)
        return np.where(chance < share, 1 - ramp(p * p + q * q, 0.04, 0.2), np.float32(0))

    dark, bright, spot = GROUNDS[texture]
    tone, spots = texture(step, step[:, None], phase, noise, dots)
    canvas[:] = _rgb(dark)
    _paint(canvas, tone + np.zeros_like(spots), _rgb(bright))
    _paint(canvas, spots, _rgb(spot))


def _paint_thing(canvas, thing, x, y, scale, chance):
    """Paints one object into each picture, returns its mask; x, y, scale (N, 1, 1) are in half pictures."""
    parts, first_hue, hues = thing
    n, size = len(canvas), canvas.shape[-1]
    step = 2 * _pixel_centres(size) - 1
    body = first_hue + np.floor(chance[:, 0] * hues).astype(int)  # in double: a float32 may round up to 1
    accent = (body + 1 + np.floor(chance[:, 1] * (len(HUES) - 1)).astype(int)) % len(HUES)
    turn, aspect, shear, flip, *jitter = (2 * chance[:, 2:12].T - 1).astype(np.float32)[..., None, None]
    turn, aspect = 0.2 * turn, 1 + 0.15 * aspect  # tan(angle / 2), angle up to 23 degrees
    cosine, sine = (1 - turn * turn) / (1 + turn * turn), 2 * turn / (1 + turn * turn)
    right, up = (step - x) / scale, (y - step[:, None]) / scale
    u, v = (cosine * right + sine * up) * aspect, (cosine * up - sine * right) / aspect
    u = (u + 0.2 * shear * v) * np.where(flip < 0, np.float32(-1), np.float32(1))

    jitter = [np.stack(jitter[i : i + 3], 1).reshape(n, 3, 1, 1) * 0.07 for i in (0, 3)]
    colours = {"body": _rgb(HUES)[body] + jitter[0], "accent": _rgb(HUES)[accent] + jitter[1]}
    colours.update(light=_rgb(LIGHT), dark=_rgb(DARK))
    distances = [shape(u, v) * (scale * (size / 2)) for _, shape in parts]  # now in pixels
    outside = distances[0]
    for distance in distances[1:]:
        outside = np.minimum(outside, distance)
    outside = outside - size / 64  # room for a thin outline
    _paint(canvas, 0.35 * (1 - ramp(outside, 0, size / 10)), _rgb(DARK))  # a soft shadow grounds the object
    cover = np.clip(0.5 - outside, 0, 1)
    _paint(canvas, cover, colours["body"] * 0.35)
    for (role, _), distance in zip(parts, distances, strict=True):
        _paint(canvas, np.clip(0.5 - distance, 0, 1), colours[role])
    canvas *= (1 + cover * (0.2 * np.clip(up - 0.5 * right, -1, 1)))[:, None]  # lit from the top left
    return outside < 0


# By the number of objects: where each stands, and their smallest and largest scale, in half pictures.
PLACES = np.array([[(0, 0)] * 3, [(-0.45, -0.38), (0.45, 0.38), (0, 0)], [(-0.5, -0.42), (0.5, -0.42), (0, 0.46)]])
SCALES = np.array([(0.5, 0.8), (0.4, 0.5), (0.36, 0.44)])


def _draw(chance, grain, ground, shown, objects, things):
    """Draws N pictures: float (N, 3, H, W) in 0…255, and the thing's index at each pixel, or len(things).

    chance (N, LOOK + 3 CHANCES + LATTICE²) and grain (N, 1, H, W) are random doubles, ground (N,) indices,
    shown (N, 3) the things in painting order, of which the first `objects` (N,) are painted.
    """
    n, size = len(chance), grain.shape[-1]
    look, dice, lattice = np.split(chance, (LOOK, LOOK + 3 * CHANCES), axis=1)
    dice, lattice = dice.reshape(n, 3, CHANCES), lattice.astype(np.float32).reshape(n, LATTICE, LATTICE)
    small, large = SCALES[objects - 1].T[..., None]
    scale = small + (large - small) * dice[:, :, 12]
    room = np.where(objects[:, None] == 1, 0.95 - scale, 0.08)
    mirror = np.where(look[:, None, :2] < 0.5, -1, 1)
    centre = PLACES[objects - 1] * mirror + room[..., None] * (2 * dice[:, :, 13:] - 1)
    pose = np.concatenate([centre, scale[..., None]], 2).astype(np.float32)[..., None, None]
    look = look.astype(np.float32)[..., None, None]

    canvas = np.empty((n, 3, size, size), np.float32)
    owner = np.full((n, size, size), len(things), np.uint8)
    for index, texture in enumerate(GROUNDS):
        who = np.flatnonzero(ground == index)
        patch = canvas[who]
        _paint_ground(patch, texture, lattice[who], look[who, 2])
        canvas[who] = patch
    canvas *= 0.94 + 0.12 * look[:, 3:6]
    for slot in range(objects.max()):
        for index, thing in enumerate(things):
            who = np.flatnonzero((shown[:, slot] == index) & (objects > slot))
            patch = canvas[who]
            inside = _paint_thing(patch, thing, *pose[who, slot].swapaxes(0, 1), dice[who, slot])
            canvas[who] = patch
            owner[who] = np.where(inside, np.uint8(index), owner[who])
    step = 2 * _pixel_centres(size) - 1
    slope = (2 * look[:, 6] - 1) * step + (2 * look[:, 7] - 1) * step[:, None]
    canvas *= (0.85 + 0.25 * look[:, 8] + 0.12 * slope)[:, None]
    canvas += 0.08 * (grain.astype(np.float32) - 0.5)
    return np.clip(canvas * 255 + 0.5, 0, 255), owner


SPLITS = dict.fromkeys(("single", "multi", "fine"), ("train", "test", "fresh"))
SPLITS["few_shot"] = ("base", "validation", "novel")


def _one_of(what, value, known):
    if value not in known:
        raise ValueError(f"{what} {value!r} is unknown; choose one of {', '.join(map(repr, known))}")
    return known.index(value)


class Scenes:
    """A generated set of pictures with labels, object masks and grounds, all in memory on torch's default device.

    Picture i depends on split, variant, seed and i, not on `count`. Labels are balanced: pictures
    0…K-1, K…2K-1, … show each of the K classes once (in "multi" as the first of their objects).

    Args:
        split: "train" or "test"; for "few_shot" "base", "validation" or "novel", whose classes are disjoint.
        variant: "single" (10 classes, one object), "multi" (1 to 3 objects of different classes), "fine"
            (10 birds: a plain one, and nine with one part changed) or "few_shot" (24, 8 and 8 creatures, each
            a combination of tone, trunk and limbs).
        seed: non-negative integer.
        count: number of pictures; 10,000 for "train" and "base", 2,000 for the others if None.
        size: height and width in pixels, at least 16.
        rho: in "train" and "base", and in "fresh", which holds new pictures drawn like those of "train", a picture
            has its (first) object's own ground with probability rho, else any ground alike. In the other splits the
            ground is independent of the class, whatever rho is.

    Attributes:
        images: uint8 (N, 3, H, W), RGB in 0…255.
        labels: int64 (N,), class index; for "multi" int64 (N, K), multi-hot.
        masks: bool (N, H, W), pixels of the object or objects.
        grounds: int64 (N,), index into `ground_names`; the own ground of class k is k modulo their number.
        classes, ground_names: tuples of names.

    Raises:
        ValueError: split, variant, seed, count, size or rho outside of the above.
    """

    ground_names = tuple(ground.__name__ for ground in GROUNDS)

    def __init__(self, split, variant="single", seed=0, *, count=None, size=32, rho=0.9):
        variant_index = _one_of("variant", variant, tuple(SPLITS))
        split_index = _one_of(f"for variant {variant!r} the split", split, SPLITS[variant])
        training = split_index == 0  # the first split of each variant
        entangled = training or split == "fresh"
        count = (10_000 if training else 2_000) if count is None else count
        if count < 1:
            raise ValueError(f"count is {count}; ask for at least 1 picture, or None for the default")
        if size < 16:
            raise ValueError(f"size is {size}; objects need at least 16 pixels")
        if not 0 <= rho <= 1:
            raise ValueError(f"rho is {rho}; it is a probability, choose it between 0 and 1")
        if seed < 0:
            raise ValueError(f"seed is {seed}; choose a non-negative integer")
        classes = _things(variant, split)
        self.classes, things = tuple(classes), list(classes.values())
        K, G = len(things), len(GROUNDS)
        # Four streams, each read row by row: a picture depends neither on how many follow nor on its labels.
        key = [seed, variant_index, split_index]
        order, scene, chance, grain = (np.random.Generator(np.random.PCG64([*key, i])) for i in range(4))
        first = order.random((-(-count // K), K)).argsort(1).ravel()[:count].astype(np.int64)
        draws = scene.random((count, 3 + K))
        chosen = draws[:, 0] < (rho if entangled else 0)
        ground = np.where(chosen, first % G, np.floor(draws[:, 1] * G).astype(np.int64))
        objects = np.floor(draws[:, 2] * 3).astype(int) + 1 if variant == "multi" else np.ones(count, int)
        draws[np.arange(count), 3 + first] = -1  # the first object is given, chance ranks the others
        shown = draws[:, 3:].argsort(1)[:, :3]

        self._device = torch.get_default_device()
        images = np.empty((count, 3, size, size), np.uint8)
        self._owner = np.empty((count, size, size), np.uint8)
        for start in range(0, count, CHUNK):
            now = slice(start, min(start + CHUNK, count))
            n = now.stop - start
            numbers = chance.random((n, LOOK + 3 * CHANCES + LATTICE**2)), grain.random((n, 1, size, size))
            images[now], self._owner[now] = _draw(*numbers, ground[now], shown[now], objects[now], things)
        hot = (shown[:, :, None] == np.arange(K)) & (np.arange(3) < objects[:, None])[:, :, None]
        self.images = torch.as_tensor(images, device=self._device)
        self.labels = torch.as_tensor(hot.any(1).astype(np.int64) if variant == "multi" else first, device=self._device)
        self.masks = torch.as_tensor(self._owner < K, device=self._device)
        self.grounds = torch.as_tensor(ground, device=self._device)

    def __len__(self):
        return len(self.images)

    @property
    def segments(self):
        """uint8 (N, H, W): what each pixel shows, 0 the ground, k + 1 class k."""
        thing = np.where(self._owner < len(self.classes), self._owner + np.uint8(1), np.uint8(0))
        return torch.as_tensor(thing, device=self._device)

    @property
    def class_masks(self):
        """Bool (N, K, H, W): the visible pixels of each class; made when asked for, N K H W bytes."""
        classes = np.arange(len(self.classes), dtype=np.uint8)[:, None, None]
        return torch.as_tensor(self._owner[:, None] == classes, device=self._device)
