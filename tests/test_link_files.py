"""Reading links: which files and columns, and what is said of those that do not fit."""

import gzip

import pytest

from contrastive.data.link_files import read_links
from contrastive.data.links import decagon_files
from contrastive.errors import ContrastiveError


def test_the_contract_is_read_once_a_link(tmp_path):
    file = tmp_path / "links.csv.gz"
    file.write_bytes(gzip.compress(b"relation,tail,head\nlikes,b,a\nlikes,b,a\nlikes,a,b\nknows,c,a\n"))
    links, context = read_links(file)
    assert links.nodes == ["a", "b", "c"] and links.relations == ["likes", "knows"]
    assert links.triples.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 2]]
    assert len(context.triples) == 0
    both, _ = read_links(file, undirected=True)
    assert both.triples.tolist() == [[0, 0, 1], [0, 1, 2]]


def test_the_columns_of_decagon_are_known(tmp_path):
    (tmp_path / "bio-decagon-combo.csv").write_text(
        "STITCH 1,STITCH 2,Polypharmacy Side Effect,Side Effect Name\n"
        "CID2,CID1,C01,nausea\nCID1,CID2,C02,fever\nCID1,CID3,C01,nausea\n"
    )
    (tmp_path / "bio-decagon-ppi.csv").write_text("Gene 1,Gene 2\n7,8\n")
    (tmp_path / "bio-decagon-targets.csv").write_text("STITCH,Gene\nCID1,7\n")
    sources, context = decagon_files(str(tmp_path), None)
    links, known = read_links(sources, context=context)
    assert links.titles == ["nausea", "fever"] and links.undirected.all()
    assert links.node_types == ["drug", "protein"] and links.node_type.tolist() == [0, 0, 0, 1, 1]
    assert known.relations == ["protein-protein", "target"] and known.undirected.tolist() == [True, False]
    assert links.pools[0][0].tolist() == [0, 1, 2]


def test_ratings_are_links_between_two_types(tmp_path):
    file = tmp_path / "ratings.csv"
    file.write_text("userId,movieId,rating\n1,1,5\n1,2,2\n2,1,4.5\n")
    columns = {"head": "userId", "tail": "movieId", "value": "rating"}
    links, _ = read_links(file, columns=columns, types=["user", "item"], min_value=4)
    assert links.nodes == ["1", "1", "2"] and links.node_type.tolist() == [0, 1, 0]
    assert links.triples.tolist() == [[0, 0, 1], [2, 0, 1]]


def test_a_context_without_types_beside_links_that_have_them_is_told_of(tmp_path, caplog):
    texts = {
        "links.csv": "head,tail\n1,2\n2,3\n",
        "friends.csv": "head,tail\n1,2\n",
        "typed.csv": "head,tail,head_type,tail_type\n1,2,user,user\n",
        "towns.csv": "head,tail,head_type\n1,Bonn,user\n",
    }
    links, friends, typed, towns = (tmp_path / name for name in texts)
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    read_links(links, context=[typed, towns], types=["user", "item"])
    read_links(links, context=[friends])
    assert not caplog.text
    read_links(links, context=[friends], types=["user", "item"])
    assert "friends.csv: none of its nodes is one of the links to predict, which are of type" in caplog.text


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b\n1,2\n", {}, "no column head"),
        ("head,relation,tail\na,r\n", {}, "line 2: 2 columns"),
        ("head,relation,tail\na,r,b\na,,b\n", {}, "line 3: a blank"),
        ("head,relation,tail\na,r,a\n", {"undirected": True}, "line 2: a is linked to itself"),
        ("head,tail,value\na,b,much\n", {"min_value": 1}, "line 2: the value is 'much'"),
        ("head,tail\na,b\n", {"min_value": 1}, "needs a column of values"),
        ("head,tail,value\na,b,nan\n", {"min_value": 1}, "line 2: the value is 'nan', expected a number"),
        ("head,relation,tail\na,r,b,\na,b,r,c\n", {}, "line 3: 4 columns, expected 3"),
        ("head,relation,tail\n", {}, "there is no link"),
        ("head,relation,tail\na,r,b\n", {"types": ["x"]}, "types has 1 names"),
        ("head,tail\na,b\n", {"columns": {"head_type": "kind"}}, "has no column kind"),
        (
            "head,tail\na,b\n",
            {"columns": {"heads": "head"}},
            "columns names heads, expected some of head",
        ),
        ("head,tail,value,value\na,b,1,2\n", {"min_value": 1}, "has the column value more than once"),
        ("head,relation,tail,title,title\na,r,b,c,d\n", {}, "has the column title more than once"),
        ("head,tail,head_type\na,b,\n", {}, "line 2: a blank"),
        (
            'head,tail\na,b\n"c,d\ne,f\n',
            {},
            "links.csv, line 4: unexpected end of data; a field that begins with",
        ),
        ('head,tail\n"Weird Al" Yankovic,b\n', {}, "links.csv, line 2: ',' expected after"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, options, message):
    file = tmp_path / "links.csv"
    file.write_text(text)
    with pytest.raises(ContrastiveError, match=message):
        read_links(file, **options)


def test_columns_that_are_not_used_may_be_there_twice_or_be_cut_off(tmp_path):
    file = tmp_path / "links.csv"
    file.write_text("head,tail,value,value,title,title\na,b,1,2,c,d\nb,c\n")
    links, _ = read_links(file)
    assert links.triples.tolist() == [[0, 0, 1], [1, 0, 2]] and links.titles == ["link"]


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "broken.csv.gz").write_bytes(gzip.compress(b"head,tail\na,b\n" * 100)[:-20])
    for name, message in (
        ("absent.csv", "cannot be read"),
        ("links.parquet", "expected a .csv"),
        ("broken.csv.gz", "broken.csv.gz cannot be read"),
    ):
        with pytest.raises(ContrastiveError, match=message):
            read_links(tmp_path / name)


def test_spaces_around_a_type_are_none_of_its(tmp_path):
    (tmp_path / "links.csv").write_text("head, tail, head_type\na, b, drug\nc, b,drug\n")
    assert read_links(tmp_path / "links.csv")[0].node_types == ["drug", "node"]
