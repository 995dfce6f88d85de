from pathlib import Path

import pytest

from orly.cli.docs import (
    BEGIN,
    END,
    PAGE,
    README,
    DocsError,
    main,
    readme_table,
    settings_page,
    with_table,
    write_docs,
)
from orly.settings import SETTINGS

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / PAGE).read_text(encoding="utf-8") == settings_page(), "run: make docs"


def test_the_table_in_the_readme_is_up_to_date() -> None:
    text = (ROOT / README).read_text(encoding="utf-8")
    assert text == with_table(text), "run: make docs"


@pytest.mark.parametrize("text", [settings_page(), readme_table()])
def test_each_setting_has_one_row(text: str) -> None:
    rows = [line for line in text.splitlines() if line.startswith("| `ORLY_")]
    assert [line.split("`")[1] for line in rows] == [row.env for row in SETTINGS]
    assert all(row.help in line for row, line in zip(SETTINGS, rows, strict=True))


def test_each_table_line_has_as_many_cells_as_its_head() -> None:
    for text, bars in ((settings_page(), 5), (readme_table(), 4)):
        counts = {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")}
        assert counts == {bars}


def test_only_what_stands_between_the_markers_changes() -> None:
    text = with_table(f"# Title\n\n{BEGIN}\nold\n{END}\n\nmore\n")
    assert text == f"# Title\n\n{BEGIN}\n{readme_table()}{END}\n\nmore\n"
    assert with_table(text) == text


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{BEGIN}{END}{END}", f"{BEGIN}{BEGIN}{END}"])
def test_a_readme_without_its_markers_is_refused(text: str) -> None:
    with pytest.raises(DocsError, match=r"README\.md must have one line <!-- settings:begin --> and one line <!--"):
        with_table(text)


def test_markers_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(DocsError, match="before"):
        with_table(f"{END}\n{BEGIN}\n")


def test_both_files_are_written(tmp_path: Path) -> None:
    (tmp_path / README).write_text(f"{BEGIN}\n{END}\n")
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / PAGE).read_text() == settings_page()
    assert (tmp_path / README).read_text() == with_table(f"{BEGIN}\n{END}\n")


def test_nothing_is_written_without_a_readme(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert f"there is no {tmp_path / README}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DocsError, match="give the directory of a checkout"):
        write_docs(tmp_path)


def test_wrong_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["a", "b"]) == 64
    assert "usage:" in capsys.readouterr().err
