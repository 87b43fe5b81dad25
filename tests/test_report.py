"""Pictures, as a notebook has them drawn, and files that are written whole or not at all."""

import matplotlib
import pytest

from contrastive.errors import ContrastiveError
from contrastive.report import plot_label_efficiency, whole_folder, write_whole


def test_a_file_whose_name_is_not_utf8_is_named_where_it_cannot_be_written(tmp_path):
    name = b"caf\xe9.jpg".decode(errors="surrogateescape")  # as Python has it of the file system
    with pytest.raises(
        ContrastiveError, match=r"table.csv: the name with 'caf\\udce9.jpg' is no utf-8; rename"
    ):
        write_whole(tmp_path / "table.csv", lambda part: part.write_text(name, encoding="utf-8"))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_written_whole_leaves_what_lies_beside_it(tmp_path):
    kept = tmp_path / "encoder.part" / "mine.txt"
    kept.parent.mkdir()
    kept.write_text("a user's own")
    with whole_folder(tmp_path / "encoder") as part:
        (part / "a").write_text("b")
    assert kept.exists() and sorted(p.name for p in tmp_path.iterdir()) == ["encoder", "encoder.part"]


def test_a_picture_leaves_the_callers_backend_as_it_is(tmp_path):
    before = matplotlib.get_backend()
    matplotlib.use("svg")
    try:
        points = [(1.0, 0.5, 0.4, 0.6), (5.0, 0.7, 0.6, 0.8)]
        plot_label_efficiency({"a": points}, {1: "1", 5: "5"}, tmp_path / "a.png")
        assert matplotlib.get_backend() == "svg" and (tmp_path / "a.png").stat().st_size > 1000
    finally:
        matplotlib.use(before)
