"""`python scripts/cross_validate.py --help` shows what it does, with examples."""

from catsdogs.cli import cross_validate

if __name__ == "__main__":
    cross_validate()
