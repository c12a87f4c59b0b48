"""Prepare a data set: 2,000 pictures to train on, 1,000 to validate, 1,000 to test.

Without a flag, Microsoft's archive of 25,000 photographs (825 MB) is downloaded.

Examples:
  python scripts/prepare_data.py
  python scripts/prepare_data.py --archive ~/Downloads/dogs-vs-cats.zip
  python scripts/prepare_data.py --folder my_pictures --train 300 --validation 100 --test 100
  python scripts/prepare_data.py --sketches --preview
  python scripts/prepare_data.py --sketches --rabbits --train 900 --validation 450 --test 450
"""

from catsdogs.cli import load_quietly, parse, run
from catsdogs.config import PrepareConfig
from catsdogs.data.sources import open_pictures
from catsdogs.data.splits import prepare


def main():
    config = parse(PrepareConfig, __doc__)
    sizes = {"train": config.train, "validation": config.validation, "test": config.test}
    with open_pictures(
        archive=config.archive,
        folder=config.folder,
        sketches=config.sketches,
        rabbits=config.rabbits,
        num_pictures=sum(sizes.values()),
    ) as source:
        data_dir = config.data_dir or f"data/{source.name}"
        manifest = prepare(source, data_dir, **sizes, overwrite=config.overwrite)
    print(manifest.describe())
    print(f"Prepared in {data_dir}")
    if config.preview:
        preview = load_quietly("catsdogs.preview")
        print(f"Augmentation shown in {preview.save_augmentation_preview(data_dir)}")


if __name__ == "__main__":
    run(main)
