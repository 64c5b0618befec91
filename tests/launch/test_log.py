"""The lines of a cell, told apart in logs of workers that run many."""

import threading

from mmbench.launch.log import Section, sections


def write(folder, name, *lines):
    file = folder / name
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def test_each_attempt_holds_the_lines_up_to_the_next_mark(tmp_path):
    first = write(
        tmp_path, "worker-a.log", "starting", "== a.m.s0.1", "2026-01-01T00:00:00Z begins", "one",
        "== b.m.s0.2", "2026-01-01T00:00:05Z begins", "other", "== a.m.s0.1",
        "2026-01-01T00:00:09Z begins", "three",
    )  # fmt: skip
    second = write(tmp_path, "worker-b.log", "== a.m.s0.1", "2026-01-01T00:00:07Z begins", "two")
    (tmp_path / "worker-c.log").touch()
    found = sections([first, second, tmp_path / "worker-c.log", tmp_path / "none"], "a.m.s0.1")
    assert [s.tail(1)[0] for s in found] == ["one\n", "two\n", "three\n"]
    assert found[0].tail(99)[0] == "2026-01-01T00:00:00Z begins\none\n"
    assert found[0].tail(0)[0] == ""
    assert sections([first], "a.m.s0") == []


def test_an_attempt_without_lines_is_one(tmp_path):
    file = write(tmp_path, "worker-a.log", "== a", "== b", "two")
    assert [s.tail(9)[0] for s in sections([file], "a")] == [""]


def test_the_end_of_a_long_log_is_read_without_the_rest(tmp_path):
    file = write(tmp_path, "worker-a.log", "== a", *map(str, range(200_000)))
    (section,) = sections([file], "a")
    text, end = section.tail(3)
    assert text == "199997\n199998\n199999\n"
    assert end == file.stat().st_size


def test_following_ends_at_the_mark_of_another_cell(tmp_path):
    file = write(tmp_path, "worker-a.log", "== a", "one")
    lines = Section(file, 5, None).follow(file.stat().st_size, lambda: False)
    seen = []
    reader = threading.Thread(target=lambda: seen.extend(lines), daemon=True)
    reader.start()
    with file.open("a") as handle:
        for text in ("tw", "o\nthree\n=", "= b\nfour\n"):
            handle.write(text)
            handle.flush()
    reader.join(timeout=20)
    assert seen == ["two\n", "three\n"]


def test_following_ends_when_the_cell_does_with_its_last_words(tmp_path):
    file = write(tmp_path, "worker-a.log", "== a", "one")
    file.write_text(file.read_text() + "no line end")
    assert list(Section(file, 5, None).follow(9, lambda: True)) == ["no line end"]
