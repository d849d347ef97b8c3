import pytest

from mlenv.core.dockerfile import (
    Dockerfile,
    ImageUse,
    InvalidDockerfile,
    RefusedInstruction,
    parse_dockerfile,
)
from mlenv.core.platform import Platform

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")


def parse(text: str, **arguments: str) -> Dockerfile:
    return parse_dockerfile(text, arguments, AMD64)


def names(text: str, **arguments: str) -> list[str]:
    return [each.name for each in parse(text, **arguments).images]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM debian:bookworm\n", ["debian:bookworm"]),
        ("from debian\r\nRUN true\r\n", ["debian"]),
        ("\ufeffFROM a AS x\nFROM x\nFROM X AS y\nCOPY --from=Y /a /b\n", ["a"]),
        (
            "FROM a AS b\nFROM b AS c\nFROM d\nCOPY --from=0 / /\nCOPY --from=c / /\nCOPY --from=e:1 / /\n",
            ["a", "d", "e:1"],
        ),
        ("FROM scratch\nCOPY . /\n", []),
        ("FROM a\nRUN --mount=type=bind,from=tools:2,target=/t true\n", ["a", "tools:2"]),
        ("FROM a\nRUN --mount=from=b,target=/t --mount=type=cache,target=/c,from=d true\n", ["a", "b", "d"]),
        ("ARG V=3.11\nFROM python:${V}-slim\n", ["python:3.11-slim"]),
        ("ARG V\nFROM python:${V:-3.12}\n", ["python:3.12"]),
        ("ARG A=x B=y\nARG C=$A-${B}\nFROM $C\n", ["x-y"]),
        ("ARG V=\nFROM a${V:+-$V}${V-no}\n", ["a"]),
        ('ARG R="reg.example.org:5000"\nFROM "$R/a/b:1"\n', ["reg.example.org:5000/a/b:1"]),
        ("FROM --platform=$BUILDPLATFORM a AS b\nFROM b\n", ["a"]),
        ("FROM a-$TARGETARCH\n", ["a-amd64"]),
        ("# comment\n\n  # FROM no\n FROM \\\n  # FROM neither\n\n  a \\\n AS b\n", ["a"]),
        ("# escape=`\nFROM a`\n:1\nRUN dir c:\\\nRUN x\n", ["a:1"]),
        ("FROM a\nRUN <<EOF\nFROM b\nEOF\nCOPY <<-'E' <<F /x/\n\tFROM c\n\tE\nFROM d\nF\n", ["a"]),
        ("FROM a\nRUN cat <<EOF && echo '<<no'\nFROM b\nEOF\n", ["a"]),
        ("FROM a\nRUN <<'end-of.it'\nFROM b\nend-of.it\nRUN echo $((1 <<2))\n", ["a"]),
        ('FROM a\nRUN ["echo", "<<EOF"]\nFROM b\n', ["a", "b"]),
        ("FROM a@sha256:" + "0" * 64 + "\n", ["a@sha256:" + "0" * 64]),
        ("FROM a\nARG X=1\nRUN echo ${X#y} --from=z\n", ["a"]),
        ("FROM a\nHEALTHCHECK CMD x --from=b\nONBUILD RUN true\n", ["a"]),
    ],
)
def test_every_image_that_is_named_is_found(text: str, expected: list[str]) -> None:
    assert names(text) == expected


def test_build_arguments_win_over_defaults() -> None:
    text = "ARG V=1\nFROM a:$V\nARG W\n"
    assert (names(text), names(text, V="2"), names(text, W="3")) == (["a:1"], ["a:2"], ["a:1"])
    assert parse(text).arguments == {"V", "W"}
    # What was not declared before FROM is not known there.
    with pytest.raises(InvalidDockerfile, match="names no image"):
        names("FROM $V\n", V="a")


def test_the_final_stage_says_what_the_image_stands_on() -> None:
    assert parse("FROM a AS x\nFROM b\nFROM x\n").final == ImageUse("a")
    assert parse("FROM a AS x\nFROM scratch\nCOPY --from=x / /\n").final is None
    assert parse("FROM --platform=linux/arm64/v8 a\n").final == ImageUse("a", ARM64)
    assert parse("FROM --platform=linux/amd64 a\n").final == ImageUse("a")


