"""`python scripts/explain.py --help` shows what it does, with examples."""

from catsdogs.cli import explain

if __name__ == "__main__":
    explain()
