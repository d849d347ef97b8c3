"""
Projects that people ask for by a name that is not theirs.

Each row says what the old name's own page, or the project's documentation, says: that the name is deprecated, a
placeholder, or that of the importable module. Names that are merely similar are not here: guessing is how people get
someone else's package.
"""

from collections.abc import Mapping
from typing import Final

#: Old or mistaken name → (the project's name, where that is said).
RENAMES: Final[Mapping[str, tuple[str, str]]] = {
    "sklearn": ("scikit-learn", "the `sklearn` project's own page: deprecated, use scikit-learn"),
    "skimage": ("scikit-image", "scikit-image's installation page; `skimage` is the module"),
    "cv2": ("opencv-python", "opencv-python's page; `cv2` is the module"),
    "pil": ("pillow", "Pillow's installation page: the friendly fork of PIL"),
    "bs4": ("beautifulsoup4", "the `bs4` project's own page: a dummy for beautifulsoup4"),
    "yaml": ("pyyaml", "PyYAML's page; `yaml` is the module"),
    "dotenv": ("python-dotenv", "python-dotenv's page; `dotenv` is the module"),
    "attr": ("attrs", "attrs' page; `attr` is the module"),
    "dateutil": ("python-dateutil", "python-dateutil's page; `dateutil` is the module"),
    "crypto": ("pycryptodome", "PyCryptodome's page; `Crypto` is the module"),
    "pytorch": ("torch", "the `pytorch` project's own page: the project is named torch"),
    "tensorflow-gpu": ("tensorflow", "the `tensorflow-gpu` project's own page: removed, use tensorflow"),
    "faiss": ("faiss-cpu", "faiss-cpu's page; `faiss` is the module and the conda package"),
    "mysqldb": ("mysqlclient", "mysqlclient's page; `MySQLdb` is the module"),
    "serial": ("pyserial", "pySerial's page; `serial` is the module"),
    "usb": ("pyusb", "PyUSB's page; `usb` is the module"),
    "jwt": ("pyjwt", "PyJWT's page; `jwt` is the module"),
    "git": ("gitpython", "GitPython's page; `git` is the module"),
    "magic": ("python-magic", "python-magic's page; `magic` is the module"),
    "docx": ("python-docx", "python-docx's page; `docx` is its module"),
    "pptx": ("python-pptx", "python-pptx's page; `pptx` is its module"),
    "opencv": ("opencv-python", "opencv-python's page; `opencv` is the conda package"),
    "py-opencv": ("opencv-python", "opencv-python's page; `py-opencv` is the conda package"),
    "msgpack-python": ("msgpack", "msgpack's page: renamed in 0.5"),
    "umap": ("umap-learn", "umap-learn's page; `umap` is its module"),
    "hydra": ("hydra-core", "Hydra's installation page"),
    "fitz": ("pymupdf", "PyMuPDF's page; `fitz` is its module"),
}


def renamed_to(name: str) -> str | None:
    """The right name of a project asked for under a known wrong one; both normalised (PEP 503)."""
    row = RENAMES.get(name)
    return None if row is None else row[0]
