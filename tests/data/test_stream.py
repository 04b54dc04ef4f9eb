"""The order of images, and batches of their views that workers make."""

import io
import multiprocessing
import os
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

import make_small_data
from identity_mappings.data import colour, crops, decode
from identity_mappings.data.prepare import prepare
from identity_mappings.data.sampling import Order, Sampler
from identity_mappings.data.shards import Shards
from identity_mappings.data.stream import Stream, mean_image, run_in_workers
from identity_mappings.errors import UserError
from small_imagenet import open_photographs

CROP = 28
PHOTOGRAPHS = open_photographs()


def jpeg(number):
    """A piece of a photograph, in one of several sizes; the third of ten is grey."""
    g = np.random.default_rng(number)
    width, height = g.integers(40, 70, 2).tolist()
    left, top = g.integers(400), g.integers(300)
    piece = PHOTOGRAPHS[number % 2].crop((left, top, left + width, top + height))
    content = io.BytesIO()
    (piece.convert("L") if number % 10 == 2 else piece).save(content, "JPEG", quality=90)
    return content.getvalue()


JPEGS = [jpeg(number) for number in range(60)]


class Fake:
    """In memory, with what is used of data.shards.Shards: 60 images in 6 shards."""

    def __init__(self, contents=JPEGS):
        self.contents, self.needed = contents, []
        self.labels = torch.arange(len(contents)) % 7
        self.shard_of = np.arange(len(contents), dtype=np.int32) // 10

    def __len__(self):
        return len(self.contents)

    def jpeg(self, index):
        return self.contents[index]

    def name(self, index):
        return f"training-0000.tar: n0_{index}.JPEG"

    def will_need(self, shard):
        self.needed.append(shard)


class Suicidal(Fake):
    def jpeg(self, index):
        os.kill(os.getpid(), 9)


def recipe(**changes):
    return SimpleNamespace(
        **{
            "batch_size": 16,
            "batch_norm_samples": 4,
            "epoch_end": "continue",
            "iterations": 12,
            "crop": "scale",
            "crop_size": CROP,
            "shorter_side": [32, 60],
            "colour": "pca",
            "flip": True,
            "decoder": "pillow",
            "shuffle_shards": 2,
            **changes,
        }
    )


def stream(seed=0, replicas=range(4), workers=0, shards=None, **changes):
    return Stream(shards or Fake(), recipe(**changes), seed, list(replicas), workers)


def assert_equal(a, b):
    assert a.total == b.total
    for name in ("images", "labels", "colours"):
        assert torch.equal(getattr(a, name), getattr(b, name))


# The order.

SHARD_OF = np.repeat(np.arange(7), [10, 20, 15, 10, 5, 30, 10])


def order(shard_of=SHARD_OF, batch_size=8, epoch_end="continue", shuffle_shards=2, seed=0):
    return Order(shard_of, batch_size, epoch_end, shuffle_shards, seed)


@pytest.mark.parametrize("shuffle_shards", [None, 1, 2, 3, 7, 100])
def test_every_epoch_shows_every_image_once_window_by_window(shuffle_shards):
    one, seen = order(shuffle_shards=shuffle_shards), []
    window = min(shuffle_shards or 7, 7)
    for epoch in range(4):
        images = one.epoch(epoch)[0]
        assert sorted(images.tolist()) == list(range(100))
        position, shards = 0, []
        while position < 100:
            there = set(SHARD_OF[images[position:]][:1])  # grows until all of its shards are through
            while len(there) < window and len(there) + len(shards) < 7:
                size = np.isin(SHARD_OF, list(there)).sum()
                there |= set(SHARD_OF[images[position : position + size + 1]])
            size = int(np.isin(SHARD_OF, list(there)).sum())
            assert set(SHARD_OF[images[position : position + size]]) == there
            position += size
            shards += sorted(there)
        assert sorted(shards) == list(range(7))
        seen.append(tuple(images))
    assert len(set(seen)) == 4


