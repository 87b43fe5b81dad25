"""Pictures, as a notebook has them drawn."""

import matplotlib

from contrastive.report import plot_label_efficiency


def test_a_picture_leaves_the_callers_backend_as_it_is(tmp_path):
    before = matplotlib.get_backend()
    matplotlib.use("svg")
    try:
        points = [(1.0, 0.5, 0.4, 0.6), (5.0, 0.7, 0.6, 0.8)]
        plot_label_efficiency({"a": points}, {1: "1", 5: "5"}, tmp_path / "a.png")
        assert matplotlib.get_backend() == "svg" and (tmp_path / "a.png").stat().st_size > 1000
    finally:
        matplotlib.use(before)
