"""The page of all results: every plain table once, other kinds folded, figures in place."""

from mmbench.report.build import report


def test_page_shows_every_plain_table_and_figure(template, make, tmp_path):
    folder = tmp_path / "results" / "records"
    folder.mkdir(parents=True)
    for dataset in ("one", "two"):
        for i, (method, fidelity) in enumerate(
            [("concat", "corrected"), ("sum", "corrected"), ("iprm", "corrected"),
             ("iprm", "released")]
        ):  # fmt: skip
            record = make(template, method, 0, 0.5 + i / 10, dataset=dataset, fidelity=fidelity)
            (folder / f"{dataset}-{i}.json").write_text(record.model_dump_json(exclude_none=True))
    page = tmp_path / "docs" / "results.md"
    built = report(tmp_path / "results", ["naive"], "records", document=page)
    assert page in built.files
    text = page.read_text()
    assert text.count("### Naive fusion and IPRM: one\n") == 1
    assert "released fidelity\n" not in text
    assert "](../results/figures/naive-forest.svg)" in text
    assert (page.parent / "../results/figures/naive-forest.svg").exists()
    assert "<details><summary>Wins, ties and losses</summary>\n\n###" in text
    for line in (tmp_path / "results" / "tables" / "naive-wins.md").read_text().splitlines():
        assert line in text