def test_images_of_a_window_are_permuted_and_not_shard_after_shard():
    images = order(np.repeat(np.arange(4), 500), shuffle_shards=2).epoch(0)[0]
    first = np.sort(images[:1000])
    places = np.searchsorted(first, images[:1000])
    assert np.abs(np.corrcoef(places, np.arange(1000))[0, 1]) < 5 / 1000**0.5
    assert abs((places[:500] < 500).sum() - 250) < 5 * 12


def test_shards_are_in_an_order_of_each_epochs_own():
    one = order(np.repeat(np.arange(50), 2), shuffle_shards=1)
    orders = [tuple(one.epoch(epoch)[1]) for epoch in range(5)] + [tuple(order(seed=1).epoch(0)[1])]
    assert len(set(orders)) == 6


def test_over_all_images_it_is_the_order_of_the_sampler():
    one = order(shuffle_shards=None)
    for epoch in (0, 3):
        expected = Sampler(100, 8, "continue", 0, True, seed=0).epoch(epoch).image
        np.testing.assert_array_equal(one.epoch(epoch)[0], expected)


@pytest.mark.parametrize("epoch_end", ["continue", "short-batch"])
@pytest.mark.parametrize("batch_size", [8, 100, 130])
def test_batches_are_cut_as_the_samplers(epoch_end, batch_size):
    one, sampler = order(batch_size=batch_size, epoch_end=epoch_end), Sampler(100, batch_size, epoch_end, 0, True, 0)
    for iteration in (0, 12, 13, 25, 40):
        expected = [(e, int(i)) for e, b, end in sampler.positions(iteration) for i in one.epoch(e)[0][b:end]]
        assert one.samples(iteration) == expected


@pytest.mark.parametrize("epoch_end", ["continue", "short-batch"])
@pytest.mark.parametrize("shuffle_shards", [1, 2, 3])
@pytest.mark.parametrize("start", [0, 5, 12, 30])
def test_shards_are_read_ahead_before_they_are_needed_and_not_twice(epoch_end, shuffle_shards, start):
    """After 100 or 104 images an epoch ends; by then the next one's first window has been asked for."""
    one, asked = order(epoch_end=epoch_end, shuffle_shards=shuffle_shards), {}
    for iteration in range(start, start + 40):
        wanted = one.ahead(iteration, iteration == start)
        assert len(wanted) == len(set(wanted)) or iteration == start
        for shard in wanted:
            asked.setdefault(shard, []).append(iteration)
        for epoch, image in one.samples(iteration):
            shard = SHARD_OF[image]
            read = [i for i in asked.get(shard, []) if i <= iteration]
            assert read, (iteration, epoch, shard)
    sizes = {shard: len(iterations) for shard, iterations in asked.items()}
    assert max(sizes.values()) <= 40 * 8 / 100 + 2  # once an epoch


def test_over_all_images_nothing_is_read_ahead():
    assert order(shuffle_shards=None).ahead(0, True) == []


def test_an_epoch_of_imagenet_is_ordered_in_well_under_a_second():
    one = order(np.sort(np.arange(1_281_167) % 512), 256, "continue", 16)
    begin = time.process_time()
    images, _ = one.epoch(0)
    assert time.process_time() - begin < 1
    assert len(np.unique(images)) == 1_281_167
    one.samples(0)
    begin = time.process_time()
    one.samples(5003)
    assert time.process_time() - begin < 0.5


# Views and batches.


