"""Draws cats and dogs: a data set that needs no network. These are drawings, not photographs.

The class decides one thing only, the animal's `_Traits`. Whatever else is in the picture (size,
background, coat, pose, light, what stands in front) is drawn by code that is never told the class,
so a classifier has to look at the animal.
"""

import dataclasses
import itertools
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from catsdogs.files import InputError

__all__ = ["CLASS_NAMES", "draw_sketch", "write_sketches"]

CLASS_NAMES = ("cat", "dog")

_SUPERSAMPLING = 2  # Pillow's polygons have hard edges: draw at twice the size, then shrink
_COATS = np.array(
    [
        (238, 234, 226),  # white
        (44, 42, 46),  # black
        (128, 128, 134),  # grey
        (208, 132, 62),  # ginger
        (122, 82, 52),  # brown
        (226, 200, 158),  # cream
        (78, 54, 42),  # chocolate
        (172, 118, 74),  # tan
    ],
    dtype=np.float64,
)
_IRISES = ((122, 168, 74), (214, 168, 48), (96, 160, 206), (186, 106, 40), (84, 52, 30))
_INK = (34, 26, 28)
_PINK = (222, 138, 142)


@dataclasses.dataclass(frozen=True)
class _Traits:
    """What tells a cat from a dog; lengths in head radii."""

    head: tuple  # half width, half height
    ear: str  # "pricked", "folded" (tip hangs forward) or "floppy"
    ear_length: float
    eye: tuple  # half width, half height
    slant: float  # radians, outer corner up
    iris: tuple
    pupil: float  # width of the pupil over its height: about 0.3 is a slit, 1 is round
    muzzle: tuple  # half width, half height
    snout: float  # how far the muzzle stands out of the face
    nose: float  # half width
    nose_colour: tuple
    tongue: bool
    whiskers: float  # length; 0 is none
    tail: float  # half width


def _cat(rng):
    return _Traits(
        head=(rng.uniform(0.98, 1.16), rng.uniform(0.84, 0.96)),
        ear=str(rng.choice(["pricked", "folded"], p=[0.85, 0.15])),
        ear_length=rng.uniform(0.6, 0.95),
        eye=(rng.uniform(0.2, 0.27), rng.uniform(0.15, 0.23)),
        slant=rng.uniform(0.05, 0.35),
        iris=_IRISES[rng.choice(5, p=[0.35, 0.25, 0.2, 0.15, 0.05])],
        pupil=rng.uniform(0.25, 0.45) if rng.random() < 0.6 else rng.uniform(0.7, 1.0),
        muzzle=(rng.uniform(0.34, 0.44), rng.uniform(0.24, 0.3)),
        snout=rng.uniform(0.05, 0.25),
        nose=rng.uniform(0.09, 0.14),
        nose_colour=_PINK if rng.random() < 0.6 else _INK,
        tongue=rng.random() < 0.05,
        whiskers=rng.uniform(0.7, 1.2) if rng.random() < 0.75 else 0.0,
        tail=rng.uniform(0.12, 0.2),
    )


def _dog(rng):
    return _Traits(
        head=(rng.uniform(0.84, 1.02), rng.uniform(0.88, 1.06)),
        ear=str(rng.choice(["floppy", "folded", "pricked"], p=[0.5, 0.2, 0.3])),
        ear_length=rng.uniform(0.7, 1.15),
        eye=(rng.uniform(0.13, 0.19), rng.uniform(0.12, 0.18)),
        slant=rng.uniform(-0.25, 0.1),
        iris=_IRISES[rng.choice(5, p=[0.0, 0.1, 0.15, 0.2, 0.55])],
        pupil=rng.uniform(0.8, 1.0),
        muzzle=(rng.uniform(0.36, 0.5), rng.uniform(0.3, 0.38)),
        snout=rng.uniform(0.35, 0.9),
        nose=rng.uniform(0.17, 0.26),
        nose_colour=_INK if rng.random() < 0.85 else (150, 96, 84),
        tongue=rng.random() < 0.4,
        whiskers=rng.uniform(0.3, 0.6) if rng.random() < 0.15 else 0.0,
        tail=rng.uniform(0.12, 0.26),
    )


