"""`python scripts/demo.py --help` shows what it does, with examples."""

from catsdogs.cli import demo

if __name__ == "__main__":
    demo()
