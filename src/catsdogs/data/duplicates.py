"""Near-duplicates: pictures that were resaved, resized, made grey, flipped or slightly cropped."""

import numpy as np
from PIL import Image

__all__ = ["group_near_duplicates", "perceptual_hash"]

# Copies of photographs that were resaved, shrunk or made grey differ in 0 to 8 bits (13 at JPEG
# quality 20); among the 8 million pairs of the 4,000 Kaggle photographs, its two pairs of
# duplicates differ in 1 bit and no other pair in fewer than 22 (18 with one of them flipped). Crops
# move the grid: of 250 photographs cropped by 1, 2 and 3 % on each side, 1, 21 and 95 were missed.
_MAX_BITS = 12
_NUM_BITS = 128
_BLOCK = 512  # rows compared at a time: bounds the memory


def perceptual_hash(image):
    """Summarises what a picture looks like, for `group_near_duplicates`.

    Args:
        image: uint8 (height, width, 3) in [0, 255].

    Returns:
        float32 (512,): the signs, -1 or 1, of 64 horizontal and 64 vertical brightness steps on a
        coarse grid (dHash); the same of the flipped image; a 16x16 grey thumbnail in [0, 255].
    """
    # 144 can be divided by 8, 9 and 16, so every grid cell has the same number of pixels.
    grey = Image.fromarray(image).convert("L").resize((144, 144), Image.Resampling.BOX)
    pixels = np.asarray(grey, dtype=np.float32)
    return np.concatenate([_signs(pixels), _signs(pixels[:, ::-1]), _grid(pixels, 16, 16).ravel()])


def group_near_duplicates(hashes):
    """Groups near-duplicates; whatever links two pictures links their groups.

    Args:
        hashes: List of n results of `perceptual_hash`.

    Returns:
        int64 (n,): for each picture the position of the first one of its group, which is its own
        if it duplicates no earlier one.
    """
    groups = np.arange(len(hashes))
    if not hashes:
        return groups
    parts = np.split(np.stack(hashes), [_NUM_BITS, 2 * _NUM_BITS], axis=1)
    signs, flipped_signs, thumbnails = parts
    flipped_thumbnails = thumbnails.reshape(-1, 16, 16)[..., ::-1].reshape(thumbnails.shape)
    for start in range(0, len(hashes), _BLOCK):
        stop = start + _BLOCK
        block = signs[start:stop], thumbnails[start:stop]
        similar = _similar_earlier(*block, signs[:stop], thumbnails[:stop])
        similar |= _similar_earlier(*block, flipped_signs[:stop], flipped_thumbnails[:stop])
        for row in np.flatnonzero(similar.any(axis=1)):
            i = start + row
            linked = np.unique(groups[np.append(np.flatnonzero(similar[row, :i]), i)])
            groups[np.isin(groups, linked)] = linked[0]
    return groups


def _grid(pixels, rows, columns):
    """Means of the cells of a grid, float32 (rows, columns)."""
    height, width = pixels.shape
    return pixels.reshape(rows, height // rows, columns, width // columns).mean(axis=(1, 3))


def _signs(pixels):
    right = np.diff(_grid(pixels, 8, 9), axis=1) > 0  # (8, 8)
    down = np.diff(_grid(pixels, 9, 8), axis=0) > 0  # (8, 8)
    return np.stack([right, down]).ravel() * np.float32(2) - 1


def _similar_earlier(signs, thumbnails, all_signs, all_thumbnails):
    """Compares some rows, the last of all rows, with those before them; bool (rows, all rows)."""
    similar = signs @ all_signs.T >= _NUM_BITS - 2 * _MAX_BITS
    similar = np.tril(similar, len(all_signs) - len(signs) - 1)
    # A plain background has no steps to compare, so the thumbnails must agree as well, and the
    # closer the less contrast they have: root mean square within half of it.
    rows = np.flatnonzero(similar.any(axis=1))
    some = thumbnails[rows]
    squares = np.square(some).sum(axis=1)[:, None] + np.square(all_thumbnails).sum(axis=1)
    distances = (squares - 2 * (some @ all_thumbnails.T)) / some.shape[1]
    contrast = np.minimum(some.std(axis=1)[:, None], all_thumbnails.std(axis=1))
    similar[rows] &= np.sqrt(distances.clip(0)) <= 1 + contrast / 2
    return similar