class _Painter:
    """Paints shapes given in head radii, x right, y down, z out of the face, onto a canvas."""

    def __init__(self, canvas, centre, radius):
        self.canvas, self.centre, self.radius = canvas, np.asarray(centre), radius
        self.pen = ImageDraw.Draw(canvas)
        self.turn(0.0)

    def turn(self, roll, yaw=0.0, pitch=0.0):
        """Sets the pose of what is painted next, in radians."""
        # Only x and y of the turned point are needed, and depth matters by its shift alone:
        # no perspective.
        turned = np.array(
            [[math.cos(yaw), 0.0], [0.0, math.cos(pitch)], [math.sin(yaw), math.sin(pitch)]]
        )
        rolled = [[math.cos(roll), math.sin(roll)], [-math.sin(roll), math.cos(roll)]]
        self.matrix = turned @ np.array(rolled) * self.radius

    def to_pixels(self, points):
        points = np.atleast_2d(np.asarray(points, dtype=np.float64))
        return points @ self.matrix[: points.shape[1]] + self.centre

    def fill(self, points, colour):
        self.pen.polygon(self.to_pixels(points).ravel().tolist(), fill=colour)

    def line(self, points, colour, width=0.04):
        width = max(1, round(width * self.radius))
        self.pen.line(self.to_pixels(points).ravel().tolist(), colour, width, joint="curve")

    def coat(self, shapes, fur, rim=0.16):
        """Fills the union of `shapes` with `fur`, darker towards its rim so that it looks round.

        Args:
            shapes: List of polygons.
            fur: Pair of images of the canvas's size: the coat in light and in shade.
            rim: Width of the shaded rim.
        """
        shapes = [self.to_pixels(shape) for shape in shapes]
        stacked = np.concatenate(shapes)
        # Only the part's own rectangle is touched: most parts are small, and this is the slow step.
        left, top = np.maximum(np.floor(stacked.min(axis=0)) - 1, 0).astype(int).tolist()
        right, bottom = np.ceil(stacked.max(axis=0)).astype(int).tolist()
        box = (left, top, min(right + 2, self.canvas.width), min(bottom + 2, self.canvas.height))
        if box[0] >= box[2] or box[1] >= box[3]:
            return  # out of the frame
        mask = Image.new("L", (box[2] - box[0], box[3] - box[1]))
        pen = ImageDraw.Draw(mask)
        for shape in shapes:
            pen.polygon((shape - box[:2]).ravel().tolist(), fill=255)
        # A blurred mask is half at the edge and full inside; a quarter of the size will do for it.
        depth = mask.reduce(4).filter(ImageFilter.GaussianBlur(max(0.5, rim * self.radius / 4)))
        depth = depth.resize(mask.size, Image.Resampling.BILINEAR).point(_RIM)
        light, shade = (image.crop(box) for image in fur)
        self.canvas.paste(Image.composite(light, shade, depth), box[:2], mask)


_RIM = [min(255, max(0, (value - 100) * 2)) for value in range(256)]


def _ellipse(x, y, half_width, half_height, z=0.0, angle=0.0, fluff=None):
    """Polygon `(n, 3)` of an ellipse; `fluff` `(n,)` makes its edge ragged."""
    turn = np.linspace(0, 2 * np.pi, 36 if fluff is None else len(fluff), endpoint=False)
    reach = 1.0 if fluff is None else 1.0 + fluff
    across, down = half_width * np.cos(turn) * reach, half_height * np.sin(turn) * reach
    cos, sin = math.cos(angle), math.sin(angle)
    return np.stack(
        [x + across * cos - down * sin, y + across * sin + down * cos, np.full_like(turn, z)], 1
    )


def _tube(start, bend, end, thick, thin):
    """Ellipses along a bent path, thick to thin: legs, tails, hanging ears, muzzles."""
    steps = np.linspace(0, 1, 12)[:, None]
    path = (1 - steps) ** 2 * start + 2 * steps * (1 - steps) * bend + steps**2 * end
    widths = thick + (thin - thick) * steps
    return [_ellipse(x, y, w, w, z) for (x, y, z), w in zip(path, widths[:, 0], strict=True)]


