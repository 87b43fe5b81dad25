"""``FeatureExtractor``: scikit-learn's conventions, and every kind of input against the encoder itself."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import SkipTestWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks
from sklearn.utils.validation import check_is_fitted
from torch import nn

import contrastive
from contrastive import FeatureExtractor
from contrastive.data.images import read_images
from contrastive.errors import ContrastiveError
from contrastive.features import FrozenEncoder
from contrastive.items import encode_items
from encoders.graph import GraphEncoder, NodeEncoder
from encoders.graph_batch import GraphBatch
from encoders.image import SmallCNN

SMILES = ["CCO", "c1ccccc1", "CC(=O)O", "C1CCNCC1", "CN"]


@pytest.fixture(scope="module")
def digits():
    return read_images("digits", "test")


def graph_encoder(cls=GraphEncoder, **arguments):
    torch.manual_seed(0)
    return FrozenEncoder(cls(num_hidden=8, num_layers=2, **arguments), nn.Identity())


# those of scikit-learn's checks that need no array of any numbers, which are no images
CHECKS = [
    estimator_checks.check_estimator_cloneable,
    estimator_checks.check_estimator_tags_renamed,
    estimator_checks.check_valid_tag_types,
    estimator_checks.check_estimator_repr,
    estimator_checks.check_no_attributes_set_in_init,
    estimator_checks.check_get_params_invariance,
    estimator_checks.check_set_params,
    estimator_checks.check_parameters_default_constructible,
    estimator_checks.check_mixin_order,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_scikit_learns_checks(check, digits_run):
    check("FeatureExtractor", FeatureExtractor(str(digits_run)))


def test_check_estimator_knows_what_does_not_apply(digits_run):
    """The rest feeds rows of random numbers; the tags say that they are no input, and it leaves them out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipTestWarning)
        estimator_checks.check_estimator(FeatureExtractor(str(digits_run)))


def test_the_checks_that_are_left_out_hold_for_images(digits_run, digits):
    x = digits.images[:24].numpy()
    extractor, before = FeatureExtractor(str(digits_run), batch_size=7), x.copy()
    h = extractor.transform(x)  # without fit
    np.testing.assert_allclose(h, contrastive.load_encoder(digits_run)(digits.images[:24]), atol=1e-5)
    assert h.dtype == np.float32 and np.array_equal(x, before)  # the input is not changed
    assert extractor.fit(x, digits.labels[:24]) is extractor and check_is_fitted(extractor) is None
    np.testing.assert_array_equal(extractor.fit_transform(x), h)
    np.testing.assert_allclose(
        np.vstack([extractor.transform(x[i : i + 1]) for i in range(24)]), h, atol=1e-5
    )
    np.testing.assert_allclose(extractor.transform(x[::-1]), h[::-1], atol=1e-5)  # order does not matter
    copy = pickle.loads(pickle.dumps(extractor))
    assert "_opened" in vars(extractor) and "_opened" not in vars(copy)  # a path travels, not the weights
    np.testing.assert_array_equal(copy.transform(x), h)
    np.testing.assert_array_equal(clone(extractor).set_params(batch_size=5).transform(x[:5]), h[:5])
    names = extractor.get_feature_names_out()
    assert len(names) == h.shape[1] and names[0] == "featureextractor0"
    pytest.importorskip("pandas")
    frame = extractor.set_output(transform="pandas").transform(x)
    assert list(frame.columns) == list(names) and np.array_equal(frame.to_numpy(), h)