@pytest.mark.parametrize("decoder", decode.DECODERS)
@pytest.mark.parametrize("crop", ["scale", "scale-and-aspect-ratio"])
def test_a_batch_has_the_crops_and_numbers_of_its_images(crop, decoder):
    """By the definition's own words, from random numbers that are those of (seed, epoch, image)."""
    one, mirrored = stream(crop=crop, decoder=decoder, colour="pca-and-jitter"), 0
    for iteration, batch in enumerate(one.batches(0)):
        whole = one.order.samples(iteration)
        samples = [whole[i] for replica in range(4) for i in range(replica, 16, 4)]
        assert batch.labels.tolist() == [index % 7 for _, index in samples]
        for (epoch, index), image, drawn in zip(samples, batch.images, batch.colours, strict=True):
            random = np.random.Generator(np.random.Philox(key=one.key, counter=[0, 0, index, epoch]))
            source = decode.read(JPEGS[index], decoder, "")
            uniform, flip = random.random(crops.DRAWS), random.random() < 0.5
            if crop == "scale":
                part = crops.scale(*crops.get_size(source), uniform, [32, 60], CROP)
            else:
                part = crops.scale_and_aspect_ratio(*crops.get_size(source), uniform, CROP)
            expected = torch.tensor(crops.cut(source, part, CROP)).permute(2, 0, 1)
            assert torch.equal(image, expected.flip(2) if flip else expected)
            assert torch.equal(drawn, torch.from_numpy(colour.draw(random, "pca-and-jitter")))
            mirrored += flip
    assert mirrored == pytest.approx(96, abs=5 * 7)  # of 192


def test_random_numbers_are_those_of_every_machine_and_version():
    """A change of these is a change of every run: seed 0, epoch 3, image 5."""
    crop, numbers = stream(shards=Fake([JPEGS[0]] * 60), colour="pca-and-jitter").view(3, 5)
    assert crop.shape == (CROP, CROP, 3)
    np.testing.assert_allclose(numbers, NUMBERS, rtol=1e-6)


NUMBERS = [-0.02977957, 0.12848498, 0.00558535, 0.89226699, 0.95938188, 1.35846150]


def test_a_batch_is_as_stated():
    for batch in stream(epoch_end="short-batch").batches(2):
        short = batch.total != 16
        assert batch.total == (12 if short else 16)  # 60 = 3 * 16 + 12
        assert batch.images.shape == (batch.total, 3, CROP, CROP)
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert (batch.labels.dtype, batch.colours.dtype) == (torch.int64, torch.float32)


@pytest.mark.parametrize("epoch_end", ["continue", "short-batch"])
@pytest.mark.parametrize("workers", [1, 2])
def test_bytes_do_not_depend_on_the_number_of_workers_or_on_the_beginning(workers, epoch_end):
    expected = list(stream(epoch_end=epoch_end).batches(0))
    assert len(expected) == 12
    one = stream(workers=workers, epoch_end=epoch_end)
    for first in (0, 7, 11):
        found = list(one.batches(first))
        assert len(found) == 12 - first
        for a, b in zip(found, expected[first:], strict=True):
            assert_equal(a, b)
    next(one.batches(3))  # not to the end
    assert_equal(next(one.batches(5)), expected[5])


def test_replicas_share_a_batch_without_a_change():
    """A batch of 12 over 4 replicas: sample i belongs to replica i modulo 4; devices take any of them."""
    whole = list(stream(epoch_end="short-batch").batches(0))
    for replicas in ([2], [3, 1], [0, 1, 2, 3]):
        for batch, expected in zip(stream(replicas=replicas, epoch_end="short-batch").batches(0), whole, strict=True):
            assert batch.total == expected.total
            for name in ("images", "colours", "labels"):
                parts = getattr(expected, name).chunk(4)
                assert torch.equal(getattr(batch, name), torch.cat([parts[replica] for replica in replicas]))


def test_a_view_depends_on_seed_epoch_and_image_alone():
    same = (
        stream().view(2, 7),
        stream(batch_size=60, batch_norm_samples=30, epoch_end="short-batch").view(2, 7),
    )
    for a, b in zip(*same, strict=True):
        np.testing.assert_array_equal(a, b)
    shards = Fake([JPEGS[7]] * 60)
    others = [stream(seed=s, shards=shards).view(e, i) for s, e, i in ((0, 2, 7), (1, 2, 7), (0, 3, 7), (0, 2, 8))]
    assert len({crop.tobytes() for crop, _ in others}) == 4
    assert len({numbers.tobytes() for _, numbers in others}) == 4


