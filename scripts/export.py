"""Writes a trained model for other programs, checked against Keras on real pictures.

Examples:
    python scripts/export.py runs/dogs-vs-cats/finetune-best-augmented-seed0 --format onnx
    python scripts/export.py model.keras --format litert --pictures my_pictures/
"""

import dataclasses
import pathlib
from typing import Annotated, Literal

import tyro

from catsdogs import cli
from catsdogs.stages import run as runs


@dataclasses.dataclass(frozen=True)
class Arguments:
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN_OR_MODEL")]
    """Run folder or .keras file."""
    format: Literal["savedmodel", "onnx", "litert"] = "onnx"
    """TensorFlow's SavedModel, ONNX or LiteRT (.tflite)."""
    output: str | None = None
    """Folder to write; by default export-FORMAT beside the model."""
    pictures: tuple[str, ...] = ()
    """Files and folders to compare on; by default the validation pictures of the run."""


def main():
    arguments = cli.parse(Arguments, __doc__)
    export = cli.load_quietly("catsdogs.inference.export")
    saved = cli.load_quietly("catsdogs.models.model_file").load_saved_model(arguments.model)
    pictures = arguments.pictures or (runs.validation_folder(saved.path.parent),)
    folder = pathlib.Path(arguments.output or saved.path.with_name(f"export-{arguments.format}"))
    number, difference, here = export.export_model(saved, arguments.format, folder, pictures)
    print(
        f"{folder}: answers as Keras in float32 on {number} pictures, the largest difference of a "
        f"probability is {difference:.1e}.\nTo the model as it predicts here, in its own "
        f"precision, it is {here:.1e}.\n"
        f"Class names and preprocessing: {folder}/model.json"
    )


if __name__ == "__main__":
    cli.run(main)
