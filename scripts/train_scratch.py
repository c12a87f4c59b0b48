"""`python scripts/train_scratch.py --help` shows what it does, with examples."""

from catsdogs.cli import train_scratch

if __name__ == "__main__":
    train_scratch()