def test_the_same_dockerfile_on_other_images_keeps_its_lines() -> None:
    text = (
        "# syntax=docker/dockerfile:1\nARG V=1\nFROM --platform=$TARGETPLATFORM \\\n  py:$V AS x\nRUN <<E\nFROM q\nE\n"
        "FROM tools\nCOPY --from=py:1 --chown=1 /a /b\nRUN --mount=type=bind,from=tools,target=/t echo from=tools"
    )
    dockerfile = parse(text)
    changed = dockerfile.on({ImageUse("py:1"): "base-0", ImageUse("tools"): "base-1"})
    assert changed.split("\n") == [
        "# docker/dockerfile:1 is not fetched",
        "ARG V=1",
        "FROM base-0 AS x",
        "",
        "RUN <<E",
        "FROM q",
        "E",
        "FROM base-1",
        "COPY --from=base-0 --chown=1 /a /b",
        "RUN --mount=type=bind,from=base-1,target=/t echo from=tools",
        "",
    ]
    assert [each.name for each in parse(changed).images] == ["base-0", "base-1"]
    assert dockerfile.has_documents
    assert not parse("FROM a\n").has_documents


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("", 1, "no FROM"),
        ("RUN true\nFROM a\n", 1, "before the first FROM"),
        ("\nFROM a b\n", 2, "expected FROM"),
        ("FROM a AS 1x\n", 1, "name of a stage"),
        ("FROM --x=1 a\n", 1, "expected FROM"),
        ("FROM --platform=plan9/mips a\n", 1, "not a platform"),
        ("ARG V=\nFROM $V\n", 2, "names no image"),
        ("FROM ${V:?missing}\n", 1, "V: missing"),
        ("ARG V=a\nFROM ${V%x}\n", 2, "not known here"),
        ("FROM ${V\n", 1, "does not end"),
        ("FROM a\nCOPY --from=$X / /\n", 2, "known only when it is run"),
        ("FROM a\nCOPY --from=0 / /\n", 2, "no stage 0"),
        ("FROM a\nRUN <<EOF\nx\n", 2, "has no end"),
        ("FROM a\n.x\n", 2, "is no instruction"),
        ("FROM oci-archive:/etc/passwd\n", 1, "names a file"),
        ("FROM oci:/var\n", 1, "names a file"),
        ("FROM ../x\n", 1, "is no image's name"),
        ("# escape=x\nFROM a\n", 1, "escape"),
        ("FROM a\nONBUILD COPY --from=b / /\n", 2, "can't be pinned"),
    ],
)
def test_what_can_not_be_understood_is_said_with_its_line(text: str, line: int, why: str) -> None:
    with pytest.raises(InvalidDockerfile, match=why) as caught:
        parse(text)
    assert caught.value.line == line


@pytest.mark.parametrize(
    "instruction",
    [
        "RUN --security=insecure true",
        "RUN --network=host true",
        "RUN --device=nvidia.com/gpu=all true",
        "RUN --privileged true",
        "RUN --mount=type=ssh true",
        "RUN --mount=type=devpts,target=/x true",
        "RUN --mount=type=bind,source=../../etc,target=/x true",
        "RUN --MOUNT=type=bind,src=a/../..,target=/x true",
        "ONBUILD RUN --security=insecure true",
        "RUN \\\n --network=none \\\n --security=insecure true",
    ],
)
def test_what_asks_for_more_than_a_container_is_refused(instruction: str) -> None:
    with pytest.raises(RefusedInstruction) as caught:
        parse(f"FROM a\n{instruction}\n")
    assert caught.value.line == 2


def test_what_looks_like_a_privilege_and_is_none_is_let_pass() -> None:
    text = "FROM a\nRUN --network=none --security=sandbox --mount=type=secret,id=x true\nRUN echo --security=insecure\n"
    assert len(parse(text).instructions) == 3
