"""Tables of descriptions in every dress: encoding, separator, headers and quoting are found out by looking."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vizsage.data.knowledge import KnowledgeTable
from vizsage.errors import DataError

SHARED = Path(__file__).parents[3] / "shared" / "data" / "aqua" / "semart_val.csv"


def load(tmp_path: Path, content: str | bytes, name: str = "table.csv", encoding: str = "utf-8") -> KnowledgeTable:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return KnowledgeTable.load(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16"])
@pytest.mark.parametrize("separator", ["\t", ",", ";"])
def test_encodings_and_separators(tmp_path: Path, encoding: str, separator: str) -> None:
    rows = [("IMAGE_FILE", "DESCRIPTION", "AUTHOR"), ("a.jpg", "L'Arlésienne à Zürich", "van Gogh")]
    table = load(tmp_path, "".join(separator.join(row) + "\r\n" for row in rows), encoding=encoding)
    assert table.describe("a.jpg") == "L'Arlésienne à Zürich"
    assert len(table) == 1


def test_typographic_quotes_of_windows(tmp_path: Path) -> None:
    assert load(tmp_path, b"image,description\na.jpg,the \x93Night\x94\n").describe("a.jpg") == "the “Night”"


def test_bytes_that_cp1252_does_not_have(tmp_path: Path) -> None:
    assert load(tmp_path, b"image,description\na.jpg,\x81\xe9\n").describe("a.jpg") == "\x81é"


@pytest.mark.parametrize("header", ["IMAGE_FILE", "image_file", "Image", "file", "File_Name", "filename"])
def test_headers_in_any_case_and_order(tmp_path: Path, header: str) -> None:
    assert load(tmp_path, f" Description ,x,{header}\nwords,1,a.jpg\n").describe("a.jpg") == "words"


def test_separator_is_that_of_the_header_not_the_most_frequent(tmp_path: Path) -> None:
    table = load(tmp_path, "image\tdescription\na.jpg\tone, two, three; four, five\n")
    assert table.describe("a.jpg") == "one, two, three; four, five"


def test_proper_csv_with_quotes_separators_and_newlines(tmp_path: Path) -> None:
    table = load(tmp_path, 'image,description\na.jpg,"says ""so"", he\nsaid"\nb.jpg,plain\n')
    assert table.describe("a.jpg") == 'says "so", he\nsaid'
    assert table.describe("b.jpg") == "plain"


@pytest.mark.parametrize("separator", [",", "\t"])
def test_a_quoted_line_break_invents_no_row(tmp_path: Path, separator: str, caplog: pytest.LogCaptureFixture) -> None:
    """Read as plain text, each line has as many fields as the header: what opens and closes decides."""
    view = f"A view of a harbour.\nPainted in Delft{separator} signed."
    rows = [f"p{i}.png{separator}" + (f'"{view}"' if i == 3 else f"text {i}") for i in range(100)]
    table = load(tmp_path, "\n".join([f"image{separator}description", *rows, ""]))
    assert len(table) == 100
    assert table.describe("p3.png") == view
    assert table.describe("p4.png") == "text 4"
    (warning,) = caplog.messages
    assert "from line 5 on, quotes may enclose line breaks" in warning
    assert "read as a CSV, 100 rows and not 101" in warning


def test_quotes_that_enclose_rows_with_names_of_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two stray quotes, which open and close by chance."""
    table = load(tmp_path, 'image\tdescription\na.jpg\t"open\nb.jpg\twords\nc.jpg\tclose"\nd.jpg\tend\n')
    assert [table.describe(f"{c}.jpg") for c in "abcd"] == ['"open', "words", 'close"', "end"]
    assert "from line 2 on" in caplog.text
    assert "read as plain text, 4 rows and not 2" in caplog.text


TEXTS = st.text(st.sampled_from("ab é\n\r\"',;\t"), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXTS, min_size=1, max_size=6), separator=st.sampled_from(",;\t"), all_quoted=st.booleans())
def test_whatever_the_csv_module_writes_is_read_back(
    tmp_path: Path, texts: list[str], separator: str, all_quoted: bool
) -> None:
    with (tmp_path / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=separator, quoting=csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL)
        writer.writerows(
            [["image", "description"], *([f"{i}.png", text] for i, text in enumerate(texts)), ["z.png", "z"]]
        )
    table = KnowledgeTable.load(tmp_path / "table.csv")
    assert [table.describe(f"{i}.png") for i in range(len(texts))] == [text.strip() or None for text in texts]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "table.csv")
    with pytest.raises(
        DataError, match=r"table\.csv: the table of descriptions cannot be read: it is not a regular file"
    ):
        KnowledgeTable.load(tmp_path / "table.csv")


def test_quotes_that_are_part_of_the_text(tmp_path: Path) -> None:
    assert load(tmp_path, 'image,description\na.jpg,"""Night"""\n').describe("a.jpg") == '"Night"'


def test_field_that_is_longer_than_any_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="more than 131072 characters"):
        load(tmp_path, f"image,description\na.jpg,{'x' * 140_000}\n")