def test_without_flips_the_crops_are_the_same():
    a, b = stream(), stream(flip=False)
    mirrored = 0
    for index in range(60):
        (crop, numbers), (straight, same) = a.view(0, index), b.view(0, index)
        np.testing.assert_array_equal(numbers, same)
        if not np.array_equal(crop, straight):
            np.testing.assert_array_equal(crop, straight[:, ::-1])
            mirrored += 1
    assert mirrored == pytest.approx(30, abs=5 * 4)


def test_torchs_own_random_numbers_are_left_alone():
    before = torch.get_rng_state()
    list(stream(workers=2).batches(10))
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_have_one_thread():
    assert list(run_in_workers(torch.get_num_threads, [()] * 4, 2)) == [1] * 4


def test_shards_are_read_ahead():
    shards = Fake()
    list(stream(shards=shards).batches(0))  # 192 images: 3 epochs and 12
    assert {shards.needed.count(shard) for shard in range(6)} <= {3, 4, 5}


# What goes wrong.


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("decoder", decode.DECODERS)
def test_a_broken_image_is_named_in_one_line(workers, decoder):
    contents = list(JPEGS)
    contents[33] = contents[33][:400]
    with pytest.raises(UserError, match=r"^training-0000\.tar: n0_33\.JPEG: this image [^\n]+$"):
        list(stream(workers=workers, decoder=decoder, shards=Fake(contents)).batches(0))


def test_workers_end_with_an_error_and_when_they_are_closed():
    before = multiprocessing.active_children()
    failing = stream(workers=2, shards=Fake([b""] * 60))
    with pytest.raises(UserError):
        next(failing.batches(0))
    assert multiprocessing.active_children() == before
    batches = stream(workers=2).batches(0)
    next(batches)
    assert len(multiprocessing.active_children()) == len(before) + 2
    batches.close()
    assert multiprocessing.active_children() == before


def test_a_killed_worker_is_spoken_of_in_one_line():
    with pytest.raises(UserError, match=r"^DataLoader worker [^\n]+ Take fewer workers$"):
        list(stream(workers=1, shards=Suicidal()).batches(0))


def test_an_error_of_the_program_stays_one():
    def wrong():
        raise RuntimeError("of another kind")

    with pytest.raises(RuntimeError, match="of another kind"):
        list(run_in_workers(wrong, [()], 1))


def test_an_image_that_can_be_smaller_than_the_crop_is_refused():
    with pytest.raises(UserError, match="shorter_side begins at 27, below crop_size 28"):
        stream(shorter_side=[27, 60])


# The mean image.


def plain_mean(decoder):
    side, total = round(256 / 224 * CROP), 0
    for content in JPEGS:
        image = Image.open(io.BytesIO(content)).convert("RGB")
        image = functional.center_crop(functional.resize(image, side), CROP)
        total = total + np.array(image).astype(np.int64)
    return torch.from_numpy(total / len(JPEGS)).permute(2, 0, 1)


@pytest.mark.parametrize("decoder, tolerance", [("pillow", 0.2), ("torchvision", 3)])
def test_the_mean_image_is_that_of_the_middle_crops(tmp_path, decoder, tolerance):
    """As torchvision resizes and crops them, but for rounding (`crops.cut`)."""
    mean = mean_image(Fake(), CROP, decoder, tmp_path, 0)
    assert (mean.dtype, mean.shape) == (torch.float32, (3, CROP, CROP))
    assert (mean - plain_mean(decoder)).abs().max() < tolerance
    assert (mean * len(JPEGS) - (mean * len(JPEGS)).round()).abs().max() < 0.01  # a sum of integers


