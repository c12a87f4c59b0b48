"""Serves a local web page: drop a photo, see the answer and where the model looked.

Examples:
    python scripts/demo.py
    python scripts/demo.py runs/dogs-vs-cats/finetune-best-augmented-seed0 model.keras
    python scripts/demo.py --host 0.0.0.0 --port 8000    # for others on the network as well

Without a run all finished ones in runs/*/*/ are offered, the best validation accuracy first.
"""

import dataclasses
from typing import Annotated

import tyro

from catsdogs import cli


@dataclasses.dataclass(frozen=True)
class Arguments:
    models: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[RUN_OR_MODEL...]")
    ] = ()
    """Run folders or .keras files to choose among on the page."""
    host: str = "127.0.0.1"
    """Address to listen at; by default only this computer reaches the page."""
    port: int = 7860
    """Port to listen at."""
    threshold: float = 0.8
    """Answers of a lower probability are marked as unsure."""


def main():
    arguments = cli.parse(Arguments, __doc__)
    demo = cli.load_quietly("catsdogs.inference.demo")
    choices = cli.load_quietly("catsdogs.inference.demo_choices").find_choices(arguments.models)
    demo.serve(choices, arguments.host, arguments.port, arguments.threshold)


if __name__ == "__main__":
    cli.run(main)
