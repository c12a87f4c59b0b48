"""Tell which pictures show the same: resaved, resized, greyed, mirrored or slightly cropped."""

import numpy as np
from PIL import Image

__all__ = ["group_look_alikes", "look_of"]

# Two hashes of 64 bits each. Among the 8 million pairs of 4,000 photographs, resaved copies differ
# in 1 to 8 bits (13 at JPEG quality 20) and no two different pictures in fewer than 24.
_MAX_BITS = 12
_NUM_BITS = 128
_BLOCK = 512  # rows compared at a time: bounds the memory


def look_of(image):
    """Summarises what a picture looks like, for `group_look_alikes`.

    Args:
        image: uint8 (height, width, 3) in [0, 255].

    Returns:
        float32 (384,): the signs, -1 or 1, of 64 brightness steps to the right and 64 downwards on
        a coarse grid (dHash), then the 16x16 grey thumbnail in [0, 255].
    """
    # 144 can be divided by 8, 9 and 16, so every grid is made of whole cells.
    grey = Image.fromarray(image).convert("L").resize((144, 144), Image.Resampling.BOX)
    pixels = np.asarray(grey, dtype=np.float32)

    def grid(rows, columns):
        return pixels.reshape(rows, 144 // rows, columns, 144 // columns).mean(axis=(1, 3))

    right = np.diff(grid(8, 9), axis=1) > 0  # (8, 8)
    down = np.diff(grid(9, 8), axis=0) > 0  # (8, 8)
    signs = np.stack([right, down]).ravel() * np.float32(2) - 1
    return np.concatenate([signs, grid(16, 16).ravel()])


def group_look_alikes(looks):
    """Groups pictures that look alike; whatever links two pictures links their groups.

    Args:
        looks: List of n results of `look_of`.

    Returns:
        int64 (n,): for each picture the position of the first one of its group; its own position
        if it looks like no earlier one.
    """
    groups = np.arange(len(looks))
    if not looks:
        return groups
    looks = np.stack(looks)
    signs, thumbnails = looks[:, :_NUM_BITS], looks[:, _NUM_BITS:]
    mirrored_signs, mirrored_thumbnails = _mirror(signs, thumbnails)
    for start in range(0, len(looks), _BLOCK):
        block = slice(start, start + _BLOCK)
        alike = _alike(signs[block], thumbnails[block], signs, thumbnails)
        alike |= _alike(signs[block], thumbnails[block], mirrored_signs, mirrored_thumbnails)
        for row in np.flatnonzero(np.tril(alike, start - 1).any(axis=1)):
            i = start + row
            linked = np.unique(groups[np.append(np.flatnonzero(alike[row, :i]), i)])
            groups[np.isin(groups, linked)] = linked[0]
    return groups


def _mirror(signs, thumbnails):
    """The looks of the mirror images: steps to the right change their sign, too."""
    grids = signs.reshape(-1, 2, 8, 8)[..., ::-1] * np.array([-1, 1], np.float32)[:, None, None]
    mirrored = thumbnails.reshape(-1, 16, 16)[..., ::-1]
    return grids.reshape(signs.shape), mirrored.reshape(thumbnails.shape)


def _alike(signs, thumbnails, other_signs, other_thumbnails):
    """Compares every row with every other row; bool (rows, other rows)."""
    few_bits = signs @ other_signs.T >= _NUM_BITS - 2 * _MAX_BITS
    # A plain background has no steps to compare, so the thumbnails must agree as well, and the
    # closer the less there is to see in them: root mean square within half the contrast.
    squares = np.square(thumbnails).sum(axis=1)[:, None] + np.square(other_thumbnails).sum(axis=1)
    distances = (squares - 2 * (thumbnails @ other_thumbnails.T)) / thumbnails.shape[1]
    contrast = np.minimum(thumbnails.std(axis=1)[:, None], other_thumbnails.std(axis=1))
    return few_bits & (np.sqrt(distances.clip(0)) <= 1 + contrast / 2)