def test_the_mean_image_is_computed_once_and_the_same_by_any_number_of_workers(tmp_path, monkeypatch):
    monkeypatch.setattr("identity_mappings.data.stream.CHUNK", 7)
    files = []
    for workers in (0, 1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        mean = mean_image(Fake(), CROP, "pillow", folder, workers)
        assert torch.equal(mean_image(Suicidal(), CROP, "pillow", folder, 0), mean)  # reads no image
        files.append((folder / f"mean-{CROP}-pillow.npy").read_bytes())
    assert len(set(files)) == 1


class Counted(Fake):
    """Notes every reading in a file."""

    def __init__(self, path):
        super().__init__(JPEGS[:10])
        self.path = path

    def jpeg(self, index):
        time.sleep(0.02)
        with self.path.open("a") as file:
            file.write(f"{index}\n")
        return super().jpeg(index)


def test_several_processes_wait_for_one_that_computes_the_mean_image(tmp_path):
    shards, context = Counted(tmp_path / "read"), multiprocessing.get_context("fork")
    arguments = (shards, CROP, "pillow", tmp_path, 0)
    processes = [context.Process(target=mean_image, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(shards.path.read_text().splitlines()) == 10


@pytest.mark.parametrize("content", [b"", b"not an array", np.zeros((3, 5, 5), np.float32)])
def test_another_file_in_its_place_is_refused(tmp_path, content):
    path = tmp_path / f"mean-{CROP}-pillow.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(UserError, match=r"mean-28-pillow\.npy: not the mean image: remove it"):
        mean_image(Fake(), CROP, "pillow", tmp_path, 0)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"mean-28-pillow\.npy: No such file or directory"):
        mean_image(Fake(), CROP, "pillow", tmp_path / "none", 0)


def test_a_broken_image_stops_the_mean_and_leaves_no_file(tmp_path):
    with pytest.raises(UserError, match=r"n0_0\.JPEG"):
        mean_image(Fake([b""] * 3), CROP, "pillow", tmp_path, 2)
    assert not list(tmp_path.glob("mean*"))


# With the real shards, and the benchmark.


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_small_data.make("imagenet-small", folder)
    prepare("imagenet-small", folder)
    return folder / "shards" / "imagenet-small"


@pytest.mark.parametrize("crop", ["scale", "scale-and-aspect-ratio"])
@pytest.mark.parametrize("decoder", decode.DECODERS)
def test_an_epoch_of_real_shards(prepared, decoder, crop):
    """CMYK, grey and PNG files among them; each image once, with its label."""
    size = {"crop_size": 56, "shorter_side": [64, 120], "crop": crop, "decoder": decoder}
    changes = {**size, "batch_size": 32, "batch_norm_samples": 32, "iterations": 10}
    found = []
    for workers in (0, 2):
        shards = Shards(prepared, "training")
        one = Stream(shards, recipe(**changes), 0, [0], workers)
        found.append(list(one.batches(0)))
        labels = torch.cat([batch.labels for batch in found[-1]])
        assert torch.equal(labels.sort().values, shards.labels.sort().values)
    assert len(found[0]) == 10
    for a, b in zip(*found, strict=True):
        assert_equal(a, b)


def test_a_broken_file_of_real_shards_is_named(prepared, tmp_path):
    folder = tmp_path / "imagenet-small"
    shutil.copytree(prepared, folder)
    shards = Shards(folder, "training")
    name = shards.name(200)
    row = shards.rows[200]
    with shards.files[row["shard"]].open("r+b") as file:
        file.seek(row["offset"])
        file.write(bytes(100))
    for failing in (
        lambda: list(Stream(shards, recipe(iterations=20), 0, range(4), 2).batches(0)),
        lambda: mean_image(shards, 56, "pillow", folder, 2),
    ):
        with pytest.raises(UserError) as error:
            failing()
        assert str(error.value).startswith(f"{name}: this image cannot be decoded")
