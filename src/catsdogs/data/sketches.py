"""Draws cats, dogs and rabbits: a dataset that needs no network. Sketches, not photographs.

The class decides the animal's traits (`_RANGES` and `_CHOICES`) and nothing else: size, background,
coat, pose, light and what stands in front are drawn by code that never sees the class, so a
classifier has to look at the animal. No trait decides alone: there are dogs with pricked ears, and
cats with folded ones, without whiskers or with round pupils.
"""

import concurrent.futures
import math
import multiprocessing
import os
import pathlib
import signal
import threading
import types

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from catsdogs.console import Progress

__all__ = ["ANIMALS", "CATS_AND_DOGS", "draw_sketch", "write_sketches"]

ANIMALS = ("cat", "dog", "rabbit")
CATS_AND_DOGS = ANIMALS[:2]

_SUPERSAMPLING = 2  # Pillow's polygons have hard edges: draw at twice the size, then shrink
# White, black, grey, ginger, brown, cream, chocolate, tan: of cats and dogs alike.
_COATS = "eeeae2 2c2a2e 808086 d0843e 7a5234 e2c89e 4e362a ac764a"
_COATS = np.array([list(bytes.fromhex(coat)) for coat in _COATS.split()])
# Foliage, grass, straw, earth, stone, sky, plaster, wood: what is behind and under the animal.
_GROUNDS = "4c6a3a 6f9a48 c8b078 7d5f47 8f8f8c a9c4dc d9cfc0 9a6a42"
_GROUNDS = np.array([list(bytes.fromhex(ground)) for ground in _GROUNDS.split()])
_PINK, _LIVER, _EAR, _TONGUE = (222, 138, 142), (150, 96, 84), (176, 112, 108), (214, 92, 104)
_INK, _GLINT = (34, 26, 28), (246, 243, 238)
_GREEN, _AMBER, _BLUE, _BROWN = (122, 168, 74), (208, 152, 46), (96, 160, 206), (84, 52, 30)

_TURN = np.linspace(0, 2 * np.pi, 40, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN), np.zeros_like(_TURN)], axis=1)  # (40, 3)
_SHADE = [int(value * 0.45) for value in range(256)]
_RIM = [min(255, max(0, (value - 100) * 2)) for value in range(256)]
_HARDEN = [min(255, max(0, (value - 128) * 6 + 128)) for value in range(256)]

# What tells the animals apart. Least and most of a cat, a dog and a rabbit; lengths in head radii.
_RANGES = {
    "head_width": ((0.98, 1.16), (0.84, 1.02), (0.78, 0.96)),  # these widths, heights are halves
    "head_height": ((0.84, 0.96), (0.88, 1.06), (0.9, 1.08)),
    "ear_length": ((0.6, 0.95), (0.7, 1.15), (1.4, 2.3)),
    "eye_width": ((0.18, 0.26), (0.13, 0.2), (0.15, 0.22)),
    "eye_height": ((0.14, 0.22), (0.12, 0.18), (0.15, 0.22)),
    "slant": ((0.05, 0.35), (-0.25, 0.1), (-0.1, 0.2)),  # radians, outer corner up
    "muzzle_width": ((0.34, 0.44), (0.36, 0.5), (0.3, 0.4)),
    "muzzle_height": ((0.24, 0.3), (0.3, 0.38), (0.24, 0.32)),
    "snout": ((0.05, 0.25), (0.5, 1.0), (0.15, 0.4)),  # how far the muzzle stands out of the face
    "nose": ((0.09, 0.14), (0.17, 0.26), (0.08, 0.13)),  # half width
    "tail": ((0.12, 0.2), (0.12, 0.26), (0.2, 0.34)),  # half width
}
# Choices, and their chances for a cat, for a dog and for a rabbit.
_CHOICES = {
    "ear": {"pricked": (0.9, 0.15, 0.75), "folded": (0.1, 0.2, 0), "floppy": (0, 0.65, 0.25)},
    "iris": {
        _GREEN: (0.3, 0.05, 0), _AMBER: (0.4, 0.3, 0.15), _BLUE: (0.2, 0.15, 0.1),
        _BROWN: (0.1, 0.5, 0.75),
    },
    "pupil": {0.35: (0.6, 0, 0), 0.85: (0.4, 1, 1)},  # width over height
    "nose_colour": {_PINK: (0.5, 0.05, 0.7), _INK: (0.4, 0.75, 0.1), _LIVER: (0.1, 0.2, 0.2)},
    "tongue": {True: (0.05, 0.4, 0), False: (0.95, 0.6, 1)},
    "whiskers": {  # length
        1.1: (0.4, 0, 0.1), 0.8: (0.35, 0, 0.4), 0.4: (0, 0.15, 0.2), 0: (0.25, 0.85, 0.3),
    },
}  # fmt: skip


