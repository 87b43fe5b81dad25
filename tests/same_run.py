"""Whether a resumed run is the run that nothing ended, to the bit."""

import torch


def last(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def assert_same(a, b, where=""):
    """Equal to the bit, through dictionaries and lists."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b)):
            assert_same(x, y, f"{where}/{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def steps(folder, rank):
    """The last line of each step: a step that was taken again after a resume has two, equal ones."""
    lines = (folder / f"losses-{rank}").read_text().splitlines()
    by_step = {}
    for line in lines:
        number = line.split()[0]
        assert by_step.setdefault(number, line) == line, "a step taken again differs"
    return [by_step[key] for key in sorted(by_step, key=int)]


def assert_same_run(folder, whole, world_size=1):
    for rank in range(world_size):
        assert steps(folder, rank) == steps(whole, rank)
    assert (folder / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    resumed, expected = last(folder), last(whole)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
        assert_same(resumed[part], expected[part], part)
    assert resumed["global_step"] == 18
