"""`python scripts/train_feature_extract.py --help` shows what it does, with examples."""

from catsdogs.cli import train_feature_extract

if __name__ == "__main__":
    train_feature_extract()
