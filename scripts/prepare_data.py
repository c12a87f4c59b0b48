"""`python scripts/prepare_data.py --help` shows what it does, with examples."""

from catsdogs.cli import prepare_data

if __name__ == "__main__":
    prepare_data()
