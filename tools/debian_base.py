"""
Make a small Debian image with Python, as an OCI archive, as `mlenv base create` makes it.

    python tools/debian_base.py FILE [--suite bookworm] [--include PACKAGE]…

For the tests and the benchmarks: nothing is left in the user's store.
"""

import argparse
import tempfile
from pathlib import Path

from mlenv.build.debian import create_debian_base
from mlenv.build.export import export_image
from mlenv.store.oci import OciLayout


def main() -> None:
    """Make the image and move it to its place when it is whole. Takes about 40 seconds."""
    parser = argparse.ArgumentParser(description="Make a small Debian image with Python, as an OCI archive.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--suite", default="bookworm")
    parser.add_argument("--include", action="append", default=[], metavar="PACKAGE")
    arguments = parser.parse_args()
    arguments.file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.file.parent) as scratch:
        blobs, archive = OciLayout(Path(scratch) / "store"), Path(scratch) / "image.tar"
        image = create_debian_base(arguments.suite, blobs=blobs, workdir=Path(scratch), packages=arguments.include)
        export_image(image, f"oci-archive:{archive}", blobs)
        blobs.close()
        archive.rename(arguments.file)


if __name__ == "__main__":
    main()
