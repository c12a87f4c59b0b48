"""Trains a new head on features of the frozen VGG16 base.

Examples:
    python scripts/train_feature_extract.py                   features computed once, then seconds
    python scripts/train_feature_extract.py --variant augmented --views 6
    python scripts/train_feature_extract.py --image-size 256  faster, a little worse
    python scripts/train_feature_extract.py --preset textbook --variant end_to_end --dropout 0
"""

from catsdogs import cli, config, console


def main():
    settings, places = cli.parse_stage(config.FEATURE_EXTRACT, __doc__)
    run_dir, metrics = cli.load_quietly("catsdogs.stages.training_stages").train_feature_extract(
        settings,
        places.data_dir,
        places.run_dir,
        resume=places.resume,
        tensorboard=places.tensorboard,
    )
    console.print_outcome(run_dir, metrics)


if __name__ == "__main__":
    cli.run(main)
