"""`python scripts/evaluate.py --help` shows what it does, with examples."""

from catsdogs.cli import evaluate

if __name__ == "__main__":
    evaluate()
