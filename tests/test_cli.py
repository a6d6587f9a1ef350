from pathlib import Path

import pytest
from command_line import elm, refused

ROOT = Path(__file__).parent.parent
COMMANDS = [
    "check",
    "demo",
    "tokenizer",
    "tokenize",
    "train",
    "sample",
    "import",
    "inspect",
    "export",
    "convert",
]


def test_help_names_every_command() -> None:
    said = elm("--help").stdout
    assert all(name in said for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = elm(command, "--help")
    assert result.code == 0
    assert "Usage: elm" in result.stdout


def test_check_says_what_is_good() -> None:
    result = elm("check", str(ROOT / "configs" / "elm_l.yaml"), str(ROOT / "configs" / "demo.yaml"))
    assert result.code == 0
    assert "elm_l.yaml: good, 315,648,000 parameters" in result.stdout
    assert "demo.yaml: good" in result.stdout


def test_check_reports_every_mistake_of_every_file(tmp_path: Path) -> None:
    good = (ROOT / "configs" / "demo.yaml").read_text()
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(good.replace("num_layers:", "num_layer:").replace("precision: fp32", "precision: fp8"))
    second.write_text(good.replace("subtoken_bits: 8", "subtoken_bits: 7"))
    said = refused("check", str(first), str(second))
    assert "did you mean num_layers?" in said
    assert "'fp8' is not allowed" in said
    assert "2 sub-tokens x 7 bits = 14 bits, but tokenizer.code_bits is 16" in said


def test_an_unknown_command_is_refused() -> None:
    assert "No such command 'trian'" in refused("trian")


def test_a_missing_option_is_refused() -> None:
    assert "Missing option '--images'" in refused("tokenize", "--tokenizer", "x", "--out", "y")


def test_tokenizing_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    said = refused("tokenize", "--images", str(tmp_path), "--tokenizer", str(tmp_path), "--out", str(tmp_path / "out"))
    assert "there is no complete tokenizer" in said
    assert not (tmp_path / "out").exists()


def test_training_ends_with_the_code_of_its_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = refused("train", str(ROOT / "configs" / "demo.yaml"))
    assert "error: runs/demo/shards: there are no token shards here" in said
