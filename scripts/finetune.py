"""Trains VGG16's last convolutional block together with a trained head.

Examples:
    python scripts/finetune.py                                makes the head first if there is none
    python scripts/finetune.py --start runs/dogs-vs-cats/feature_extract-best-cached-seed0
    python scripts/finetune.py --learning-rate 1e-5 --epochs 8
    python scripts/finetune.py --preset textbook --epochs 2   the book's way, slow
"""

from catsdogs import cli, config, console


def main():
    settings, places = cli.parse_stage(config.FINETUNE, __doc__)
    run_dir, metrics = cli.load_quietly("catsdogs.stages.training_stages").finetune(
        settings,
        places.data_dir,
        places.run_dir,
        resume=places.resume,
        tensorboard=places.tensorboard,
    )
    console.print_outcome(run_dir, metrics)


if __name__ == "__main__":
    cli.run(main)
