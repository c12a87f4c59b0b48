"""Lists what is kept to save time and what killed processes left, and clears it.

Pictures, manifests and runs are never touched; what is cleared is made again when it is needed.

Examples:
    python scripts/caches.py                             how much there is
    python scripts/caches.py --clear leftovers           what killed processes left half-done
    python scripts/caches.py --clear decoded features    what would be computed again
    python scripts/caches.py --data-dir data/sketches    of one data set alone
"""

import dataclasses
import sys
from typing import Literal

from catsdogs import caches, cli


@dataclasses.dataclass(frozen=True)
class Arguments:
    clear: tuple[Literal["decoded", "features", "leftovers"], ...] = ()
    """Kinds to delete: decoded pixels, computed activations, what was left half-done."""
    data_dir: str | None = None
    """Prepared data set; by default all in data/, and the leftovers in runs/."""


def main():
    arguments = cli.parse(Arguments, __doc__)
    found = caches.list_caches(data_dir=arguments.data_dir)
    print(*caches.describe_caches(found), sep="\n")
    if arguments.clear:
        freed, in_use = caches.clear_caches(found, arguments.clear)
        for folder in in_use:
            print(f"Left alone, another process uses it: {folder}", file=sys.stderr)
        print(f"Freed {freed:,} bytes.")


if __name__ == "__main__":
    cli.run(main)