def _curve(*points):
    """Points `(9, 3)` along a quadratic Bezier curve."""
    steps = np.linspace(0, 1, 9)[:, None]
    start, bend, end = np.asarray(points, dtype=np.float64)
    return (1 - steps) ** 2 * start + 2 * steps * (1 - steps) * bend + steps**2 * end


def _smooth_noise(rng, size, cells):
    """Soft blotches: float32 `(height, width)`, about standard normal, `cells` across."""
    width, height = size
    rows = max(2, round(cells * height / width))
    coarse = rng.standard_normal((rows, max(2, round(cells))), dtype=np.float32)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))


def _background(rng, size):
    """A lit room or garden out of soft colours and clutter, sometimes out of focus."""
    width, height = size
    corners = rng.uniform(30, 230, 3) + rng.normal(0, 32, (3, 3, 3))
    canvas = Image.fromarray(np.clip(corners, 0, 255).astype(np.uint8))
    canvas = canvas.resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(canvas)
    coats = _COATS[rng.integers(len(_COATS), size=16)]
    for coat in coats[: rng.integers(2, 17)]:
        x, y = rng.uniform(0, 1, 2) * size
        reach = min(size) * rng.uniform(0.05, 0.4, 2)
        # Half the clutter wears a coat's colour, so that colour does not find the animal.
        colour = coat + rng.normal(0, 20, 3) if rng.random() < 0.5 else rng.uniform(20, 235, 3)
        colour = tuple(np.clip(colour, 0, 255).astype(int).tolist())
        kind = rng.integers(4)
        if kind == 0:
            pen.ellipse([x - reach[0], y - reach[1], x + reach[0], y + reach[1]], fill=colour)
        elif kind == 3:
            end = (x + rng.normal(0, 0.5) * width, y + rng.normal(0, 0.5) * height)
            pen.line([x, y, *end], fill=colour, width=int(rng.integers(1, 10)))
        else:  # triangles and boxes, to be taken for ears
            turn = rng.uniform(0, 7) + np.arange(kind + 2) * 2 * np.pi / (kind + 2)
            shape = np.stack([x + reach[0] * np.cos(turn), y + reach[1] * np.sin(turn)], 1)
            pen.polygon(shape.ravel().tolist(), fill=colour)
    if rng.random() < 0.5:
        canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 4)))
    return canvas.resize((width * _SUPERSAMPLING, height * _SUPERSAMPLING))


def _coats(rng, size, radius):
    """Two furs, the coat and its markings, each a pair of images: in light and in shade."""
    first, second = np.clip(_COATS[rng.choice(len(_COATS), 2, replace=False)]
                            + rng.normal(0, 12, (2, 3)), 12, 250)
    width, height = size
    pattern = rng.choice(["plain", "patches", "stripes", "mottled"], p=[0.35, 0.25, 0.25, 0.15])
    across = width / radius  # head radii across the picture
    if pattern == "plain":
        weight = np.zeros((height, width), dtype=np.float32)
    elif pattern == "stripes":
        angle, pace = rng.uniform(-0.5, 0.5), rng.uniform(9, 16) / radius
        y, x = np.mgrid[:height, :width].astype(np.float32)
        wave = (x * math.cos(angle) + y * math.sin(angle)) * pace
        weight = np.sin(wave + 1.2 * _smooth_noise(rng, size, 1.5 * across)) * 2 - 0.4
    elif pattern == "patches":
        weight = _smooth_noise(rng, size, 1.2 * across) * 6 - 1.5
    else:
        weight = _smooth_noise(rng, size, 6 * across)
    weight = np.clip(weight, 0, 1) * rng.uniform(0.5, 1.0)
    grain = 1 + rng.uniform(0.02, 0.12) * _smooth_noise(rng, size, width / 2)
    furs = []
    for fur in (first + (second - first) * weight[..., None], np.broadcast_to(second, (height, width, 3))):
        light = Image.fromarray(np.clip(fur * grain[..., None], 0, 255).astype(np.uint8))
        light = light.resize((width * _SUPERSAMPLING, height * _SUPERSAMPLING))
        furs.append((light, light.point([int(value * 0.45) for value in range(256)] * 3)))
    return furs