def test_quoted_fields_without_anything_to_protect(tmp_path: Path) -> None:
    assert load(tmp_path, '"image","description"\n"a.jpg","words"\n').describe("a.jpg") == "words"


def test_stray_quotes_swallow_no_rows(tmp_path: Path) -> None:
    """Read as CSV, the quote before `Night` ends three rows later, and the glued row has the right number of fields."""
    table = load(
        tmp_path,
        'IMAGE_FILE\tDESCRIPTION\tTYPE\na.jpg\t"Night" watch\tx\nb.jpg\t"open\tx\nc.jpg\twords\tx\nd.jpg\tclose"\tx\n'
        'e.jpg\t"well ""quoted"""\tx\n',
    )
    assert len(table) == 5
    assert [table.describe(f"{c}.jpg") for c in "abcde"] == [
        '"Night" watch',
        '"open',
        "words",
        'close"',
        'well "quoted"',
    ]


def test_a_field_between_quotes_that_is_not_quoted_as_a_whole(tmp_path: Path) -> None:
    assert load(tmp_path, 'image\tdescription\na.jpg\t"Night" and "Day"\n').describe("a.jpg") == '"Night" and "Day"'


def test_quote_that_never_ends_in_a_large_file(tmp_path: Path) -> None:
    rows = "".join(f"{i}.jpg\tdescription number {i}\n" for i in range(8000))  # longer than csv's field limit
    table = load(tmp_path, f'image\tdescription\nx.jpg\t"open\n{rows}')
    assert len(table) == 8001


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_newlines_and_empty_lines(tmp_path: Path, newline: str) -> None:
    text = newline.join(["", "image\tdescription", "a.jpg\tone", "", "b.jpg\ttwo", ""])
    assert len(load(tmp_path, text)) == 2


def test_ragged_rows_are_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = load(tmp_path, "image\tdescription\na.jpg\tone\nb.jpg\tone\ttwo\nc.jpg\tthree\n")
    assert len(table) == 2
    assert "1 rows do not have the 2 fields" in caplog.text
    assert "the first is row 3" in caplog.text


def test_rows_without_a_description_have_none(tmp_path: Path) -> None:
    table = load(tmp_path, "image,description\na.jpg,\nb.jpg,  \nc.jpg,words\n")
    assert (len(table), table.describe("a.jpg"), table.describe("b.jpg")) == (1, None, None)


def test_lookup_falls_back_to_case_and_basename(tmp_path: Path) -> None:
    table = load(tmp_path, "image,description\nA.jpg,upper\na.jpg,lower\nDir/Big.JPG,big\nC.jpg,sea\n")
    assert table.describe("A.jpg") == "upper"
    assert table.describe("a.jpg") == "lower"
    assert table.describe("c.JPG") == "sea"
    assert table.describe("big.jpg") == "big"
    assert table.describe("other/C.jpg") == "sea"
    assert table.describe("d.jpg") is None


def test_an_ambiguous_basename_finds_nothing(tmp_path: Path) -> None:
    table = load(tmp_path, "image,description\nx/1.jpg,one\ny/1.jpg,two\n")
    assert table.describe("x/1.jpg") == "one"
    assert table.describe("z/1.jpg") is None


def test_folder_of_tables(tmp_path: Path) -> None:
    (tmp_path / "semart_train.csv").write_bytes("IMAGE_FILE\tDESCRIPTION\na.jpg\té\n".encode("latin-1"))
    (tmp_path / "semart_val.tsv").write_text("image,description\nb.jpg,ü\na.jpg,second\n", encoding="utf-8")
    (tmp_path / "README.md").write_text("not a table")
    table = KnowledgeTable.load(tmp_path)
    assert (len(table), table.describe("a.jpg"), table.describe("b.jpg")) == (2, "é", "ü")


def test_missing_columns_name_the_headers_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"table\.csv.*found the headers image, text, author"):
        load(tmp_path, "image,text,author\na,b,c\n")


@pytest.mark.parametrize(
    ("content", "match"),
    [(b"", "is empty"), (b"\n \n", "is empty"), (b"image,description\n", "no descriptions")],
)
def test_empty_tables(tmp_path: Path, content: bytes, match: str) -> None:
    with pytest.raises(DataError, match=match):
        load(tmp_path, content)


def test_missing_table_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.csv: no such table"):
        KnowledgeTable.load(tmp_path / "gone.csv")
    with pytest.raises(DataError, match="no table of descriptions in this folder"):
        KnowledgeTable.load(tmp_path)


@pytest.mark.skipif(not SHARED.is_file(), reason="the SemArt table in ../shared is not here")
def test_the_real_semart_table_is_read_whole() -> None:
    table = KnowledgeTable.load(SHARED)
    lines = SHARED.read_bytes().decode("latin-1").rstrip("\n").split("\n")[1:]  # counted without the csv module
    assert len(table) == len(lines) == 1069
    for line in lines:
        name, description = line.split("\t")[:2]
        if description.startswith('"'):
            description = description[1:-1].replace('""', '"')
        assert table.describe(name) == description.strip()
