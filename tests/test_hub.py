"""The Hugging Face Hub: its client against a folder, and against a server here that answers as it does."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

import contrastive
from contrastive.cli import main
from contrastive.data.images import read_images
from contrastive.errors import ContrastiveError
from contrastive.evaluation.runs import results_folder

pytest.importorskip("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def images():
    return read_images("digits", "test").images[:5]


@pytest.fixture(scope="module")
def folder(digits_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "weights"
    assert main(["export", str(digits_run), "--output", str(folder)]) == 0
    return folder


def test_what_is_saved_is_an_export_and_opens_again(digits_run, folder, images, tmp_path):
    from contrastive.hub import HubEncoder

    expected = contrastive.load_encoder(digits_run)(images)
    HubEncoder.from_pretrained(digits_run).save_pretrained(tmp_path / "saved")
    for name in ("model.safetensors", "config.json", "README.md", "SHA256SUMS"):
        assert (tmp_path / "saved" / name).read_bytes() == (folder / name).read_bytes(), name
    for path in (folder, tmp_path / "saved"):
        assert torch.equal(HubEncoder.from_pretrained(path)(images), expected)
        assert torch.equal(contrastive.load_encoder(path)(images), expected)
    (tmp_path / "saved" / "README.md").write_text("my own card")
    HubEncoder.from_pretrained(folder).save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "README.md").read_text() == "my own card"


@pytest.fixture
def hub(tmp_path):
    """Serve the folders ``OWNER/NAME`` under ``hub.root`` as the Hub serves repositories to download."""
    root = tmp_path / "repositories"

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            self.wfile.write(self.answer())

        def answer(self):
            parts = self.path.split("?")[0].strip("/").split("/")
            asked.append("/".join(parts))
            status, body, headers = 200, b"{}", {}
            folder = root.joinpath(*(parts[2:4] if parts[:2] == ["api", "models"] else parts[:2]))
            if not folder.is_dir():
                status, headers = 404, {"X-Error-Code": "RepoNotFound"}
            elif parts[0] != "api":
                body = (folder / parts[4]).read_bytes()
                headers = {"ETag": hashlib.sha256(body).hexdigest(), "X-Repo-Commit": COMMIT}
            elif parts[4] == "tree":
                kind = {"type": "file", "oid": COMMIT}
                files = [
                    {"path": file.name, "size": file.stat().st_size, **kind} for file in folder.iterdir()
                ]
                body = json.dumps(files).encode()
            else:
                listed = [{"rfilename": file.name} for file in folder.iterdir()]
                body = json.dumps({"id": folder.name, "sha": COMMIT, "siblings": listed}).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            return body

        def log_message(self, *_):
            pass

    asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    Thread(target=server.serve_forever, daemon=True).start()
    server.root, server.asked = root, asked
    yield server
    server.shutdown()


CODE = """
import sys, contrastive, torch
results = []
for name in sys.argv[2:]:
    try:
        results.append(contrastive.load_encoder(name)(torch.load(sys.argv[1])))
    except contrastive.errors.ContrastiveError as error:
        results.append(str(error))
torch.save(results, sys.argv[1])
"""


def opened(hub, images, tmp_path, *names):
    """What encoders compute that are opened in a process whose Hub is ours, or the error."""
    torch.save(images, tmp_path / "exchange.pt")
    place = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path / "home")}
    subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "exchange.pt"), *names],
        env={**os.environ, **place, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"},
        check=True,
        timeout=600,
    )
    return torch.load(tmp_path / "exchange.pt")


def test_a_hub_id_opens_and_nothing_is_fetched_but_safetensors(hub, folder, images, tmp_path):
    repository = shutil.copytree(folder, hub.root / "me" / "digits")
    pickled = hub.root / "me" / "pickled"
    pickled.mkdir()
    shutil.copy(folder / "config.json", pickled)
    for file in (repository / "pytorch_model.bin", pickled / "pytorch_model.bin", pickled / "last.ckpt"):
        file.write_bytes(pickle.dumps("code"))
    names = ("hf://me/digits", "hf://me/digits@v1", "hf://me/pickled", "hf://me/nothing")
    latest, revision, refused, absent = opened(hub, images, tmp_path, *names)
    assert torch.equal(revision, latest)
    # the other process may have another number of threads, and sums in another order then
    torch.testing.assert_close(latest, contrastive.load_encoder(folder)(images), rtol=1e-5, atol=1e-5)
    assert "hf://me/pickled holds no model.safetensors" in refused and ".bin and .ckpt" in refused
    assert absent.startswith("cannot fetch hf://me/nothing")
    fetched = {path.split("/")[-1] for path in hub.asked if "resolve" in path}
    assert fetched == {"model.safetensors", "config.json", "SHA256SUMS"}
    assert any(path.endswith("revision/v1") for path in hub.asked)


@pytest.mark.parametrize("name", ["hf://", "hf://digits", "hf://me/digits/more", "hf://../.."])
def test_a_name_of_another_form_is_refused(name):
    with pytest.raises(ContrastiveError, match=r"not of the form hf://OWNER/NAME|cannot fetch"):
        contrastive.load_encoder(name)


def test_a_result_of_a_hub_encoder_has_no_folder_of_its_own():
    with pytest.raises(ContrastiveError, match="give --output"):
        results_folder(Path("hf://me/digits"))


def test_a_missing_client_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules, "contrastive.hub", raising=False)
    with pytest.raises(ContrastiveError, match=r"pip install 'contrastive-pretraining\[hub\]'"):
        contrastive.load_encoder("hf://me/digits")
