import io

from mlenv.cli.printer import Printer


def test_what_is_told_has_no_credentials() -> None:
    out, err = io.StringIO(), io.StringIO()
    printer = Printer(verbose=True, stdout=out, stderr=err)
    url = "https://me:hunter2@example.org/simple"
    printer.say(url)
    printer.error(f"no answer from {url}", hint=f"see {url}", detail=f"Traceback: {url}", lines=[url])
    assert "hunter2" not in err.getvalue()
    assert err.getvalue().count("https://****@example.org/simple") == 5


def test_what_is_asked_for_is_printed_as_it_is() -> None:
    out = io.StringIO()
    Printer(stdout=out, stderr=io.StringIO()).text("https://me:${PASSWORD}@example.org")
    assert out.getvalue() == "https://me:${PASSWORD}@example.org"
