"""`python scripts/export.py --help` shows what it does, with examples."""

from catsdogs.cli import export

if __name__ == "__main__":
    export()
