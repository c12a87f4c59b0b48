"""`python scripts/plot_history.py --help` shows what it does, with examples."""

from catsdogs.cli import plot_history

if __name__ == "__main__":
    plot_history()
