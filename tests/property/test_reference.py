"""References: what is written is what is read, in every spelling, and nothing else is read."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlenv.core.reference import EnvironmentName, LabelName, Reference, VersionName, Workspace
from mlenv.errors import InvalidInput

plain = st.text(string.ascii_letters + string.digits + "-_.", min_size=1, max_size=30).filter(
    lambda text: text not in {".", ".."}
)
unicode = st.text(st.characters(categories=["L", "N"], max_codepoint=0xFFFF), min_size=1, max_size=20)
names = st.one_of(plain, unicode)
workspaces = st.builds(Workspace, plain, plain, plain)
places = st.one_of(
    st.just((None, None)), plain.map(lambda name: (name, None)), workspaces.map(lambda each: (None, each))
)


@st.composite
def references(draw: st.DrawFn) -> Reference:
    name = EnvironmentName(draw(names))
    registry, workspace = draw(places)
    kind = draw(st.sampled_from(["bare", "version", "label"]))
    version = VersionName(draw(names)) if kind == "version" else None
    label = LabelName(draw(names)) if kind == "label" else None
    return Reference(name, version, label, registry, workspace)


@given(references())
def test_text_of_a_reference_reads_as_that_reference(reference: Reference) -> None:
    assert Reference.parse(str(reference)) == reference


@given(references())
def test_azureml_prefix_changes_nothing(reference: Reference) -> None:
    text = str(reference)
    prefixed = text if text.startswith("azureml:") else f"azureml:{text}"
    assert Reference.parse(prefixed) == reference


@given(references(), names)
def test_at_a_version_there_is_no_label(reference: Reference, version: str) -> None:
    there = reference.at(VersionName(version))
    assert (there.name, there.version, there.label) == (reference.name, version, None)
    assert Reference.parse(str(there)) == there


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    refusal = reference = None
    try:
        reference = Reference.parse(text)
    except InvalidInput as error:
        refusal = error
    if refusal is not None:
        assert refusal.hint
        assert "\n" not in str(refusal)
    else:
        assert Reference.parse(str(reference)) == reference


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":1",
        "@latest",
        "azureml:",
        "iris:",
        "iris@",
        "iris:1:2",
        "iris:1@x",
        "a b",
        "a/b",
        "..",
        "iris:..",
        "azureml://registries/r/environments/n/versions/",
        "azureml://registries//environments/n",
        "/subscriptions/s/resourcegroups/g/providers/Microsoft.MachineLearningServices/workspaces/w/environments/n",
        "a" * 256,
        "iris:1\n",
        "iris\u200b:1",
        "iris\u202e",
        "iris\x85",
        "\ud800",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape("not ")):
        Reference.parse(text)
