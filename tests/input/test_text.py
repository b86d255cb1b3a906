"""Text from a file is shown, and does nothing."""

from pathlib import Path

import pytest

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.text import file_name, markdown, plain, say, stays_inside

STEERING = ["\x1b[31mred", "\x1b]0;title\x07", "a\rb", "a\x08\x08b", "\x9b31m", "\u202eabc", "a\u2028b", "\ud800"]


@pytest.mark.parametrize("text", STEERING)
def test_nothing_steers_the_terminal(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(f"The run {text} is odd.")
    shown = capsys.readouterr().out
    assert "The run" in shown and "is odd" in shown
    assert not any(sign in shown for sign in "\x1b\x07\x08\x9b\r\u202e\u2028\ud800")
    assert plain(text).isprintable()


@pytest.mark.parametrize(
    "text", ["bilder [entwurf]", "x[/nope]", "[red]x[/red]", "[link=file:///etc]x[/link]", "a\\[b"]
)
def test_brackets_are_brackets(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(text)
    assert capsys.readouterr().out.rstrip("\n") == text


@pytest.mark.parametrize(
    "text", ["{alert(1)}", "<img src=x onerror=alert(1)>", "[a](javascript:alert(1))", "**b**", "`c`", "# d"]
)
def test_markdown_is_text(text: str) -> None:
    shown = markdown(text)
    assert not set(shown) & set("{}<>[]()*`\\!\"'=") and "&#" in shown


def test_long_texts_are_cut() -> None:
    assert len(plain("x" * 10000)) < 400 and len(markdown("{" * 10000)) < 4000


@pytest.mark.parametrize("name", ["..", ".", "", "a/../../b", "/etc/passwd", "a\0b", "\x1b[31m", "..\\..\\x", " "])
def test_names_stay_in_their_folder(name: str, tmp_path: Path) -> None:
    made = tmp_path / file_name(name, "unnamed")
    assert made.parent == tmp_path and made.resolve().parent == tmp_path.resolve() and made.name.isprintable()


def test_paths_that_leave_are_known() -> None:
    assert stays_inside(Path("a/b")) and not stays_inside(Path("a/../../b")) and not stays_inside(Path("/a"))


def test_an_error_with_brackets_is_said_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    say(InputError("C:\\bilder [entwurf]\\x[/nope] is missing."), "bold red")
    assert "bilder [entwurf]\\x[/nope] is missing" in capsys.readouterr().out
