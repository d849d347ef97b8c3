"""uv's explanations, as it wrote them, and what is read out of them."""

import pytest

from mlenv.resolve.explanation import Explanation, Need, split
from mlenv.resolve.source_build import build_failure

_VENDOR = """\
error: No solution found when resolving dependencies
  cause: Because azureml-dataset-runtime==1.36.0 depends on pyarrow>=0.17.0,<4.0.0 and azureml-defaults==1.36.0 depends \
on azureml-dataset-runtime[fuse]>=1.36.0,<1.37.dev0, we can conclude that azureml-defaults==1.36.0 depends on \
pyarrow>=0.17.0,<4.0.0.
         And because designer-core==0.0.68 depends on pyarrow==0.16.0 and designer-cv==0.0.41 depends on \
designer-core[image]==0.0.68 and azureml-defaults==1.36.0, we can conclude that these are incompatible.
         And because mlenv-request depends on designer-cv==0.0.41, we can conclude that your requirements are \
unsatisfiable.
"""
_NO_WHEEL = """\
error: No solution found when resolving dependencies
  cause: Because crcmod==1.7 has no usable wheels and only crcmod<=1.7 is available, we can conclude that crcmod>=1.7 \
cannot be used.
         And because all versions of apache-beam depend on crcmod>=1.7, we can conclude that apache-beam==2.69.0 cannot \
be used.
         And because only the following versions of apache-beam are available:
             apache-beam<=2.69.0
             apache-beam>2.70.dev0
         and mlenv-request depends on apache-beam>=2.69.0,<2.70.dev0, we can conclude that your requirements are \
unsatisfiable.

hint: Wheels are required for `crcmod` because building from source is disabled for all packages (i.e., with `--no-build`)
"""


def test_needs_are_what_is_said_not_what_is_concluded() -> None:
    assert Explanation(_VENDOR).needs == (
        Need("azureml-dataset-runtime==1.36.0", "pyarrow", ">=0.17.0,<4.0.0"),
        Need("azureml-defaults==1.36.0", "azureml-dataset-runtime", ">=1.36.0,<1.37.dev0"),
        Need("designer-core==0.0.68", "pyarrow", "==0.16.0"),
        Need("designer-cv==0.0.41", "designer-core", "==0.0.68"),
        Need("designer-cv==0.0.41", "azureml-defaults", "==1.36.0"),
        Need(None, "designer-cv", "==0.0.41"),
    )


def test_the_way_from_the_users_line() -> None:
    told = Explanation(_VENDOR)
    assert told.chain_to("pyarrow", {"designer-cv": "designer-cv==0.0.41"})[0] == "designer-cv"
    assert told.chain_to("pyarrow", {"designer-cv": ""})[-1] == "pyarrow==0.16.0"
    assert told.chain_to("designer-cv", {"designer-cv": ""}) == ("designer-cv",)
    assert told.chain_to("unknown", {"designer-cv": ""}) == ()
    assert Explanation(_NO_WHEEL).chain_to("crcmod", {"apache-beam": ""}) == ("apache-beam", "crcmod>=1.7")


def test_what_has_no_wheel() -> None:
    told = Explanation(_NO_WHEEL)
    assert told.no_wheel == ("crcmod",)
    assert told.bounded == ("crcmod", "apache-beam")
    assert not told.unreachable
    assert told.refused is None


@pytest.mark.parametrize(
    ("cause", "not_there"),
    [
        ("tcp connect error: Connection refused (os error 111)", True),
        ("No connection could be made because the target machine actively refused it. (os error 10061)", True),
        ("failed to lookup address information: Name or service not known", True),
        ("failed to lookup address information: nodename nor servname provided, or not known", True),
        ("failed to lookup address information: Temporary failure in name resolution", False),
        ("operation timed out", True),
        ("HTTP status server error (503 Service Unavailable) for url (http://127.0.0.1:9/simple/six/)", False),
        ("Connection reset by peer (os error 104)", False),
    ],
)
def test_an_index_that_is_not_there_and_one_that_falters(cause: str, not_there: bool) -> None:
    told = Explanation(f"error: Failed to fetch: `http://127.0.0.1:9/simple/six/`\n  cause: {cause}\n")
    assert (told.unreachable, told.not_there) == (True, not_there)


def test_the_stand_in_for_the_user_is_not_shown() -> None:
    assert "mlenv-request" not in Explanation(_NO_WHEEL).detail
    assert "you require apache-beam>=2.69.0" in Explanation(_NO_WHEEL).detail


def test_what_is_not_there() -> None:
    told = Explanation(
        "error: No solution found\n cause: Because nunpy was not found in the package registry and mlenv-request depends "
        "on nunpy, we can conclude …\n\n  And because there is no version of lib==9.9 and there are no versions of old"
    )
    assert told.not_found == ("nunpy",)
    assert told.no_version == ("lib", "old")


def test_other_pythons_and_systems() -> None:
    told = Explanation(
        "cause: Because pywin32<=224 has no wheels with a matching Python ABI tag (e.g., `cp38`) and the requested Python "
        "version (>=3.6) does not satisfy Python>=3.7 and termcolor>=2.0.0,<=2.3.0 depends on Python>=3.7, we …"
    )
    assert told.no_fitting_wheel == ("pywin32",)
    assert told.only_other_python == ("termcolor",)
    assert told.needs == ()


def test_what_came_too_late() -> None:
    told = Explanation("hint: `idna` was filtered by `exclude-newer` to only include packages uploaded before 2013")
    assert told.filtered_by_date == ("idna",)


def test_an_index_that_does_not_answer() -> None:
    told = Explanation(
        "error: Request failed after 3 retries in 10.5s\n  cause: Failed to fetch: http://127.0.0.1:9/simple/idna/\n"
        "  cause: tcp connect error\n  cause: Connection refused (os error 111)"
    )
    assert told.unreachable
    assert told.url == "http://127.0.0.1:9/simple/idna/"


def test_what_did_not_build() -> None:
    assert Explanation("error: Failed to build `sklearn==0.0.post12`").broken_build == ("sklearn", "0.0.post12")
    assert Explanation("error: Failed to download and build `x @ http://h/x`").broken_build == ("x", "")


def test_names_are_told_apart() -> None:
    told = Explanation("cause: Because setuptools-scm and my.pip and wheels are here")
    assert not told.mentions("setuptools")
    assert not told.mentions("pip")
    assert not told.mentions("wheel")
    assert told.mentions("setuptools-scm")
    assert split("Foo_Bar[a,b]>=1,<2") == ("foo-bar", ">=1,<2")


def test_no_address_is_shown_with_its_secret() -> None:
    told = Explanation("error: Failed to fetch: `https://me:hunter2@example.org/simple/lib/?token=hunter2`")
    assert told.detail == "error: Failed to fetch: `https://****@example.org/simple/lib/?token=****`"
    failure = build_failure("lib", "1.0", Explanation("x\nOSError: https://me:hunter2@example.org"), [])
    assert "hunter2" not in f"{failure} {failure.detail}"
    assert "OSError: https://****@example.org" in str(failure)