def _choose_traits(rng, class_index):
    traits = {name: rng.uniform(*ranges[class_index]) for name, ranges in _RANGES.items()}
    for name, chances in _CHOICES.items():
        choice = rng.choice(len(chances), p=[chance[class_index] for chance in chances.values()])
        traits[name] = list(chances)[choice]
    return types.SimpleNamespace(**traits)


class _Painter:
    """Paints shapes given in head radii (x right, y down, z out of the face) onto a canvas."""

    def __init__(self, canvas, centre, radius, light, hair):
        self.canvas, self.centre, self.radius = canvas, centre, radius
        self.light, self.hair = light, hair  # where the light is (x, y); noise that frays edges
        self.pen = ImageDraw.Draw(canvas)

    def turn(self, roll, yaw=0.0, pitch=0.0):
        """Sets the pose of what is painted next, in radians."""
        # Parallel projection: depth only shifts a point, which moves a long snout the most.
        turned = [[math.cos(yaw), 0], [0, math.cos(pitch)], [math.sin(yaw), math.sin(pitch)]]
        rolled = [[math.cos(roll), math.sin(roll)], [-math.sin(roll), math.cos(roll)]]
        self.matrix = np.array(turned) @ rolled * self.radius
        self.mirror = 1  # -1 paints what follows on the animal's other side

    def to_pixels(self, points):
        return np.asarray(points) * (self.mirror, 1, 1) @ self.matrix + self.centre

    def fill(self, points, colour):
        self.pen.polygon(self.to_pixels(points).ravel().tolist(), fill=colour)

    def line(self, points, colour, width=0.04):
        width = max(1, round(width * self.radius))
        self.pen.line(self.to_pixels(points).ravel().tolist(), colour, width, joint="curve")

    def coat(self, shapes, fur, rim=0.16):
        """Fills the union of polygons with fur, in shade away from the light."""
        if not shapes:
            return
        shapes = self.to_pixels(np.stack(shapes))  # (shapes, points, 2)
        # Only the part's own rectangle is touched: most parts are small, and this is the slow step.
        margin = 3 + 0.1 * self.radius
        least, most = shapes.min(axis=(0, 1)) - margin, shapes.max(axis=(0, 1)) + margin
        left, top = np.maximum(least, 0).astype(int).tolist()
        right, bottom = np.minimum(most, self.canvas.size).astype(int).tolist()
        if left >= right or top >= bottom:
            return  # out of the frame
        box, size = (left, top, right, bottom), (right - left, bottom - top)

        def blur(offset, radius):
            # A blurred outline needs no more than a quarter of the size.
            mask = Image.new("L", (size[0] // 4 + 1, size[1] // 4 + 1))
            pen = ImageDraw.Draw(mask)
            for shape in ((shapes - (left, top) + offset) / 4).reshape(len(shapes), -1).tolist():
                pen.polygon(shape, fill=255)
            mask = mask.filter(ImageFilter.GaussianBlur(max(0.5, radius * self.radius / 4)))
            full = mask.width * 4, mask.height * 4
            return mask.resize(full, Image.Resampling.BILINEAR).crop((0, 0, *size))

        # Hair by hair the edge is in or out; the light side is where the shape, moved, still is.
        outline = ImageChops.add(blur(0, 0.03), self.hair.crop(box), offset=-128).point(_HARDEN)
        depth = blur(rim * self.radius * np.negative(self.light), rim).point(_RIM)
        light, shade = (image.crop(box) for image in fur)
        self.canvas.paste(Image.composite(light, shade, depth), (left, top), outline)

    def shadow(self, shape):
        """Darkens the canvas softly under a polygon."""
        mask = Image.new("L", tuple(side // 8 for side in self.canvas.size))
        points = (self.to_pixels(shape) / 8).ravel().tolist()
        ImageDraw.Draw(mask).polygon(points, fill=170)
        mask = mask.filter(ImageFilter.GaussianBlur(max(0.6, 0.02 * self.radius)))
        self.canvas.paste((18, 16, 20), (0, 0), mask.resize(self.canvas.size))


def _ellipse(x, y, half_width, half_height, z=0.0, angle=0.0):
    cos, sin = math.cos(angle), math.sin(angle)
    points = _CIRCLE * (half_width, half_height, 0)
    return points @ [[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]] + (x, y, z)


def _curve(start, bend, end, num_points=9):
    """Points `(num_points, 3)` along a quadratic Bezier curve."""
    t = np.linspace(0, 1, num_points)[:, None]
    start, bend, end = np.array([start, bend, end])
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end


def _tube(start, bend, end, first, last):
    """Circles along a curve, of radius `first` to `last`: legs, tails, hanging ears, snouts."""
    path, radii = _curve(start, bend, end, 24), np.linspace(first, last, 24)
    return list(path[:, None] + radii[:, None, None] * _CIRCLE)


def _draw_body(painter, rng, traits, coat, marking):
    pose = rng.choice(["sitting", "standing", "lying"], p=[0.5, 0.25, 0.25])
    painter.mirror = rng.choice([-1, 1])
    if pose == "sitting":
        tail = (1, 3.1, 0), (2.4, 3.3, 0), (2, 1.7, 0)
        back = _tube((0, 0.6, 0), (0, 1.5, 0), (0, 2.4, 0), 0.72, 0.95)
        trunk = [*back, _ellipse(0, 2.5, 1.2, 1.05)]
        legs, knee, paw, chest = (-0.4, 0.4), 1.7, 3.3, _ellipse(0, 1.55, 0.4, 0.75)
    elif pose == "standing":
        tail = (2.9, 0.8, 0), (3.9, 0.7, 0), (3.7, -0.6, 0)
        trunk = _tube((0.3, 0.8, 0), (1.5, 1.2, 0), (2.6, 1.0, 0), 0.8, 0.72)
        legs, knee, paw, chest = (0.8, 2.9, 0.2, 2.4), 1.2, 2.6, _ellipse(0.2, 1.2, 0.35, 0.5)
    else:
        tail = (2, 1.6, 0), (3.2, 1.9, 0), (2.9, 1.0, 0)
        trunk = [_ellipse(0.8, 1.15, 1.7, 0.95)]
        legs, knee, paw, chest = (-0.5, 0.5), 1.4, 1.75, _ellipse(0, 1.2, 0.45, 0.5)
    painter.shadow(_ellipse(np.mean(legs), paw + 0.15, 1.5, 0.3))
    painter.coat(_tube(*tail, traits.tail, traits.tail), coat)
    painter.coat(trunk, coat, 0.3)
    if rng.random() < 0.4:
        painter.coat([chest], marking)
    for x in legs:
        leg = _tube((x, knee, 0), (x, (knee + paw) / 2, 0), (x, paw, 0), 0.28, 0.2)
        painter.coat([*leg, _ellipse(x, paw + 0.1, 0.31, 0.19)], coat)
    if rng.random() < 0.3:
        colour = tuple(rng.integers(30, 230, 3).tolist())
        painter.line(_curve((-0.75, 0.75, 0), (0, 1.35, 0), (0.75, 0.75, 0)), colour, 0.16)


def _make_ear(kind, length, spread):
    """Shapes of the right ear: what is behind the head, and what hangs in front of it."""
    if kind == "floppy":
        bend, end = (1.3 + spread, -0.75, 0.1), (1.05 + spread, length - 0.55, 0.2)
        return [], _tube((0.62, -0.72, 0.1), bend, end, 0.16, 0.3)
    inner, outer = np.array([0.2, -0.82, 0.0]), np.array([0.93, -0.35, 0.0])
    root = (inner + outer) / 2
    rise = np.array([0.72 + spread, -0.72 - length, 0.0]) - root
    rise *= 0.6 if kind == "folded" else 1.0
    tip, bulge = root + rise, 0.12 * rise[[1, 0, 2]] * (-1, 1, 1)
    inside = _curve(inner, (inner + tip) / 2 - bulge, tip)
    outline = np.concatenate([inside, _curve(tip, (outer + tip) / 2 + bulge, outer)])
    flap = [(inner + tip) / 2, tip - (0.1, 0.02, 0), (outer + tip) / 2, root - (-0.12, -0.12, 0)]
    return [outline], [np.array(flap)] if kind == "folded" else []


def _draw_eyes(painter, traits, shut):
    half_width, half_height = traits.eye_width, traits.eye_height
    x, y, z = 0.42 * traits.head_width, -0.12 * traits.head_height, 0.75
    for painter.mirror in (-1, 1):
        if shut:
            ends = (x - half_width, y, z), (x + half_width, y, z)
            painter.line(_curve(ends[0], (x, y + half_height, z), ends[1]), _INK, 0.06)
            continue
        painter.fill(_ellipse(x, y, half_width + 0.05, half_height + 0.05, z, -traits.slant), _INK)
        painter.fill(_ellipse(x, y, half_width, half_height, z, -traits.slant), traits.iris)
        pupil = 0.85 * half_height
        painter.fill(_ellipse(x, y, pupil * traits.pupil, pupil, z), _INK)
        # The light comes from one side, so the glint is not mirrored.
        painter.fill(_ellipse(x - 0.05 * painter.mirror, y - 0.06, 0.045, 0.045, z), _GLINT)


def _draw_muzzle(painter, traits, fur, whisker_colour):
    half_width, half_height = traits.muzzle_width, traits.muzzle_height
    y, z = 0.4 + 0.25 * traits.snout, 0.8 + traits.snout
    painter.mirror = 1
    bridge = (0, 0.3, 0.7), (0, 0.25, 0.8), (0, y - 0.1, z - 0.1)
    painter.coat(_tube(*bridge, half_width * 0.85, half_width * 0.75), fur, 0.1)
    if traits.tongue:
        for part in _tube((0.05, y, z), (0.05, y + 0.3, z), (0.08, y + 0.5, z), 0.16, 0.14):
            painter.fill(part, _TONGUE)
    chin = _ellipse(0, y + half_height * 0.75, half_width * 0.55, half_height * 0.5, z - 0.1)
    painter.coat([chin], fur, 0.1)
    lip = _ellipse(half_width * 0.45, y, half_width * 0.62, half_height * 0.85, z)
    painter.coat([lip, lip * (-1, 1, 1)], fur, 0.12)
    front, top, low = z + 0.07, y - half_height * 0.6, y + half_height * 0.35
    nose = _ellipse(0, 0, traits.nose, traits.nose * 0.75)
    nose[:, 0] *= 1 - 0.45 * nose[:, 1] / traits.nose  # narrower below
    painter.fill(nose + np.array([0, top, front]), traits.nose_colour)
    painter.fill(nose * 0.22 + (-0.3 * traits.nose, top - 0.3 * traits.nose, front), _GLINT)
    painter.line([(0, top + 0.1, front), (0, low, front)], _INK)
    for painter.mirror in (-1, 1):
        corner = half_width * 0.85, low - 0.05, z - 0.1
        painter.line(_curve((0, low, front), (half_width * 0.5, low + 0.2, z), corner), _INK)
        for lift in (-0.25, 0.0, 0.25) if traits.whiskers else ():
            x, length = half_width * 0.6, traits.whiskers
            start, end = (x, y + 0.2 * lift, z), (x + length, y + lift + 0.05, z)
            bend = (x + 0.6 * length, y + 0.6 * lift - 0.05, z)
            painter.line(_curve(start, bend, end), whisker_colour, 0.02)


def _draw_head(painter, rng, traits, coat, marking):
    size = np.array([traits.head_width, traits.head_height, 1])
    ears = [_make_ear(traits.ear, traits.ear_length, x) for x in rng.uniform(-0.1, 0.12, 2)]
    for painter.mirror, (behind, _) in zip((-1, 1), ears, strict=True):
        painter.coat([shape * size for shape in behind], coat, 0.1)
        if traits.ear == "pricked":
            root = behind[0][[0, -1]].mean(axis=0)
            painter.fill((root + 0.62 * (behind[0] - root)) * size, _EAR)
    painter.mirror = 1
    skull = _CIRCLE * (1 + rng.uniform(0, 0.05) * rng.standard_normal((len(_CIRCLE), 1)))
    cheeks = skull * (0.98, 0.72, 1) + np.array([0, 0.25, 0])
    painter.coat([skull * size, cheeks * size], coat, 0.3)
    if rng.random() < 0.3:
        painter.coat(_tube((0, -0.8, 0.5), (0, -0.3, 0.8), (0, 0.2, 0.9), 0.1, 0.24), marking, 0.06)
    for painter.mirror, (_, in_front) in zip((-1, 1), ears, strict=True):
        painter.coat([shape * size for shape in in_front], coat)
    _draw_eyes(painter, traits, shut=rng.random() < 0.06)
    whiskers = _GLINT if rng.random() < 0.6 else (60, 52, 50)
    _draw_muzzle(painter, traits, marking if rng.random() < 0.5 else coat, whiskers)


def _smooth_noise(rng, size, cells, stretch=1.0):
    """Soft blotches: float32 `(height, width)`, about standard normal, `cells` across."""
    rows = max(2, round(cells / stretch * size[1] / size[0]))
    coarse = rng.standard_normal((rows, max(2, round(cells))), dtype=np.float32)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))


def _to_image(pixels, scale=1):
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.BILINEAR)


def _make_furs(rng, size, radius):
    """Two furs, the coat and its markings, each a pair of images, in light and in shade; hair."""
    pair = rng.choice(_COATS, 2, replace=False) + rng.normal(0, 14, (2, 1))
    first, second = np.clip(pair + rng.normal(0, 4, (2, 3)), 12, 250).astype(np.float32)
    pattern = rng.choice(["plain", "patches", "stripes", "mottled"], p=[0.35, 0.25, 0.25, 0.15])
    across = size[0] / radius  # head radii across the picture
    if pattern == "stripes":
        angle, pace = rng.uniform(-0.5, 0.5), rng.uniform(9, 16) / radius
        y, x = np.ogrid[: size[1], : size[0]]
        wave = (x * math.cos(angle) + y * math.sin(angle)) * pace
        weight = np.sin(wave + 1.2 * _smooth_noise(rng, size, 1.5 * across)) * 2 - 0.4
    elif pattern == "patches":
        weight = _smooth_noise(rng, size, 1.2 * across) * 6 - 1.5
    else:
        weight = _smooth_noise(rng, size, 6 * across) * (pattern == "mottled")  # else plain
    weight = np.clip(weight, 0, 1, dtype=np.float32)[..., None] * rng.uniform(0.5, 1.0)
    # Strands hang down, several times as long as wide.
    strands = _smooth_noise(rng, size, min(size[0] / 1.5, 28 * across), rng.uniform(2.5, 5))
    grain = np.exp(rng.uniform(0.04, 0.14) * strands)[..., None]
    colours = first + (second - first) * weight, second
    lights = [_to_image(colour * grain, _SUPERSAMPLING) for colour in colours]
    hair = _to_image(128 + rng.uniform(5, 60) * strands, _SUPERSAMPLING)
    return *((light, light.point(_SHADE * 3)) for light in lights), hair


def _draw_surface(rng, size, blur):
    """A surface of one material: foliage, a wall, boards, a lawn."""
    colour = rng.choice(np.concatenate([_GROUNDS, _COATS])) * rng.uniform(0.6, 1.15)
    colour = colour + rng.normal(0, 18, 3)
    cells, stretch = math.exp(rng.uniform(1, 3.5)), math.exp(rng.normal(0, 0.8))
    octaves = [_smooth_noise(rng, size, cells * 2**n, stretch) / 1.6**n for n in range(3)]
    roughness = rng.uniform(0.02, 0.35)
    pixels = colour * np.exp(roughness * sum(octaves))[..., None]
    tint = _smooth_noise(rng, size, 3)[..., None] * rng.normal(0, 12, 3)
    surface = _to_image(pixels + tint)
    if rng.random() < 0.25:  # boards, tiles, bricks
        pen, step = ImageDraw.Draw(surface), size[0] * rng.uniform(0.06, 0.3)
        dark = tuple((np.clip(colour, 0, 255) * 0.6).astype(int).tolist())
        lean = size[1] * rng.uniform(-0.5, 0.5)
        for x in np.arange(-size[0], 2 * size[0], step).tolist():
            pen.line([x, 0, x + lean, size[1]], dark, 2)
    return surface.filter(ImageFilter.GaussianBlur(blur))


def _draw_background(rng, size, light):
    """A room or a garden: what is behind, the ground, and clutter, sometimes out of focus."""
    blur = math.exp(rng.uniform(-1.2, 1.6))
    canvas = _draw_surface(rng, size, blur)
    width, height = size
    level, slope = height * rng.uniform(0.3, 1.0), height * rng.normal(0, 0.1)
    ground = Image.new("L", size)
    corners = [0, level - slope, width, level + slope, width, height, 0, height]
    ImageDraw.Draw(ground).polygon(corners, fill=255)
    ground = ground.filter(ImageFilter.GaussianBlur(blur))
    canvas.paste(_draw_surface(rng, size, blur * 0.5), (0, 0), ground)

    # Cushions, balls, boxes and leaves; half of them wear a coat's colour, so that neither colour
    # nor fur finds the animal.
    canvas = canvas.resize([side * _SUPERSAMPLING for side in size], Image.Resampling.BILINEAR)
    for coat in rng.choice(_COATS, size=rng.integers(0, 9)):
        radius = min(size) * rng.uniform(0.05, 0.3)
        colour = coat if rng.random() < 0.5 else rng.uniform(40, 220) + rng.normal(0, 36, 3)
        colour = colour + rng.normal(0, 10, 3)
        strands = _smooth_noise(rng, size, size[0] / 2, 3) * rng.uniform(0, 0.2)
        texture = _to_image(colour * np.exp(strands)[..., None], _SUPERSAMPLING)
        hair = _to_image(128 + rng.uniform(0, 60) * strands, _SUPERSAMPLING)
        centre = rng.uniform(0, 1, 2) * canvas.size
        painter = _Painter(canvas, centre, radius * _SUPERSAMPLING, light, hair)
        painter.turn(rng.uniform(0, 7), rng.uniform(0, 1.2), rng.uniform(0, 0.8))
        num_corners = rng.choice([3, 4, 5, 40])  # false ears, boxes, stones, balls
        corners = _CIRCLE[:: 40 // num_corners]
        painter.coat([corners], (texture, texture.point(_SHADE * 3)), rng.uniform(0.05, 0.3))
    return canvas.filter(ImageFilter.GaussianBlur(blur * _SUPERSAMPLING * rng.uniform(0, 1)))


def _draw_foreground(rng, canvas):
    """Puts up to two things in front: a fence, a ball, blades of grass."""
    pen = ImageDraw.Draw(canvas)
    width, height = canvas.size
    for kind in rng.choice(3, size=rng.choice(3, p=[0.5, 0.35, 0.15])):
        colours = rng.choice(_GROUNDS, 2) * rng.uniform(0.4, 1.1) + rng.normal(0, 15, (2, 3))
        colour, other = (tuple(row) for row in np.clip(colours, 0, 255).astype(int).tolist())
        if kind == 0:
            step, lean = width * rng.uniform(0.25, 0.45), width * rng.uniform(-0.3, 0.3)
            thickness = round(width * rng.uniform(0.015, 0.04))
            for x in np.arange(rng.uniform(-1, 0) * step, width + step, step).tolist():
                pen.line([x, 0, x + lean, height], colour, thickness)
        elif kind == 1:
            centre = (rng.uniform(0, 1, 2) * canvas.size).tolist()
            pen.circle(centre, width * rng.uniform(0.04, 0.1), colour)
        else:
            for x in rng.uniform(0, width, 24).tolist():
                top, sway = height * rng.uniform(0.55, 1), width * rng.normal(0, 0.06)
                blade = [x - 5, height, x + sway, top, x + 5, height]
                pen.polygon(blade, fill=colour if sway < 0 else other)


def _photograph(rng, canvas, size):
    """Shrinks the scene and gives it a camera's light, blur and noise."""
    image = canvas.reduce(_SUPERSAMPLING)
    if rng.random() < 0.6:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    pixels = np.asarray(image, dtype=np.float32)
    light = np.exp(rng.uniform(0.05, 0.3) * _smooth_noise(rng, size, 3))[..., None]
    cast = np.exp(rng.normal(0, 0.1, 3) + rng.normal(0, 0.18)).astype(np.float32)
    pixels = pixels * light * cast
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = grey + (pixels - grey) * rng.uniform(0.3, 1.3)
    pixels = grey.mean() + (pixels - grey.mean()) * rng.uniform(0.6, 1.2)
    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * rng.uniform(1, 12)
    return _to_image(pixels + noise)


def draw_sketch(class_name, seed, index):
    """Draws one animal.

    The arguments alone decide it: order and number of processes do not matter. (Another version of
    Pillow may shade an edge a little differently.)

    Args:
        class_name: `"cat"`, `"dog"` or `"rabbit"`.
        seed: Integer from 0, names the dataset.
        index: Integer from 0, the picture's number within its class.

    Returns:
        A `PIL.Image`, RGB, sides of 150 to 230 pixels.
    """
    # Animal and scene draw from streams of their own: a change to one leaves the other as it was.
    class_index = ANIMALS.index(class_name)
    source = np.random.SeedSequence((seed, class_index, index))
    traits_rng, rng, scene_rng = map(np.random.default_rng, source.spawn(3))
    traits = _choose_traits(traits_rng, class_index)
    longer = scene_rng.uniform(180, 230)
    size = (round(longer), round(max(150, longer * scene_rng.uniform(0.7, 1.0))))
    size = size[::-1] if scene_rng.random() < 0.4 else size
    angle = scene_rng.uniform(-1.2, 1.2)
    light = np.array([math.sin(angle), -math.cos(angle)])  # from above, left or right
    canvas = _draw_background(scene_rng, size, light)

    radius = min(size) * rng.uniform(0.45, 1.1) / 2.6  # a head with ears is 2.6 radii high
    centre = rng.uniform((0.28, 0.3), (0.72, 0.62)) * canvas.size
    coat, marking, hair = _make_furs(rng, size, radius)
    painter = _Painter(canvas, centre, radius * _SUPERSAMPLING, light, hair)
    painter.turn(roll := rng.uniform(-0.4, 0.4))
    _draw_body(painter, rng, traits, coat, marking)
    painter.turn(roll + rng.uniform(-0.35, 0.35), rng.uniform(-0.7, 0.7), rng.uniform(-0.3, 0.3))
    _draw_head(painter, rng, traits, coat, marking)
    _draw_foreground(scene_rng, canvas)
    return _photograph(scene_rng, canvas, size)


def write_sketches(folder, *, per_class, seed=0, workers=None, animals=CATS_AND_DOGS):
    """Writes sketches: `folder/cat/cat.0.jpg` ... and `folder/dog/dog.0.jpg` ...

    The number of processes changes no byte. They are spawned, so a script that calls this needs
    `if __name__ == "__main__":`.

    Args:
        folder: Where to write, `str` or `Path`; made if missing.
        per_class: Number of sketches of each class.
        seed: Integer from 0 that decides them.
        workers: Number of processes, by default one a processor.
        animals: Which ones, some of `ANIMALS`.
    """
    folder = pathlib.Path(folder)
    for name in animals:
        (folder / name).mkdir(parents=True, exist_ok=True)
    jobs = [(folder, name, seed, index) for index in range(per_class) for name in animals]
    pool = concurrent.futures.ProcessPoolExecutor(
        workers or os.cpu_count(),
        mp_context=multiprocessing.get_context("spawn"),  # fork is unsafe beside TensorFlow
        initializer=_start_worker,
    )
    try:
        with Progress("Drawing sketches (not photographs)", len(jobs)) as progress:
            # Ctrl-C reaches the workers too, from their first moment, but the parent answers.
            interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
            written = pool.map(_write_sketch, jobs, chunksize=16)  # starts them
            signal.signal(signal.SIGINT, interrupt)
            for done, _ in enumerate(written, start=1):
                progress.update(done)
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker():
    parent = multiprocessing.parent_process()

    def end_with_parent():  # which may be killed; the pool would wait for ever
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _write_sketch(job):
    folder, name, seed, index = job
    # The comment is the same for all classes: it gives nothing away.
    sketch = draw_sketch(name, seed, index)
    comment = "A sketch, not a photograph."
    sketch.save(folder / name / f"{name}.{index}.jpg", quality=90, comment=comment)
