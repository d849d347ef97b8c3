"""Names of images, short and in full."""

import pytest

from mlenv.core.image_name import full_name, is_file_source, local_name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("debian:bookworm", "docker.io/library/debian:bookworm"),
        ("debian", "docker.io/library/debian:latest"),
        ("team/image", "docker.io/team/image:latest"),
        ("registry.example.org/a/b:1", "registry.example.org/a/b:1"),
        ("localhost/a", "localhost/a:latest"),
        ("localhost:5000/a", "localhost:5000/a:latest"),
        ("debian@sha256:" + "0" * 64, "docker.io/library/debian@sha256:" + "0" * 64),
        ("docker.io/library/debian:bookworm", "docker.io/library/debian:bookworm"),
    ],
)
def test_full_names_are_those_that_docker_means(text: str, expected: str) -> None:
    assert full_name(text) == expected
    assert full_name(expected) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train:1", "localhost/train:1"),
        ("team/train", "localhost/team/train:latest"),
        ("registry.example.org/a:1", "registry.example.org/a:1"),
        ("localhost/a:2", "localhost/a:2"),
    ],
)
def test_what_is_on_no_registry_is_named_after_this_machine(text: str, expected: str) -> None:
    assert local_name(text) == expected


def test_only_transports_name_files() -> None:
    assert is_file_source("oci-archive:base.tar")
    assert is_file_source("oci:layout:tag")
    assert not is_file_source("oci/image:1")
