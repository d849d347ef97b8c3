"""`resolver: pypi`: conda packages as PyPI has them."""

import pytest
from packaging.requirements import Requirement as Pep508
from packaging.utils import canonicalize_name

from mlenv.core.conda_to_pypi import NotOnPypi, to_pypi
from mlenv.core.pypi_names import MISSING, RENAMED, SAME
from mlenv.core.spec import CondaFile, Origin, Requirement


def conda_file(*texts: str) -> CondaFile:
    lines = tuple(Requirement(text, Origin("conda.yml", number)) for number, text in enumerate(texts, 1))
    return CondaFile("{}", "", packages=lines)


@pytest.mark.parametrize(
    ("conda", "pip", "lost"),
    [
        ("numpy", "numpy", ()),
        ("pytorch=1.13", "torch==1.13.*", ()),
        ("py-xgboost==1.7.6", "xgboost==1.7.6", ()),
        ("Pillow>=9,<10", "pillow>=9,<10", ()),
        ("opencv", "opencv-python-headless", ()),
        ("ruamel.yaml~=0.17.21", "ruamel-yaml~=0.17.21", ()),
        ("huggingface_hub!=0.20.*", "huggingface-hub!=0.20.*", ()),
        ("scikit-learn=0.22.2.post1", "scikit-learn==0.22.2.post1", ()),
        ("pandas *", "pandas", ()),
        ("pip=24.0", "pip==24.0.*", ()),
        ("conda-forge::pandas==1.5.3", "pandas==1.5.3", ("the channel conda-forge",)),
        (
            "pytorch/linux-64::pytorch=1.12=*cuda*",
            "torch==1.12",
            ("the channel pytorch", "the directory linux-64", "the build *cuda*"),
        ),
    ],
)
def test_names_and_bounds_are_translated(conda: str, pip: str, lost: tuple[str, ...]) -> None:
    (found,) = to_pypi(conda_file(conda))
    wanted, taken = Pep508(pip), Pep508(found.taken.text)
    assert (taken.name, taken.specifier) == (wanted.name, wanted.specifier)
    assert (found.taken.origin, found.asked.text, found.lost) == (Origin("conda.yml", 1), conda, lost)


def test_it_says_what_it_replaced() -> None:
    (found,) = to_pypi(conda_file("pytorch::pytorch=1.12=py3.9_cuda*"))
    assert str(found) == (
        "conda.yml:1: pytorch::pytorch=1.12=py3.9_cuda* is taken from PyPI as torch==1.12, "
        "without the channel pytorch and the build py3.9_cuda*"
    )


@pytest.mark.parametrize(
    ("conda", "why"),
    [
        ("cudatoolkit=11.3", "PyPI's wheels bring the CUDA"),
        ("cpuonly", "it chooses among conda's builds"),
        ("ffmpeg", "a program"),
        ("graphviz", "conda's is the program"),
        ("mkl<2024", "a library"),
        ("r-tidyverse=2.0.0", "PyPI has no R"),
        ("made-up-name", "not among the conda packages whose name on PyPI is known"),
        ("numpy=1.2|1.3", "one version or another"),
        ("numpy==1.0_x", "is no version on PyPI"),
        ("numpy[license=BSD]", "`license` is a condition for conda packages alone"),
        ("https://example.org/c/noarch/six-1.16-py_0.conda", "the file of a conda package"),
        ("numpy=>1", "is no version"),
    ],
)
def test_what_pypi_has_not_is_refused(conda: str, why: str) -> None:
    with pytest.raises(NotOnPypi, match=why) as caught:
        to_pypi(conda_file("numpy", conda))
    assert [each.text for each, _ in caught.value.packages] == [conda]


def test_all_of_them_are_told_at_once() -> None:
    with pytest.raises(
        NotOnPypi, match=r"2 packages from PyPI\n  conda.yml:1: ffmpeg: a program.*\n  conda.yml:3: mkl: "
    ):
        to_pypi(conda_file("ffmpeg", "numpy", "mkl"))


def test_the_table_says_one_thing_of_each_name() -> None:
    assert not SAME & RENAMED.keys()
    assert not (SAME | RENAMED.keys()) & MISSING.keys()
    assert all(name == canonicalize_name(name) for name in RENAMED.values())
    assert all(name == name.lower() for name in [*SAME, *RENAMED, *MISSING])