def _draw_body(painter, rng, traits, coat, marking):
    side = rng.choice([-1.0, 1.0])
    pose = rng.choice(["sit", "stand", "lie"], p=[0.5, 0.25, 0.25])
    tail = (traits.tail, traits.tail)
    point = lambda x, y: np.array([side * x, y, 0.0])  # noqa: E731
    if pose == "sit":
        painter.coat(_tube(point(1, 3.1), point(2.4, 3.3), point(2, 1.7), tail[0], tail[1]), coat)
        painter.coat([_ellipse(0, 2.5, 1.2, 1.05), *_tube(point(0, 0.6), point(0, 1.5), point(0, 2.4), 0.72, 0.95)], coat, 0.3)
        chest = _ellipse(0, 1.55, 0.4, 0.75)
        for x in (-0.4, 0.4):
            painter.coat([*_tube(point(x, 1.7), point(x, 2.5), point(x, 3.3), 0.27, 0.2), _ellipse(side * x, 3.4, 0.32, 0.2)], coat)
    elif pose == "stand":
        painter.coat(_tube(point(2.9, 0.8), point(3.9, 0.7), point(3.7, -0.6), *tail), coat)
        for x in (0.8, 2.9, 0.3, 2.5):
            painter.coat([*_tube(point(x, 1.2), point(x + 0.1, 2), point(x, 2.7), 0.32, 0.2), _ellipse(side * (x - 0.1), 2.75, 0.3, 0.18)], coat)
        painter.coat(_tube(point(0.3, 0.8), point(1.5, 1.2), point(2.6, 1.0), 0.8, 0.72), coat, 0.3)
        chest = _ellipse(side * 0.2, 1.2, 0.35, 0.5)
    else:
        painter.coat(_tube(point(2, 1.6), point(3.2, 1.9), point(2.9, 1.0), *tail), coat)
        painter.coat([_ellipse(side * 0.8, 1.15, 1.7, 0.95)], coat, 0.3)
        chest = _ellipse(0, 1.2, 0.45, 0.5)
        for x in (-0.5, 0.5):
            painter.coat(_tube(point(x, 1.4), point(x, 1.6), point(x * 1.3, 1.85), 0.27, 0.24), coat)
    if rng.random() < 0.4:
        painter.coat([chest], marking)
    if rng.random() < 0.3:
        colour = tuple(rng.integers(30, 230, 3).tolist())
        painter.line(_curve((-0.75, 0.75, 0), (0, 1.35, 0), (0.75, 0.75, 0)), colour, 0.16)


def _draw_ear(painter, rng, side, traits, coat, behind):
    width, height = traits.head
    length, spread = traits.ear_length, rng.uniform(-0.1, 0.12)
    inner, outer = np.array([0.2, -0.82, 0.0]), np.array([0.93, -0.35, 0.0])
    tip = np.array([0.72 + spread, -0.72 - length, 0.0])
    scale = np.array([side * width, height, 1.0])
    if traits.ear == "floppy":
        if not behind:
            ear = _tube(np.array([0.62, -0.72, 0.1]) * scale, np.array([1.3 + spread, -0.75, 0.1]) * scale, np.array([1.05 + spread, length - 0.55, 0.2]) * scale, 0.16, 0.3)
            painter.coat(ear, coat, 0.22)
        return
    middle = (inner + outer) / 2
    if behind:
        if traits.ear == "folded":
            tip = middle + (tip - middle) * 0.6
        bulge = 0.12 * (tip - middle)[[1, 0, 2]] * (-1, 1, 1)
        for shrink, fur in ((1.0, coat), (0.62, None)):
            ear = np.concatenate([_curve(inner, (inner + tip) / 2 - bulge, tip), _curve(tip, (outer + tip) / 2 + bulge, outer)])
            ear = (middle + (ear - middle) * shrink) * scale
            if fur:
                painter.coat([ear], fur, 0.1)
            elif traits.ear == "pricked":
                painter.fill(ear, (176, 112, 108))
    elif traits.ear == "folded":
        top = middle + (tip - middle) * 0.6
        flap = np.array([inner * 0.5 + top * 0.5, top + (-0.1, -0.02, 0), outer * 0.5 + top * 0.5, middle + (0.12, 0.12, 0)])
        painter.coat([flap * scale], coat, 0.14)


