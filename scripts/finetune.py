"""`python scripts/finetune.py --help` shows what it does, with examples."""

from catsdogs.cli import finetune

if __name__ == "__main__":
    finetune()
