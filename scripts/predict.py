"""`python scripts/predict.py --help` shows what it does, with examples."""

from catsdogs.cli import predict

if __name__ == "__main__":
    predict()
