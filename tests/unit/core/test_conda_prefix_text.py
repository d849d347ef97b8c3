"""Prefixes in files are replaced as conda does it, however the file is cut into chunks."""

import random
import re
import time

import pytest

from mlenv.core.conda_contents import EntryPoint
from mlenv.core.conda_prefix import PrefixDoesNotFit, replace_in_binary, replace_in_text, script_for

_OLD = "/placehold_placehold"


def _as_conda(data: bytes, placeholder: str, prefix: str) -> bytes:
    """What conda's regular expression says: a text from the placeholder to the next zero, padded behind."""
    old, new = placeholder.encode(), prefix.encode()

    def replace(match: re.Match[bytes]) -> bytes:
        text = match.group()
        return text.replace(old, new) + b"\0" * ((len(old) - len(new)) * text.count(old))

    return re.sub(re.escape(old) + b"[^\0]*\0", replace, data)


def test_binaries_keep_their_length() -> None:
    draw = random.Random(5)
    pieces = [_OLD.encode(), _OLD[:7].encode(), b"\0", b"/lib", b":", b"\xff" * 9, _OLD.encode() * 2]
    for _ in range(400):
        data = b"".join(draw.choices(pieces, k=draw.randrange(30)))
        cuts = sorted(draw.randrange(len(data) + 1) for _ in range(draw.randrange(6)))
        chunks = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        for prefix in ("/opt/env", "/", _OLD):
            made = b"".join(replace_in_binary(chunks, _OLD, prefix))
            assert made == _as_conda(data, _OLD, prefix)
            assert len(made) == len(data)


def test_a_prefix_that_does_not_fit() -> None:
    with pytest.raises(PrefixDoesNotFit, match="built for a prefix of 4 bytes, which is too short for '/opt/env'"):
        list(replace_in_binary([b"x"], "/opt", "/opt/env"))


def test_text_without_an_end_costs_no_time_and_no_memory() -> None:
    chunk = (_OLD * 3000).encode()
    started = time.process_time()
    with pytest.raises(PrefixDoesNotFit, match="more than 1048576 bytes of text behind a prefix"):
        list(replace_in_binary([chunk] * 200, _OLD, "/opt/env"))
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("text", "prefix", "expected"),
    [
        ("a {0}/b {0}", "/opt/env", "a /opt/env/b /opt/env"),
        ("{0}", "/p", "/p"),
        ("#!{0}/bin/python -u\nx {0}", "/opt/env", "#!/opt/env/bin/python -u\nx /opt/env"),
        ("#! {0}/bin/python\n", "/" + "p" * 120, "#!/usr/bin/env python\n"),
        ("#!{0}/bin/perl -w -T\n{0}", "/" + "p" * 120, "#!/usr/bin/env perl -w -T\n/" + "p" * 120),
        ("#!{0}/bin/python\n{0}", "/a b", "#!/usr/bin/env python\n/a b"),
        ("x\n#!{0}/bin/python\n", "/" + "p" * 120, "x\n#!/" + "p" * 120 + "/bin/python\n"),
    ],
)
def test_texts(text: str, prefix: str, expected: str) -> None:
    assert replace_in_text(text.format(_OLD).encode(), _OLD, prefix) == expected.encode()


def test_scripts_of_entry_points() -> None:
    point = EntryPoint("x", "a.b", "C.d")
    assert script_for(point, "/opt/env/bin/python3.11").startswith(
        b"#!/opt/env/bin/python3.11\n# -*- coding: utf-8 -*-\n"
    )
    for path in ("/" + "p" * 130, "/a b/python"):
        lines = script_for(point, path).decode().split("\n")
        assert lines[:2] == ["#!/bin/sh", f"'''exec' \"{path}\" \"$0\" \"$@\" #'''"]
        compile("\n".join(lines), "script", "exec")
