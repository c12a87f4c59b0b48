"""Says what pictures show, with a calibrated probability.

Examples:
    python scripts/predict.py runs/dogs-vs-cats/finetune-best-augmented-seed0 photo.jpg
    python scripts/predict.py model.keras my_pictures/ --csv > answers.csv
    find . -name '*.jpg' | python scripts/predict.py RUN - --json

The exit code is 1 if a file could not be read; it is named on standard error and passed over.
"""

import dataclasses
from typing import Annotated

import tyro

from catsdogs import cli, console


@dataclasses.dataclass(frozen=True)
class Arguments:
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN_OR_MODEL")]
    """Run folder or .keras file."""
    pictures: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PATH...")]
    """Files, folders, patterns in quotes, or - for a list on standard input."""
    threshold: float = 0.8
    """Answers of a lower probability are marked as unsure."""
    tta: bool = False
    """Mean prediction for each picture and its mirror image: better, in twice the time."""
    json: bool = False
    """Print JSON, one list of objects."""
    csv: bool = False
    """Print comma-separated values; ignored with --json."""


def main():
    arguments = cli.parse(Arguments, __doc__)
    console.accept_any_file_name()
    prediction = cli.load_quietly("catsdogs.inference.predict")
    saved = cli.load_quietly("catsdogs.models.model_file").load_saved_model(arguments.model)
    files = prediction.list_pictures(arguments.pictures)
    total = prediction.count_pictures(arguments.pictures)
    answers = prediction.predict_pictures(saved, files, tta=arguments.tta)
    form = "json" if arguments.json else "csv" if arguments.csv else "table"
    raise SystemExit(
        console.print_predictions(answers, saved.classes, arguments.threshold, form, total)
    )


if __name__ == "__main__":
    cli.run(main)
