"""Trains a small convnet from random weights.

Examples:
    python scripts/train_scratch.py --smoke                   does it run? (seconds)
    python scripts/train_scratch.py                           this project's recipe
    python scripts/train_scratch.py --preset record           the highest accuracy, in hours
    python scripts/train_scratch.py --preset textbook         the book's convnet and augmentation
    python scripts/train_scratch.py --preset textbook --augmentation none --dropout 0 --epochs 30
    python scripts/train_scratch.py --resume                  go on after a stop
"""

from catsdogs import cli, config, console


def main():
    settings, places = cli.parse_stage(config.SCRATCH, __doc__)
    run_dir, metrics = cli.load_quietly("catsdogs.stages.training_stages").train_scratch(
        settings,
        places.data_dir,
        places.run_dir,
        resume=places.resume,
        tensorboard=places.tensorboard,
    )
    console.print_outcome(run_dir, metrics)


if __name__ == "__main__":
    cli.run(main)
