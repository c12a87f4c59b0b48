"""Shows what a model sees in pictures: Grad-CAM, occlusion, activations, and its filters.

Examples:
    python scripts/explain.py runs/dogs-vs-cats/finetune-best-augmented-seed0 photo.jpg
    python scripts/explain.py model.keras my_pictures/ --output explained --target dog
    python scripts/explain.py RUN photo.jpg --layers block3_conv1 block5_conv3
"""

import dataclasses
import pathlib
from typing import Annotated

import tyro

from catsdogs import cli, errors


@dataclasses.dataclass(frozen=True)
class Arguments:
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN_OR_MODEL")]
    """Run folder or .keras file."""
    pictures: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PATH...")]
    """Files, folders, or patterns in quotes."""
    output: str | None = None
    """Folder to write; by default explain beside the model."""
    layers: tuple[str, ...] = ()
    """Layers to look into; by default the deepest of every resolution."""
    target: str | None = None
    """Class whose evidence is shown; by default each picture's answer."""
    channels: int = 10
    """Channels to show of each layer: those that respond most to the pictures."""


def main():
    arguments = cli.parse(Arguments, __doc__)
    explain_run = cli.load_quietly("catsdogs.inference.explain_run")
    saved = cli.load_quietly("catsdogs.models.model_file").load_saved_model(arguments.model)
    written = explain_run.explain_pictures(
        saved,
        arguments.pictures,
        pathlib.Path(arguments.output or saved.path.with_name("explain")),
        layer_names=arguments.layers,
        target=arguments.target,
        num_channels=arguments.channels,
    )
    print("\n".join(errors.say_line(path) for path in written))


if __name__ == "__main__":
    cli.run(main)
