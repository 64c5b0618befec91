"""Reading a table: kinds, classes, and one message that names every mistake's place."""

import numpy as np
import pytest

from mmbench.errors import UserError
from mmbench.own.table import read_table
from mmbench.testing.files import animals, write_table


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("animals")
    return folder, animals(folder, samples=6)


def changed(rows, number, **values):
    return [row | values if i == number else row for i, row in enumerate(rows)]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_kinds_follow_from_the_files(suffix, rows):
    folder, listed = rows
    table = read_table(write_table(folder / f"my{suffix}", listed))
    assert dict(table.kinds) == {
        "sound": "audio", "photo": "image", "film": "video", "told": "text", "numbers": "array",
    }  # fmt: skip
    assert table.classes == ("cat", "dog", "owl")
    assert table.rows[0].values["told"] == "it purrs and sleeps"
    assert table.rows[1].values["sound"] == str(folder / "a 1.wav")
    assert len({row.id for row in table.rows}) == 6


def test_numbers_as_labels_are_sorted_as_numbers(rows):
    folder, listed = rows
    listed = [
        row | {"label": str(label)} for row, label in zip(listed, (10, 9, 10, 9, 2, 2), strict=True)
    ]
    assert read_table(write_table(folder / "n.csv", listed)).classes == ("2", "9", "10")


def test_the_order_of_classes_does_not_depend_on_the_process(tmp_path):
    file = tmp_path / "n.csv"
    file.write_text("label,a\n10,w\nnan,x\n2,y\ninf,z\n")  # not all are numbers to sort by
    assert read_table(file).classes == ("10", "2", "inf", "nan")
    file.write_text("label,a\n1,w\n2,x\n1.0,y\n")
    with pytest.raises(UserError, match=r"labels '1' and '1.0' \(n.csv, line 4\), .* one number"):
        read_table(file)


def test_a_suffix_in_capitals_is_the_same_kind_of_table(tmp_path):
    file = tmp_path / "MY.TSV"
    file.write_text("label\ta\nx\tone, two\ny\tthree\n")
    assert [row.values["a"] for row in read_table(file).rows] == ["one, two", "three"]


def test_a_text_may_hold_commas_quotes_and_lines(rows):
    folder, listed = rows
    told = 'he said "no",\nand left'
    table = read_table(write_table(folder / "q.csv", changed(listed, 0, told=told)))
    assert table.rows[0].values["told"] == told
    assert table.rows[1].place == "q.csv, line 4"  # the text took two lines


def test_columns_and_kinds_can_be_stated(rows):
    folder, listed = rows
    file = write_table(folder / "s.csv", listed)
    table = read_table(file, columns=("told", "film"), kinds={"film": "audio"})
    assert dict(table.kinds) == {"told": "text", "film": "audio"}


def test_split_names_are_understood(rows):
    folder, listed = rows
    names = ("train", "Train", "dev", "valid", "validation", "test")
    listed = [row | {"split": s} for row, s in zip(listed, names, strict=True)]
    table = read_table(write_table(folder / "sp.csv", listed))
    assert [row.split for row in table.rows] == ["train", "train", "val", "val", "val", "test"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sound": "gone.wav"}, r"bad.csv, line 3, column sound: there is no file .*gone.wav"),
        ({"photo": ""}, "line 3, column photo: empty"),
        ({"told": ""}, "line 3, column told: empty"),
        ({"label": ""}, "line 3, column label: empty"),
        ({"photo": "a 1.wav"}, "line 3: 'a 1.wav'.*--kind photo=KIND"),
    ],
)
def test_a_mistake_in_a_row_is_named_by_line_and_column(change, message, rows):
    folder, listed = rows
    with pytest.raises(UserError, match=message):
        read_table(write_table(folder / "bad.csv", changed(listed, 1, **change)))


def test_ten_mistakes_are_shown_and_the_rest_counted(rows):
    folder, listed = rows
    listed = [row | {"sound": f"gone{i}.wav"} for i, row in enumerate(listed * 3)]
    with pytest.raises(UserError) as caught:
        read_table(write_table(folder / "many.csv", listed))
    assert str(caught.value).count("there is no file") == 10
    assert "and 8 more" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no rows"),
        ("label,a\n", "no rows"),
        ("labels,a\nx,b\ny,c\n", "columns are labels, a; did you mean 'labels'"),
        ("label,a\nx,b,c\n", "line 2: 3 values for 2 columns"),
        ("label;a\nx;b, c\n", "line 2: 2 values for 1 columns; the columns are parted by semi"),
        ("label;a\nx;b\n", "no column 'label'; its columns are parted by semicolons"),
        ("label,a,a\nx,b,c\n", "two columns called 'a'"),
        ("label\nx\ny\n", "no column beside label"),
        ("label,my text\nx,b\ny,c\n", "'my text' .* cannot be a modality"),
        ("label,type\nx,b\ny,c\n", "'type' .* torch uses that word itself: rename it"),
        ("label,_a\nx,b\ny,c\n", "'_a' .* cannot be a modality"),
        ("label,a\nx,b\nx,c\n", "the one label 'x'"),
        ("label,a,split\nx,b,train\ny,c,holdout\n", "'holdout' is none of train"),
        ("label,a,id\nx,b,7\ny,c,7\n", "line 3: the id '7' is that of bad.csv, line 2"),
    ],
)
def test_a_table_that_cannot_be_used_says_so(content, message, tmp_path):
    file = tmp_path / "bad.csv"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        read_table(file)