def test_every_form_of_an_image_is_the_same_image(digits_run, digits, tmp_path):
    x = digits.images[:4]
    extractor = FeatureExtractor(digits_run)
    h = extractor.transform(x)
    pixels = [np.ascontiguousarray(image[0]) for image in x.numpy()]
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    forms = {
        "(N, H, W)": x[:, 0].numpy(),
        "(N, H, W, 1)": x.permute(0, 2, 3, 1).numpy(),
        "(N, H, W, 3)": x.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy(),
        "rows": x.flatten(1).numpy(),
        "floats": x.numpy() / 255,
        "integers": x.numpy().astype(np.int64),
        "unsigned integers": x.numpy().astype(np.uint16),
        "a tensor of uint16": x.to(torch.uint16),
        "PIL": [Image.fromarray(image) for image in pixels],
        "colour PIL": [Image.fromarray(image).convert("RGB") for image in pixels],
        "paths": paths,
        "texts": np.array([str(path) for path in paths]),
        "mixed": [paths[0], Image.fromarray(pixels[1]), pixels[2], x[3].numpy() / 255],
    }
    for name, form in forms.items():
        np.testing.assert_allclose(extractor.transform(form), h, atol=2e-4, err_msg=name)
    larger = [Image.fromarray(image).resize((16, 16), Image.Resampling.NEAREST) for image in pixels]
    assert np.abs(extractor.transform(larger) - h).max() < 0.5 * np.abs(h).max()  # resized to 8 × 8


def test_a_table_of_pixels_is_its_rows(digits_run, digits):
    pandas = pytest.importorskip("pandas")
    rows = digits.images[:4].flatten(1).numpy()
    extractor = FeatureExtractor(digits_run)
    assert np.array_equal(extractor.transform(pandas.DataFrame(rows)), extractor.transform(rows))


def test_true_is_white(digits_run, digits):
    x, extractor = digits.images[:4, 0].numpy() > 127, FeatureExtractor(digits_run)
    pictures = [Image.fromarray(image).convert("1") for image in x]
    np.testing.assert_allclose(extractor.transform(x), extractor.transform(pictures), atol=1e-5)


def test_an_encoder_that_is_trained_is_left_as_it_is(digits_run, digits):
    encoder = contrastive.load_encoder(digits_run)
    h = FeatureExtractor(encoder).transform(digits.images[:4])
    encoder.requires_grad_(True).train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    assert np.array_equal(FeatureExtractor(encoder).transform(digits.images[:4]), h)
    assert np.array_equal(encode_items(encoder, digits.subset(np.arange(4))), h)
    assert encoder.training and encoder.encoder.training
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize(
    "x,message",
    [
        (np.zeros((8, 8, 3), np.uint8), "one image in colour is given as X"),
        ([], "nothing to encode"),
        ("a.png", "not one str: give a list"),
        (["/nowhere.png"], "/nowhere.png is not a readable image"),
        (np.full((2, 8, 8), np.nan), "from nan to nan; expected floats from 0 to 1"),
        (np.full((2, 8, 8), 16.0), "from 16 to 16; expected floats from 0 to 1"),
        (np.full((2, 8, 8), -1), "from -1 to -1"),
        (np.full((2, 8, 8), 300, np.uint16), "pixels of uint16 from 300 to 300"),
        (np.zeros((2, 5)), r"shape \(2, 5\); expected .* or \(N, 64\) rows of pixels"),
        (np.zeros((2, 4, 8, 8)), "for an encoder of 1 channel"),
        ([3.5], "not float"),
    ],
)
def test_what_is_no_image_is_named(digits_run, x, message):
    with pytest.raises(ContrastiveError, match=message):
        FeatureExtractor(digits_run).transform(x)


