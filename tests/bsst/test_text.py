"""What a stranger's file says is shown, and does nothing else to a terminal."""

from pathlib import Path

from click.testing import CliRunner

from bsst import cli
from bsst.text import printable


def test_control_characters_and_lone_surrogates_are_shown_as_codes() -> None:
    assert printable("\x1b[2J\x07\x9b1m\x7f \u202e \udce9") == "\\x1b[2J\\x07\\x9b1m\\x7f \\u202e \\udce9"
    assert printable("Äpfel 苹果\tone\ntwo") == "Äpfel 苹果\tone\ntwo"


def test_no_name_brings_an_escape_sequence_into_a_message(tmp_path: Path) -> None:
    for command in ("run", "inspect", "parity"):
        result = CliRunner().invoke(
            cli.main, [command, str(tmp_path / "\x1b[2J.plan"), *["--clip", "x"][: 2 * (command == "parity")]]
        )
        assert result.exit_code != 0
        assert "\x1b" not in result.stderr
        assert "\\x1b[2J.plan" in result.stderr