def _draw_head(painter, rng, traits, coat, marking):
    width, height = traits.head
    for side in (-1, 1):
        _draw_ear(painter, rng, side, traits, coat, behind=True)
    fluff = rng.uniform(0, 0.05) * rng.standard_normal(60)
    painter.coat([_ellipse(0, 0, width, height, fluff=fluff), _ellipse(0, 0.25 * height, width * 0.98, height * 0.72, fluff=fluff)], coat, 0.3)
    if rng.random() < 0.3:
        painter.coat(_tube(np.array([0, -0.8, 0.5]), np.array([0, -0.3, 0.8]), np.array([0, 0.2, 0.9]), 0.1, 0.24), marking, 0.06)
    for side in (-1, 1):
        _draw_ear(painter, rng, side, traits, coat, behind=False)
    shut = rng.random() < 0.06
    for side in (-1, 1):
        x, y, angle = side * 0.42 * width, -0.12 * height, -side * traits.slant
        half_width, half_height = traits.eye
        if shut:
            painter.line(_curve((x - half_width, y, 0.75), (x, y + half_height, 0.75), (x + half_width, y, 0.75)), _INK, 0.06)
            continue
        painter.fill(_ellipse(x, y, half_width + 0.05, half_height + 0.05, 0.75, angle), _INK)
        painter.fill(_ellipse(x, y, half_width, half_height, 0.75, angle), traits.iris)
        painter.fill(_ellipse(x, y, half_height * 0.85 * traits.pupil, half_height * 0.85, 0.75), _INK)
        painter.fill(_ellipse(x - 0.05, y - 0.06, 0.045, 0.045, 0.75), (250, 250, 245))
    _draw_muzzle(painter, rng, traits, marking if rng.random() < 0.5 else coat)


def _draw_muzzle(painter, rng, traits, fur):
    half_width, half_height = traits.muzzle
    y, z = 0.4 + 0.25 * traits.snout, 0.8 + traits.snout
    bridge = _tube(np.array([0, 0.3, 0.7]), np.array([0, 0.25, 0.8]), np.array([0, y - 0.1, z - 0.1]), half_width * 0.85, half_width * 0.75)
    painter.coat(bridge, fur, 0.1)
    if traits.tongue:
        tongue = _tube(np.array([0.05, y + 0.1, z]), np.array([0.05, y + 0.3, z]), np.array([0.08, y + 0.5, z]), 0.16, 0.14)
        for part in tongue:
            painter.fill(part, (214, 92, 104))
    painter.coat([_ellipse(0, y + half_height * 0.75, half_width * 0.55, half_height * 0.5, z - 0.1)], fur, 0.1)
    painter.coat([_ellipse(side * half_width * 0.45, y, half_width * 0.62, half_height * 0.85, z) for side in (-1, 1)], fur, 0.12)
    nose = _ellipse(0, 0, traits.nose, traits.nose * 0.75, z + 0.08)
    nose[:, 0] *= 1 - 0.45 * nose[:, 1] / traits.nose
    nose[:, 1] += y - half_height * 0.6
    painter.fill(nose, traits.nose_colour)
    painter.fill(_ellipse(-0.3 * traits.nose, y - half_height * 0.6 - 0.35 * traits.nose, 0.25 * traits.nose, 0.13 * traits.nose, z + 0.08), (226, 214, 214))
    low = y + half_height * 0.35
    painter.line([(0, y - half_height * 0.4, z + 0.05), (0, low, z + 0.05)], _INK)
    for side in (-1, 1):
        painter.line(_curve((0, low, z + 0.05), (side * half_width * 0.5, low + 0.2, z), (side * half_width * 0.85, low - 0.05, z - 0.1)), _INK)
    if traits.whiskers:
        colour = (245, 242, 236) if rng.random() < 0.6 else (60, 52, 50)
        for side, lift in itertools.product((-1, 1), (-0.25, 0.0, 0.25)):
            reach = half_width * 0.6 + traits.whiskers
            painter.line(_curve((side * half_width * 0.6, y + 0.2 * lift, z), (side * reach * 0.6, y + 0.6 * lift - 0.05, z), (side * reach, y + lift + 0.05, z - 0.2)), colour, 0.02)


