"""Runs notebooks from top to bottom and saves them with what they show.

Examples:
    python scripts/run_notebooks.py notebooks/*.ipynb
    python scripts/run_notebooks.py notebooks/01_convnets.ipynb --output-dir /tmp/notebooks
"""

import dataclasses
import os
import pathlib
import tempfile

import nbformat
import tyro
from nbclient import execute
from traitlets.config import Config

from catsdogs import cli, files
from catsdogs.errors import InputError


@dataclasses.dataclass(frozen=True)
class Arguments:
    notebooks: tyro.conf.Positional[tuple[pathlib.Path, ...]]
    """Notebooks to run."""
    output_dir: pathlib.Path | None = None
    """Folder to save them in; by default each replaces itself."""


def main():
    arguments = cli.parse(Arguments, __doc__)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # the kernel of this very interpreter
    # Else the kernel warns that others on this machine could read along.
    config = Config({"KernelManager": {"transport_encryption": "auto"}})
    for path in arguments.notebooks:
        output, before = (arguments.output_dir or path.parent) / path.name, path.read_bytes()
        notebook = nbformat.reads(before.decode(), as_version=4)
        metadata = notebook.metadata.copy()  # the kernel adds facts of this machine
        with tempfile.TemporaryDirectory() as folder:
            execute(notebook, folder, config=config, record_timing=False, coalesce_streams=True)
        notebook.metadata = metadata
        with files.atomic_path(output) as part:
            nbformat.write(notebook, part)
            if output.resolve() == path.resolve() and path.read_bytes() != before:
                raise InputError(f"Expected {path} as it was, received a newer one. Run it again.")
        print(f"{output}: {output.stat().st_size:,} bytes")


if __name__ == "__main__":
    cli.run(main)