def test_in_a_pipeline_and_a_grid_search(digits_run, digits):
    """The search also chooses between two encoders, by cross-validation."""
    x, y = digits.images[:300].numpy(), digits.labels[:300].numpy()
    pipeline = make_pipeline(FeatureExtractor(digits_run), LogisticRegression(max_iter=200))
    blind = SmallCNN(in_channels=1, width=4)
    nn.init.zeros_(next(blind.parameters()))
    config = {"data": {"init_args": {"image_size": 8, "channels": 1}}}
    others = [FrozenEncoder(blind, nn.Flatten(0, 0), config), str(digits_run)]
    others[0].preprocess = contrastive.load_encoder(digits_run).preprocess
    grid = {"featureextractor__path": others, "logisticregression__C": [0.01, 1.0]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(x, y)
    assert search.best_params_["featureextractor__path"] == str(digits_run) and search.best_score_ > 0.75
    h = FeatureExtractor(digits_run).transform(x)
    c = search.best_params_["logisticregression__C"]
    expected = cross_val_score(LogisticRegression(C=c, max_iter=200), h, y, cv=3).mean()
    assert abs(search.best_score_ - expected) < 0.01


def test_molecules_and_graphs():
    pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")
    encoder = graph_encoder(node_features="atoms")
    extractor = FeatureExtractor(encoder, batch_size=2)
    batch = GraphBatch.from_smiles(SMILES)
    h = encoder(batch).numpy()
    for form in (SMILES, np.array(SMILES), np.array(SMILES, dtype=object), list(batch), batch):
        np.testing.assert_allclose(extractor.transform(form), h, atol=1e-5)
    with pytest.raises(ContrastiveError, match="item 3, 'nonsense', is no SMILES"):
        extractor.transform([*SMILES[:3], "nonsense"])
    with pytest.raises(ContrastiveError, match="item 3, '', has no atoms"):
        extractor.transform([*SMILES[:3], ""])


def test_molecules_of_other_numbers_are_refused():
    """PyG's from_smiles describes atoms by the same nine properties, whose categories it counts otherwise."""
    pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")
    pytest.importorskip("torch_geometric")
    from torch_geometric.utils import from_smiles

    encoder = graph_encoder(node_features="atoms")
    encoder.config = {"data": {"class_path": "contrastive.data.molecules.MoleculeData"}}
    extractor = FeatureExtractor(encoder)
    with pytest.raises(ContrastiveError, match="other degrees than there are bonds.*give SMILES"):
        extractor.transform([from_smiles(name) for name in SMILES])
    ours = [GraphBatch.from_smiles(name).to_pyg() for name in SMILES]
    np.testing.assert_allclose(extractor.transform(ours), extractor.transform(SMILES), atol=1e-5)


def test_graphs_of_other_libraries():
    encoder = graph_encoder(node_features=3)
    extractor = FeatureExtractor(encoder, batch_size=2)
    torch.manual_seed(1)
    graphs = [
        GraphBatch.from_edges([(0, 1), (1, 2)][:n], torch.randn(3, 3), undirected=True) for n in (1, 2, 2)
    ]
    batch = GraphBatch.concatenate(graphs)
    h = encoder(batch).numpy()
    np.testing.assert_allclose(extractor.transform(graphs), h, atol=1e-5)
    dgl = pytest.importorskip("dgl")
    theirs = [GraphBatch.to_dgl(graph) for graph in graphs]
    for form in (theirs, dgl.batch(theirs)):
        np.testing.assert_allclose(extractor.transform(form), h, atol=1e-5)
    np.testing.assert_allclose(extractor.transform(theirs[0]), h[:1], atol=1e-5)
    pyg = pytest.importorskip("torch_geometric")
    data = [
        pyg.data.Data(x=graph.x, edge_index=torch.stack([graph.src, graph.dst]), num_nodes=3)
        for graph in graphs
    ]
    for form in (data, pyg.data.Batch.from_data_list(data)):
        np.testing.assert_allclose(extractor.transform(form), h, atol=1e-5)
    with pytest.raises(ContrastiveError, match="expected a list of DGLGraphs"):
        extractor.transform([1, 2])


def test_the_rows_of_a_node_encoder_are_nodes():
    encoder = graph_encoder(NodeEncoder, node_features=2, layer="gcn")
    graph = GraphBatch.from_edges([(0, 1), (1, 2)], torch.randn(3, 2), undirected=True)
    np.testing.assert_allclose(FeatureExtractor(encoder).transform(graph), encoder(graph), atol=1e-6)