def test_files_of_an_unknown_kind_are_not_taken_for_text(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("hello")
    file = tmp_path / "t.csv"
    file.write_text("label,said\nx,a.txt\ny,b.txt\n")
    with pytest.raises(UserError, match=r"'said' .* names files whose kind is not known .*a.txt"):
        read_table(file)
    assert read_table(file, kinds={"said": "text"}).kinds == {"said": "text"}
    file.write_text("label,said\nx,see a.txt\ny,This ends in nothing.md\n")
    assert read_table(file).kinds == {"said": "text"}


def test_values_that_pandas_leaves_out_are_empty_and_nested_ones_are_refused(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    def table(**columns):
        parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
        return tmp_path / "t.parquet"

    missing = table(label=[1.0, float("nan"), 2.0], said=["a", "b", None])
    with pytest.raises(UserError) as caught:
        read_table(missing)
    assert "row 2, column label: empty" in str(caught.value)
    assert "row 3, column said: empty" in str(caught.value)
    held = table(label=["a", "b"], picture=[{"bytes": b"x"}, {"bytes": b"y"}])
    with pytest.raises(UserError, match="row 1, column picture: holds a dict"):
        read_table(held)
    whole = table(label=[10.0, 9.0], said=["a", "b"])
    assert read_table(whole).classes == ("9.0", "10.0")


def numbers(file, *values):
    lines = [f"{'xy'[i % 2]},{v}" for i, v in enumerate(values)]
    file.write_text("\n".join(["label,age", *lines]) + "\n")
    return file


def test_a_column_of_numbers_is_read_as_numbers_unless_stated_as_text(tmp_path):
    file = numbers(tmp_path / "n.csv", "3", "-4.5", "1e3", "0")
    assert read_table(file).kinds == {"age": "number"}
    assert read_table(file, columns=("age",)).rows[1].values == {"age": "-4.5"}
    assert read_table(file, kinds={"age": "text"}).kinds == {"age": "text"}


@pytest.mark.parametrize("dirty", ["NA", "nan", "inf", "1e99", "1_000", "four"])
def test_a_dirty_value_among_numbers_is_told_with_its_row_and_not_taken_for_text(dirty, tmp_path):
    file = numbers(tmp_path / "n.csv", "3", "4", dirty, "5")
    with pytest.raises(UserError) as caught:
        read_table(file)
    said = f"the column 'age' of {file} holds numbers in 3 of 4 rows, but n.csv, line 4: {dirty!r}"
    assert str(caught.value).startswith(said)
    assert "--kind age=number" in str(caught.value) and "--kind age=text" in str(caught.value)
    with pytest.raises(UserError, match=f"line 4, column age: {dirty!r} is not a finite number"):
        read_table(file, kinds={"age": "number"})
    assert read_table(file, kinds={"age": "text"}).kinds == {"age": "text"}


def test_a_number_that_is_missing_is_told_with_its_row(tmp_path):
    with pytest.raises(UserError, match="line 3, column age: empty"):
        read_table(numbers(tmp_path / "n.csv", "3", "", "4"))


def test_texts_may_hold_a_number_here_and_there(tmp_path):
    assert read_table(numbers(tmp_path / "n.csv", "so", "4", "you", "5")).kinds == {"age": "text"}


def test_a_column_without_a_name_is_explained(tmp_path):
    (tmp_path / "t.csv").write_text(",label,said\n0,x,a\n1,y,b\n")
    with pytest.raises(UserError, match=r"column without a name \(pandas .*index=False"):
        read_table(tmp_path / "t.csv")


def test_bytes_that_are_no_text_are_refused(tmp_path):
    file = tmp_path / "bad.csv"
    file.write_bytes(b"label,a\nx,\xff\xfe\n")
    with pytest.raises(UserError, match="save it as UTF-8"):
        read_table(file)
    (tmp_path / "bad.jsonl").write_text('{"label": 1, "a": "b"}\n[1]\n')
    with pytest.raises(UserError, match=r"bad.jsonl, line 2: not a JSON object"):
        read_table(tmp_path / "bad.jsonl")
    (tmp_path / "bad.parquet").write_bytes(b"PAR0")
    with pytest.raises(UserError, match="cannot read the table"):
        read_table(tmp_path / "bad.parquet")


def test_unknown_suffix_and_missing_table_are_refused(tmp_path):
    with pytest.raises(UserError, match="there is no table"):
        read_table(tmp_path / "x.csv")
    (tmp_path / "x.txt").write_text("label,a\n")
    with pytest.raises(UserError, match=r"suffix is \.txt"):
        read_table(tmp_path / "x.txt")


def test_stated_column_or_kind_that_is_unknown_is_refused(rows):
    folder, listed = rows
    file = write_table(folder / "k.csv", listed)
    with pytest.raises(UserError, match=r"no column 'sund'.*sound"):
        read_table(file, columns=("sund",))
    with pytest.raises(UserError, match="--kind sound=noise is unknown"):
        read_table(file, kinds={"sound": "noise"})
    with pytest.raises(UserError, match="--kind names the column 'x'"):
        read_table(file, kinds={"x": "text"})


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5])
def test_whole_groups_come_as_near_to_the_share_as_they_can(share):
    from mmbench.data.splitting import carve

    groups = [f"speaker{i}" for i in range(60) for _ in range(10)]
    taken = carve(np.tile([0, 1], 300), groups, share, seed=0)
    assert abs(taken.mean() - share) < 0.02
    assert not {g for g, t in zip(groups, taken, strict=True) if t} & {
        g for g, t in zip(groups, taken, strict=True) if not t
    }
