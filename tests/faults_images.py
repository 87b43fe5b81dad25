# ruff: noqa: E501  messages are written whole, a fault a line
"""Images with something wrong, and what is printed of each."""

import io
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import torch
from fault_cases import Fault
from PIL import Image
from torch.utils.data import DataLoader

from contrastive.data.image_dataset import ImageDataset, read_image
from contrastive.data.image_shards import shard_sample, shard_samples
from contrastive.data.images import read_images
from contrastive.pretrain import pretrain

REPAIR = "; repair or remove it, or pass skip_corrupt=true"


def noise(size=8):
    return Image.fromarray(np.random.default_rng(size).integers(0, 256, (size, size, 3), np.uint8))


def png(image=None):
    stream = io.BytesIO()
    (image or noise()).save(stream, "PNG")
    return stream.getvalue()


def damaged(content, name="bad.png"):
    """A folder of images one of which is the one given, read as a training split."""

    def meet(folder):
        for i in range(3):
            (folder / "train").mkdir(exist_ok=True)
            noise().save(folder / "train" / f"{i}.png")
        (folder / "train" / name).write_bytes(content)
        return f"read: {len(read_images(str(folder), 'train'))} images"

    return meet


def claims(width, height):
    """A PNG of 100 bytes that says it is as large."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


def sixteen_bits(folder):
    pixels = np.array([[0, 257, 32768, 65535]] * 4, np.uint16)
    for name in ("a.png", "a.tif", "a.pgm"):
        Image.fromarray(pixels).save(folder / name)
        assert read_image(folder / name, None, 1)[0, 0].tolist() == [0, 1, 128, 255], name
    return "read: 0, 257, 32768 and 65535 become 0, 1, 128 and 255"


def tiff(pixels, photometric):
    """A TIFF of uint8 or uint16 ``(H, W, C)``, one strip, with channels beyond the first or third unnamed."""
    height, width, channels = pixels.shape
    bits, extra = 8 * pixels.itemsize, channels - (3 if photometric == 2 else 1)
    strip = 10 + 10 * 12 + 4  # where pixels begin: after the head and the tags
    ends = strip + pixels.nbytes, strip + pixels.nbytes + 2 * channels
    lists = [bits] * channels, [0] * extra

    def short(tag, values, end):
        if len(values) > 2:
            return struct.pack("<HHII", tag, 3, len(values), end)
        return struct.pack("<HHIHH", tag, 3, len(values), *(*values, 0, 0)[:2])

    tags = [
        short(256, [width], 0),
        short(257, [height], 0),
        short(258, lists[0], ends[0]),
        short(259, [1], 0),
    ]
    tags += [short(262, [photometric], 0), struct.pack("<HHII", 273, 4, 1, strip), short(277, [channels], 0)]
    tags += [short(278, [height], 0), struct.pack("<HHII", 279, 4, 1, pixels.nbytes)]
    tags += [short(338, lists[1], ends[1]) if extra else short(339, [1] * min(channels, 2), 0)]
    words = struct.pack(f"<{channels + extra}H", *lists[0], *lists[1])
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(tags) + bytes(4)
    return head + pixels.tobytes() + words


def white_is_zero(folder):
    (folder / "x.tif").write_bytes(tiff(np.array([[[0], [257], [65535]]], np.uint16), photometric=0))
    return f"read: 0, 257 and 65535 become {read_image(folder / 'x.tif', None, 1)[0, 0].tolist()}"


def four_channels(folder, caplog):
    from contrastive.data import image_decode

    image_decode._say_first_channels.said = False
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 4), np.uint8)
    (folder / "infrared.tif").write_bytes(tiff(pixels, photometric=2))
    image = read_image(folder / "infrared.tif", 8, 3)
    assert (image.permute(1, 2, 0).numpy() == pixels[..., :3]).all()
    (record,) = caplog.records
    return record.message


def floats(folder):
    Image.fromarray(np.random.default_rng(0).random((8, 8), np.float32)).save(folder / "f.tif")
    read_image(folder / "f.tif", 8, 3)


def cmyk(folder):
    ink = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    ink.save(folder / "cyan.tif")
    return f"read: full cyan becomes {read_image(folder / 'cyan.tif', 8, 3)[:, 0, 0].tolist()}"


def animated(folder, caplog):
    from contrastive.data import image_decode

    image_decode._say_first_frame.said = False
    frames = [Image.new("RGB", (8, 8), (level, level, level)) for level in (10, 100, 200)]
    for name in ("a.gif", "b.webp", "c.png", "d.tif"):
        frames[0].save(folder / name, save_all=True, append_images=frames[1:], **LOSSLESS.get(name, {}))
        assert (read_image(folder / name, 8, 3) == 10).all(), name
    (record,) = caplog.records  # for four files
    return record.message


LOSSLESS = {"b.webp": {"lossless": True}}


def gone(folder):
    (folder / "train").mkdir()
    for i in range(3):
        noise().save(folder / "train" / f"{i}.png")
    paths = sorted((folder / "train").iterdir())
    images = ImageDataset(paths, None, [], image_size=8, channels=3)
    paths[1].unlink()
    images.__getitems__([0, 1])


def in_a_worker(folder):
    paths = [folder / "bad.png"]
    paths[0].write_bytes(b"not an image")
    images = ImageDataset(paths, None, [], image_size=8, channels=3)
    list(DataLoader(images, num_workers=1, collate_fn=list))


def skipped(folder, caplog):
    damaged(b"", "bad.png")
    for i in range(3):
        (folder / "train").mkdir(exist_ok=True)
        noise().save(folder / "train" / f"{i}.png")
    (folder / "train" / "3.png").write_bytes(b"")
    assert len(read_images(str(folder), "train", skip_corrupt=True)) == 3
    return "; ".join(record.message for record in caplog.records)


def unreadable(folder):
    for i in range(2):
        (folder / f"{i}.png").write_bytes(b"")
    read_images(str(folder), "train")


def shard(folder, content, cut=None):
    with tarfile.open(folder / "a.tar", "w") as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    whole = (folder / "a.tar").read_bytes()
    (folder / "a.tar").write_bytes(whole[:cut])
    return [shard_sample(sample).decoded(3) for sample in shard_samples([str(folder / "a.tar")])]


def escaping_shard(folder):
    images = shard(folder, {"../../evil.png": png(), "/tmp/evil.png": png()})
    assert not [path for path in (folder.parent / "evil.png", Path("/tmp/evil.png")) if path.exists()]
    return f"read: {len(images)} images, in memory; nothing is unpacked"


def listed(content):
    def meet(folder):
        noise().save(folder / "a.png")
        (folder / "list.csv").write_bytes(content)
        read_images(str(folder / "list.csv"), "train")

    return meet


def numbered(labels):
    def meet(folder):
        images = np.zeros((len(labels), 8, 8), np.uint8)
        np.savez(folder / "i.npz", train_images=images, train_labels=np.array(labels))
        read_images(str(folder / "i.npz"), "train")

    return meet


def strip(folder):
    Image.fromarray(np.full((2, 200_000), 7, np.uint8)).save(folder / "line.png")
    image = read_image(folder / "line.png", 32, 1)
    assert torch.equal(image, torch.full((1, 32, 32), 7, dtype=torch.uint8))
    return "read: the middle, 32 by 32 pixels"


def recipe(name, source=None):
    """A recipe that is given images of other channels than it takes."""

    def meet(folder):
        (folder / "pets").mkdir()
        for i in range(20):
            noise().save(folder / "pets" / f"{i}.png")
        options = {"data.init_args.source": source or folder / "pets", "data.init_args.batch_size": 8}
        options |= {"run_dir": folder / "run", "wandb": "off", "model.encoder.init_args.width": 8}
        options |= {"trainer.accelerator": "cpu", "trainer.enable_progress_bar": "false"}
        pretrain(["--config", f"configs/image/{name}.yaml", *(f"--{k}={v}" for k, v in options.items())])

    return meet


BAD = "…/train/bad.png is not a readable image"
NONE_OF = "it is none of JPEG, PNG, TIFF, WEBP, BMP, GIF, PPM, JPEG2000, or its head is damaged"
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
TAR = "…/a.tar cannot be read as a tar"

FAULTS = [
    Fault("an image that is something else", damaged(b"not an image"), f"{BAD} ({NONE_OF}){REPAIR}"),
    Fault("a truncated image", damaged(png()[:90]), f"{BAD} (image file is truncated){REPAIR}"),
    Fault("an image of no bytes", damaged(b""), f"{BAD} (it is empty){REPAIR}"),
    Fault("a small file that says it is 60,000 by 60,000 pixels", damaged(claims(60_000, 60_000)),
          f"{BAD} (more than the 178,956,970 pixels that are decoded, as of a file made to fill the memory){REPAIR}"),
    Fault("PostScript named .jpg", damaged(POSTSCRIPT, "bad.jpg"), f"…/train/bad.jpg is not a readable image ({NONE_OF}){REPAIR}"),
    Fault("an image of 16 bits a pixel", sixteen_bits, "read: 0, 257, 32768 and 65535 become 0, 1, 128 and 255"),
    Fault("a TIFF of 16 bits in which white is 0", white_is_zero, "read: 0, 257 and 65535 become [255, 254, 0]"),
    Fault("a TIFF of four channels none of which is called transparency", four_channels, "…/infrared.tif has 4 channels, of which only the first 3 can be read (said once)"),
    Fault("a TIFF of five channels", damaged(tiff(np.zeros((8, 8, 5), np.uint8), photometric=1), "bad.tif"), f"…/train/bad.tif is not a readable image (a TIFF whose head is damaged, or of other channels or numbers than are read: save it grey or RGB, of 8 or 16 bits){REPAIR}"),
    Fault("an image of 32-bit floats", floats, f"…/f.tif is not a readable image (its pixels are 32-bit floats of no known range; save them with 8 or 16 bits){REPAIR}"),
    Fault("an image of printing inks, CMYK", cmyk, "read: full cyan becomes [0, 255, 255]"),
    Fault("an animated image", animated, "…/a.gif has several frames; of such images the first is taken (said once)"),
    Fault("a line of 2 by 200,000 pixels", strip, "read: the middle, 32 by 32 pixels"),
    Fault("an image that is removed while its folder is read", gone, f"…/train/1.png is not a readable image (there is no such file, or it is a broken link){REPAIR}"),
    Fault("an image that fails in a worker", in_a_worker, f"…/bad.png is not a readable image ({NONE_OF}){REPAIR}"),
    Fault("a corrupt image, with skip_corrupt=true", skipped, f"skipped: …/train/3.png is not a readable image (it is empty){REPAIR}; skipped 1 of 4 images that do not decode"),
    Fault("a folder none of whose images opens", unreadable, "none of the 2 images can be opened; the first: …/0.png is not a readable image (it is empty)"),
    Fault("a tar shard that is cut within a file", lambda f: shard(f, {"0.png": png()}, 600), f"{TAR}: it is cut short, it ends without the 1024 zeros; copy or write it again", "webdataset"),
    Fault("a tar shard that is cut between two files", lambda f: shard(f, {"0.png": b"0", "1.png": b"1"}, 1024), f"{TAR}: it is cut short, it ends without the 1024 zeros; copy or write it again", "webdataset"),
    Fault("a tar shard with a damaged image", lambda f: shard(f, {"0.png": png()[:90]}), f"0.png of …/a.tar is not a readable image (image file is truncated){REPAIR}", "webdataset"),
    Fault("a tar shard without images", lambda f: shard(f, {"0.txt": b"x"}), "0 of …/a.tar has no image; its files are txt", "webdataset"),
    Fault("a tar shard whose files are named ../../evil.png and /tmp/evil.png", escaping_shard, "read: 2 images, in memory; nothing is unpacked", "webdataset"),
    Fault("a CSV list without the column path", listed(b"file,label\na.png,cat\n"), "…/list.csv has no column path; its columns are file, label"),
    Fault("a CSV list in Latin-1", listed("path,label\na.png,caf\xe9\n".encode("latin-1")), "…/list.csv is not UTF-8 (byte 20); save it as UTF-8"),
    Fault("a CSV list with NaN as a label", listed(b"path,label\na.png,nan\n"), "…/list.csv, line 2: label is nan; leave it empty where the class is not known"),
    Fault("a CSV list of an image that is not there", listed(b"path\nb.png\n"), "…/list.csv, line 2: there is no image …/b.png"),
    Fault("the recipe of digits, which are grey, on a folder of colour images", recipe("simclr_digits"), "the images of …/pets are read with 3 channel(s), but the model takes 1 (encoder, views, preprocess): pass --data.init_args.channels 1 to convert them, or set in_channels of the encoder, and mean and std of the views and of preprocess, for 3"),
    Fault("a recipe of colour images on grey ones", recipe("simclr_cifar10", "digits"), "the images of digits are read with 1 channel(s), but the model takes 3 (encoder, views, preprocess): pass --data.init_args.channels 3 to convert them, or set in_channels of the encoder, and mean and std of the views and of preprocess, for 1"),
    Fault("an .npz with a label that is no class", numbered([0, 10**12]), "…/i.npz: the label in row 1 is 1000000000000; number classes from 0"),
]  # fmt: skip
