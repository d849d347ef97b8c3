"""Whatever arrives as text is read or refused: no other exception, and no secret in what is said."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from mlenv.api.definition import parse_definition
from mlenv.api.files import no_files
from mlenv.api.yaml_text import parse_yaml, to_plain
from mlenv.core.redact import has_credentials, redact
from mlenv.errors import InvalidInput

SEEDS = {
    "env.yml": "name: e\nversion: 1.10\nimage: i\ntags: {a: b}\nconda_file:\n  dependencies:\n  - python=3.10\n  - pip:\n"
    "    - numpy==1 # x\n    - --extra-index-url https://example.org/x\n",
    "conda.yml": "channels: [a]\ndependencies:\n- python=3.10\n- pip: &x [a]\nvariables: {<<: {A: b}}\n",
    "requirements.txt": "-i https://example.org/y\nfoo[bar]>=1; python_version<'3'\n-e .\n--hash=x \\\n\\\n",
    "pyproject.toml": "[project]\nname='x'\ndependencies=['a>=1','b']\n[dependency-groups]\nx=[{include-group='y'}]\n",
    "pylock.toml": "lock-version='1.0'\ncreated-by='x'\n[[packages]]\nname='a'\nversion='1'\n[packages.archive]\nurl='https://x/a'\n",
}


#: NUL is refused everywhere.
_CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0")


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, str]:
    """A file's name, and its text with a few pieces replaced."""
    file = draw(st.sampled_from(sorted(SEEDS)))
    text = SEEDS[file]
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        stop = draw(st.integers(start, min(len(text), start + 8)))
        text = (
            text[:start]
            + draw(st.text(max_size=6) | st.sampled_from(list("{}[]:,&*!|>'\"%@`#-?\t\\=<~$")))
            + text[stop:]
        )
    return file, text


@given(damaged())
@settings(max_examples=300, deadline=None)
def test_damaged_files_are_read_or_refused(given: tuple[str, str]) -> None:
    file, text = given
    try:
        spec = parse_definition(text, file, read=no_files, name="e").spec
    except InvalidInput:
        return
    except ExceptionGroup as group:
        if group.split(InvalidInput)[1] is not None:
            raise
        return
    assert type(spec).from_dict(spec.to_dict()) == spec
    assert spec.digest


@given(
    st.recursive(
        st.text(_CHARACTERS, max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(_CHARACTERS, max_size=5), inner, max_size=3)
        ),
    )
)
@settings(max_examples=200, deadline=None)
def test_data_written_as_yaml_reads_back(data: object) -> None:
    text = json.dumps({"root": data})
    node = parse_yaml(text, "e.yml")
    assert node is not None
    assert to_plain(node) == {"root": data}


@given(
    st.sampled_from(["https", "git+https", "ftp"]), st.text("abc123._~-", min_size=1), st.text("xyz789._~-", min_size=4)
)
@settings(max_examples=200, deadline=None)
def test_no_password_survives_redaction(scheme: str, user: str, password: str) -> None:
    text = f"a {scheme}://{user}:{password}@example.org/p b"
    assert has_credentials(text)
    assert redact(text) == f"a {scheme}://****@example.org/p b"
    assert not has_credentials(redact(text).replace("****@", ""))