def _occlude(rng, canvas):
    """Puts up to two things in front: a fence, a ball, blades of grass."""
    pen = ImageDraw.Draw(canvas)
    width, height = canvas.size
    for kind in rng.choice(4, size=rng.choice(3, p=[0.4, 0.4, 0.2])):
        colours = [tuple(c) for c in rng.integers(20, 235, (8, 3)).tolist()]
        if kind == 0:  # fence
            step, thick = width * rng.uniform(0.25, 0.45), int(width * rng.uniform(0.015, 0.05))
            lean = rng.uniform(-0.3, 0.3) * width
            start = rng.uniform(0, 1) * step
            for x in np.arange(start - step, width + step, step).tolist():
                pen.line([x, 0, x + lean, height], fill=colours[0], width=thick)
        elif kind == 1:  # a wall or a sofa's arm at one edge
            depth = rng.uniform(0.08, 0.22)
            box = [(0, 0, depth, 1), (1 - depth, 0, 1, 1), (0, 1 - depth, 1, 1)][rng.integers(3)]
            pen.rectangle([box[0] * width, box[1] * height, box[2] * width, box[3] * height], fill=colours[0])
        elif kind == 2:  # ball
            x, y = rng.uniform(0, 1, 2) * canvas.size
            reach = min(canvas.size) * rng.uniform(0.06, 0.15)
            pen.ellipse([x - reach, y - reach, x + reach, y + reach], fill=colours[0])
        else:  # grass
            for x in rng.uniform(0, width, 24).tolist():
                top = height * rng.uniform(0.55, 1)
                tip = x + rng.normal(0, 0.06) * width
                pen.polygon([x - 5, height, tip, top, x + 5, height], fill=colours[0 if x < tip else 1])


def _photograph(rng, canvas, size):
    """Shrinks the scene and gives it a camera's light, blur and noise."""
    image = canvas.reduce(_SUPERSAMPLING)
    if rng.random() < 0.6:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.3)))
    pixels = np.asarray(image, dtype=np.float32)
    light = np.exp(rng.uniform(0.05, 0.35) * _smooth_noise(rng, size, 3))[..., None]
    cast = np.exp(rng.normal(0, 0.05, 3) + rng.normal(-0.02, 0.15)).astype(np.float32)
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = grey + (pixels - grey) * np.float32(rng.uniform(0.5, 1.2))
    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(rng.uniform(1, 14))
    return Image.fromarray(np.clip(pixels * light * cast + noise, 0, 255).astype(np.uint8))


def draw_sketch(class_name, seed, index):
    if class_name not in CLASS_NAMES:
        raise InputError(
            f"Expected class_name to be one of {', '.join(CLASS_NAMES)}. Received: {class_name!r}."
        )
    streams = np.random.SeedSequence((seed, CLASS_NAMES.index(class_name), index)).spawn(3)
    traits_rng, animal_rng, scene_rng = map(np.random.default_rng, streams)
    traits = (_cat if class_name == "cat" else _dog)(traits_rng)

    long, aspect = scene_rng.uniform(180, 230), scene_rng.uniform(0.7, 1.0)
    size = (round(long), max(150, round(long * aspect)))
    if scene_rng.random() < 0.4:
        size = size[::-1]
    canvas = _background(scene_rng, size)

    rng = animal_rng
    radius = min(size) * rng.uniform(0.35, 0.9) / 2.6
    coat, marking = _coats(rng, size, radius)
    centre = np.array(canvas.size) * rng.uniform((0.3, 0.3), (0.7, 0.6))
    painter = _Painter(canvas, centre, radius * _SUPERSAMPLING)
    roll = rng.uniform(-0.35, 0.35)
    painter.turn(roll)
    _draw_body(painter, rng, traits, coat, marking)
    painter.turn(roll + rng.uniform(-0.26, 0.26), rng.uniform(-0.5, 0.5), rng.uniform(-0.2, 0.2))
    _draw_head(painter, rng, traits, coat, marking)

    _occlude(scene_rng, canvas)
    return _photograph(scene_rng, canvas, size)
