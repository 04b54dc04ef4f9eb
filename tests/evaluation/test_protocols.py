"""The four ways of testing on ImageNet, against each written in a few plain lines with torchvision."""

import io
import math
import tarfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision import transforms

import make_small_data
from identity_mappings.data.prepare import prepare
from identity_mappings.data.shards import Shards
from identity_mappings.errors import UserError
from identity_mappings.evaluation import protocols, single_view
from identity_mappings.networks import torchvision_weights
from identity_mappings.networks.batch_norm import BatchNorm2d
from identity_mappings.networks.resnet import ImageNetResNet

PHOTOGRAPHS = Path(find_spec("sklearn").origin).parent / "datasets/images"
MEAN, DEVIATION = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
NAMES = list(protocols.PROTOCOLS)


def normalize(images):
    assert images.dtype == torch.uint8
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))
    return (images.float() - mean) / deviation


class Photographs:
    """JPEG files and labels, as `Shards` hands them out."""

    def __init__(self, contents, labels=None):
        self.contents, self.classes = contents, [f"n{k:08}" for k in range(1000)]
        self.labels = torch.zeros(len(contents), dtype=torch.int64) if labels is None else labels

    def __len__(self):
        return len(self.contents)

    def jpeg(self, index):
        return self.contents[index]

    def name(self, index):
        return f"ILSVRC2012_val_{index + 1:08}.JPEG"


# Photograph, box, mode: landscape, portrait and square, odd sizes, an elongated one, one smaller than every crop.
CUTS = [
    ("china", (0, 0, 333, 250), "RGB"),
    ("flower", (60, 0, 331, 427), "RGB"),
    ("china", (300, 150, 500, 350), "RGB"),
    ("flower", (100, 100, 401, 223), "L"),
    ("china", (17, 33, 350, 283), "RGB"),
    ("flower", (0, 0, 333, 250), "CMYK"),
    ("flower", (250, 50, 290, 103), "RGB"),
    ("china", (440, 0, 640, 427), "RGB"),
]


def jpeg(photograph, box, mode):
    buffer = io.BytesIO()
    Image.open(PHOTOGRAPHS / f"{photograph}.jpg").crop(box).convert(mode).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def contents():
    return [jpeg(*cut) for cut in CUTS]


def opened(content):
    return Image.open(io.BytesIO(content)).convert("RGB")


class Pair:
    """torchvision's network with random weights and statistics, and ours with the same."""

    def __init__(self, depth, contents):
        with torch.device("meta"):
            theirs = getattr(torchvision.models, f"resnet{depth}")()
        self.theirs = theirs.to_empty(device="cpu").eval()
        g = torch.Generator().manual_seed(3)
        for name, tensor in self.theirs.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2, generator=g)
            elif name.endswith(("running_mean", "bias")):
                tensor.normal_(0, 0.2, generator=g)
            elif tensor.dim() > 1:
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=g)
            elif tensor.is_floating_point():
                tensor.uniform_(0.2, 0.8, generator=g)[::4] *= -1
        self._spread(contents)
        network, state = torchvision_weights.convert(self.theirs.state_dict(), depth)
        with torch.device("meta"):
            self.ours = ImageNetResNet(**{key: value for key, value in network.items() if key != "family"})
        self.ours.load_state_dict(state, strict=True, assign=True)

    def _spread(self, contents):
        """Scores that are 0 on the average over the images, so that these get different classes."""
        fc, images = self.theirs.fc, [opened(content).resize((56, 56)) for content in contents]
        with torch.no_grad():
            scores = self.theirs(normalize(torch.stack([transforms.functional.pil_to_tensor(x) for x in images])))
            scale = 1 / (scores - scores.mean(0)).std()
            fc.weight *= scale
            fc.bias.copy_(scale * (fc.bias - scores.mean(0)))


@pytest.fixture(scope="module")
def pair(contents):
    return Pair(18, contents)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Two threads on cores that others use wait for each other most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def score_map_average(network, x):
    """The linear layer as a 1x1 convolution at every position, and the average over them."""
    x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    x = network.layer4(network.layer3(network.layer2(network.layer1(x))))
    return F.conv2d(x, network.fc.weight[:, :, None, None], network.fc.bias).mean((2, 3))


@torch.no_grad()
def plain_scores(network, image, protocol, crop_size):
    """One image; for "10-crop" the averaged softmax. `crop_size` of 224, 56 or 28."""
    part = 224 // crop_size
    to_tensor = transforms.Compose(
        [
            transforms.ToTensor(),
            transforms.Normalize([value / 255 for value in MEAN], [value / 255 for value in DEVIATION]),
        ]
    )
    if protocol == "centre-224":
        crop = transforms.Compose([transforms.Resize(256 // part), transforms.CenterCrop(224 // part), to_tensor])
        return network(crop(image)[None])[0]
    if protocol == "centre-320":
        crop = transforms.Compose([transforms.Resize(320 // part), transforms.CenterCrop(320 // part), to_tensor])
        return score_map_average(network, crop(image)[None])[0]
    if protocol == "10-crop":
        crops = transforms.TenCrop(224 // part)(transforms.Resize(256 // part)(image))
        return sum(network(to_tensor(crop)[None])[0].softmax(0) for crop in crops) / 10
    scales = [224 // part, 256 // part, 384 // part, 480 // part, 640 // part]
    return sum(score_map_average(network, to_tensor(transforms.Resize(s)(image))[None])[0] for s in scales) / 5


def by_image(network, contents, protocol, crop_size, **arguments):
    """Our scores (N, classes), in the order of the images."""
    got = {}
    network.eval()
    with torch.no_grad():
        for places, views in protocols.batches(Photographs(contents), protocol, crop_size, **arguments):
            got |= dict(zip(places.tolist(), protocols.scores(network, views, normalize, protocol), strict=True))
    assert sorted(got) == list(range(len(contents)))
    return torch.stack([got[place] for place in range(len(contents))])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """imagenet-small's folder of datasets, with its shards."""
    folder = tmp_path_factory.mktemp("data")
    make_small_data.make("imagenet-small", folder)
    prepare("imagenet-small", folder)
    return folder


@pytest.fixture
def quick():
    """A network of ten classes for any size of images."""
    network = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(27, 10))
    g = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data.normal_(generator=g)
    return network


def check_scores(pair, contents, protocol, crop_size):
    """Against the plain ones, which are handed back."""
    wanted = torch.stack([plain_scores(pair.theirs, opened(c), protocol, crop_size) for c in contents])
    got = by_image(pair.ours, contents, protocol, crop_size)
    torch.testing.assert_close(got.exp() if protocol == "10-crop" else got, wanted, rtol=1e-4, atol=1e-4)
    assert torch.equal(got.topk(5).indices, wanted.topk(5).indices)
    return wanted


@pytest.mark.parametrize("protocol", NAMES)
def test_scores_and_counts_are_torchvisions(pair, contents, protocol):
    """Every size an eighth of the papers'; the labels are of all ranks around the first and the fifth."""
    wanted = check_scores(pair, contents, protocol, 28)
    ranks = torch.tensor([0, 1, 5, 4, 5, 0, 2, 5])
    labels = wanted.topk(6).indices.gather(1, ranks[:, None])[:, 0]
    log_probabilities = wanted.log() if protocol == "10-crop" else wanted.log_softmax(1)
    assert log_probabilities.std(0).mean() > 0.1  # they do depend on the image
    loss = -log_probabilities.gather(1, labels[:, None]).sum().item()
    photographs = Photographs(contents, labels)
    result = protocols.test_by_protocol(pair.ours, photographs, protocol, normalize, 28, batch_size=12)
    assert result[:3] == (6, 3, 8)
    assert result.loss == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("protocol", NAMES)
def test_scores_at_the_papers_sizes_are_torchvisions(pair, contents, protocol):
    check_scores(pair, contents[1:2], protocol, 224)


@pytest.mark.parametrize("crop_size, sizes", [(224, (224, 256, 384, 480, 640)), (56, (56, 64, 96, 120, 160))])
def test_sizes_of_views(crop_size, sizes):
    image = Image.new("RGB", (299, 200))
    crop, larger = crop_size, crop_size * 320 // 224
    shapes = {name: [tuple(view.shape) for view in protocols.views(image, name, crop_size)] for name in NAMES}
    assert shapes == {
        "centre-224": [(1, 3, crop, crop)],
        "centre-320": [(1, 3, larger, larger)],
        "10-crop": [(10, 3, crop, crop)],
        "multi-scale": [(1, 3, size, int(size * 299 / 200)) for size in sizes],
    }
    turned = [tuple(view.shape) for view in protocols.views(image.transpose(2), "multi-scale", crop_size)]
    assert turned == [(1, 3, int(size * 299 / 200), size) for size in sizes]


def test_sizes_of_other_crops_are_rounded():
    shapes = [view.shape[2] for view in protocols.views(Image.new("RGB", (50, 60)), "multi-scale", 33)]
    assert shapes == [int(side * 60 / 50) for side in (33, 38, 57, 71, 94)]  # 33, 37.7, 56.6, 70.7, 94.3


def columns(width):
    """An image of shorter side 256 whose red is each pixel's column less 200, and blue the column."""
    row = torch.arange(width)
    blue, red = row.clamp(max=255), (row - 200).clamp(min=0)
    pixels = torch.stack([red, torch.zeros_like(row), blue]).to(torch.uint8)[:, None].expand(3, 256, width)
    return transforms.functional.to_pil_image(pixels.contiguous())


@pytest.mark.parametrize("width, left", [(256, 16), (257, 16), (258, 17), (259, 18), (261, 18)])
def test_centre_is_rounded_to_even(width, left):
    (view,) = protocols.views(columns(width), "centre-224")
    assert view[0, 2, 0, :2].tolist() == [left, left + 1]
    assert torch.equal(view[0, :, 0], view[0, :, -1])


def test_ten_crops_are_corners_and_centre_and_mirrored():
    image = columns(301)
    whole = transforms.functional.pil_to_tensor(image)
    (view,) = protocols.views(image, "10-crop")
    lefts = [0, 77, 0, 77, 38]  # round(38.5), to even
    for index, left in enumerate(lefts):
        assert torch.equal(view[index], whole[:, :224, left : left + 224])
        mirrored = whole.flip(2)[:, :224, left : left + 224]
        assert torch.equal(view[5 + index], mirrored)
    assert torch.equal(view[6], view[0].flip(2))  # the corners' mirror images are those of the mirrored image


def test_ten_crops_are_at_the_top_the_bottom_and_between():
    image = columns(300).transpose(Image.Transpose.TRANSPOSE)
    (view,) = protocols.views(image, "10-crop")
    assert view[[0, 1, 2, 3, 4], 2, 0, 0].tolist() == [0, 0, 76, 76, 38]


class Linear(nn.Module):
    """Scores that are written in the first pixels."""

    def forward(self, x):
        return x[:, 0, 0, :3]


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
@pytest.mark.parametrize("protocol, shape", [("centre-224", (1,)), ("10-crop", (10,)), ("multi-scale", (1,) * 5)])
def test_a_view_whose_scores_are_not_finite_makes_the_image_wrong(protocol, shape, bad):
    """Also where it is not the label's score, and where a softmax would make it zero."""
    scales = len(shape)
    views = [torch.zeros(2, shape[0], 3, 1, 3) for _ in range(scales)]
    for view in views:
        view[..., 0] = 5
    views[-1][1, -1, 0, 0, 2] = bad
    scores = protocols.scores(Linear(), views, lambda x: x, protocol)
    wrong, wrong_top_5, _ = protocols.count_by_image(scores, torch.zeros(2, dtype=torch.int64))
    assert wrong.tolist() == wrong_top_5.tolist() == [0, 1]


def test_count():
    scores = torch.zeros(6, 8)
    scores[:] = torch.tensor([8.0, 7, 6, 5, 4, 3, 2, 1])
    labels = torch.tensor([0, 1, 4, 5, 0, 5])
    scores[4, 1] = 8  # a tie of the label with the second class, which it wins
    scores[5, 5] = 4  # a tie of the label with the fifth class, which it loses
    wrong, wrong_top_5, losses = protocols.count_by_image(scores, labels)
    assert wrong.tolist() == [0, 1, 1, 1, 0, 1]
    assert wrong.tolist() == (scores.argmax(1) != labels).tolist()
    assert wrong_top_5.tolist() == [0, 0, 0, 1, 0, 1]
    plain = [
        math.log(sum(map(math.exp, row))) - row[y] for row, y in zip(scores.tolist(), labels.tolist(), strict=True)
    ]
    assert losses.tolist() == pytest.approx(plain, rel=1e-6)


def test_loss_of_ten_crops_is_finite_where_a_softmax_would_be_zero():
    views = [torch.zeros(1, 10, 3, 1, 3)]
    views[0][..., 1] = 200
    scores = protocols.scores(Linear(), views, lambda x: x, "10-crop")
    assert protocols.count_by_image(scores, torch.tensor([0]))[2].item() == pytest.approx(200)


@pytest.mark.parametrize("protocol", NAMES)
def test_result_does_not_depend_on_batches_and_workers(quick, contents, protocol):
    """The batches themselves are the same with any number of workers, bit by bit."""
    photographs = Photographs(contents, torch.arange(8))
    alone, together = (
        protocols.test_by_protocol(quick, photographs, protocol, normalize, 28, batch_size=n) for n in (1, 200)
    )
    assert alone[:3] == together[:3]
    assert alone.loss == pytest.approx(together.loss, rel=1e-5)
    size = 5 if protocol.startswith("centre") else 30
    here, there = (list(protocols.batches(photographs, protocol, 28, workers=n, batch_size=size)) for n in (0, 2))
    assert len(here) == len(there) > 1
    for (places, views), (other_places, other_views) in zip(here, there, strict=True):
        assert torch.equal(places, other_places)
        assert all(torch.equal(one, other) for one, other in zip(views, other_views, strict=True))


def test_images_of_one_shape_go_together(contents):
    """The first, fifth and sixth are 333 x 250; other files, other order, the same batches by shape."""
    groups = [places.tolist() for places, _ in protocols.batches(Photographs(contents), "multi-scale", 28)]
    assert [0, 4, 5] in groups
    assert sorted(place for group in groups for place in group) == list(range(8))
    small = [
        places.tolist() for places, _ in protocols.batches(Photographs(contents), "multi-scale", 28, batch_size=52)
    ]
    assert [0, 4] in small
    assert [5] in small


@pytest.mark.parametrize("protocol", NAMES)
@pytest.mark.parametrize("batch_size", [1, 70])
def test_batches_are_bounded_by_pixels(contents, protocol, batch_size):
    sizes = []
    for places, views in protocols.batches(Photographs(contents), protocol, 28, batch_size=batch_size):
        pixels = sum(view.numel() // 3 for view in views)
        assert len(places) == 1 or pixels <= batch_size * 28 * 28
        sizes.append(len(places))
    assert sum(sizes) == 8
    assert max(sizes) > 1 or batch_size < 70


def test_few_images_wait_for_others_of_their_shape():
    """Of images that all differ `WAITING` batches' worth wait at most; the largest go first, and each comes once."""
    pixels, got, read = 4500, [], []
    sizes = [10 * (10 + 37 * place % 200) for place in range(200)]  # two of any would still be a batch
    most = protocols.WAITING * pixels
    assert 2 * max(sizes) < pixels < most < sum(sizes)

    def images():
        for place, size in enumerate(sizes):
            read.append(place)
            yield place, [torch.zeros(1, 3, 10, size // 10, dtype=torch.uint8)]

    for places, _ in protocols._group(images(), pixels):
        waiting = {place: sizes[place] for place in set(read) - set(got)}
        assert sum(waiting.values()) <= most + waiting[places.item()]
        if len(read) < len(sizes):
            assert places.tolist() == [max(waiting, key=waiting.get)]
            assert sum(waiting.values()) > most
        got += places.tolist()
    assert sorted(got) == list(range(200))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="a count of open files")
def test_images_that_wait_keep_no_files_open(prepared):
    def open_files():
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    shards = Shards(prepared / "shards/imagenet-small", "validation")
    before = open_files()
    during = [open_files() for _ in protocols.batches(shards, "multi-scale", 56, workers=1)]
    assert max(during) < before + 30


@pytest.mark.parametrize("protocol", ["centre-224", "multi-scale"])
def test_shares_add_up(quick, contents, protocol):
    photographs = Photographs(contents, torch.arange(8))
    whole = protocols.test_by_protocol(quick, photographs, protocol, normalize, 28)
    shares = [
        protocols.test_by_protocol(quick, photographs, protocol, normalize, 28, share=(rank, 3)) for rank in range(3)
    ]
    assert [share.images for share in shares] == [3, 3, 2]
    summed = [sum(values) for values in zip(*shares, strict=True)]
    assert summed[:3] == list(whole[:3])
    assert summed[3] == pytest.approx(whole.loss, rel=1e-5)
    second = Photographs(contents[1::3], photographs.labels[1::3])
    assert protocols.test_by_protocol(quick, second, protocol, normalize, 28) == shares[1]


@pytest.mark.parametrize("protocol", NAMES)
def test_shards_are_tested_as_the_archives_images_one_by_one(prepared, quick, protocol):
    """With CMYK, greyscale and PNG among them."""
    shards = Shards(prepared / "shards/imagenet-small", "validation")
    with tarfile.open(prepared / "imagenet-small/ILSVRC2012_img_val.tar") as tar:
        names = [shards.name(index).rpartition(" ")[2] for index in range(len(shards))]
        photographs = Photographs([tar.extractfile(name).read() for name in names], shards.labels)
    got = protocols.test_by_protocol(quick, shards, protocol, normalize, 56, workers=2, batch_size=40)
    wanted = protocols.test_by_protocol(quick, photographs, protocol, normalize, 56, batch_size=1)
    assert got[:3] == wanted[:3]
    assert got.loss == pytest.approx(wanted.loss, rel=1e-5)
    assert 10 < got.wrong_top_5 < got.wrong < got.images == 100


@pytest.mark.parametrize("protocol, workers", [("10-crop", 0), ("multi-scale", 2)])
def test_a_broken_image_is_named(quick, contents, protocol, workers):
    broken = [*contents[:5], contents[5][:300], *contents[6:]]
    with pytest.raises(UserError) as error:
        protocols.test_by_protocol(quick, Photographs(broken), protocol, normalize, 28, workers=workers)
    assert "ILSVRC2012_val_00000006.JPEG" in str(error.value)
    assert "\n" not in str(error.value)


def test_networks_are_tested_in_test_mode_and_left_in_training_mode(quick, contents):
    modes = []
    quick[2].register_forward_hook(lambda module, _, y: modes.append((module.training, y.requires_grad)))
    protocols.test_by_protocol(quick, Photographs(contents[:2]), "centre-224", normalize, 28)
    assert modes == [(False, False)]
    assert quick.training


def test_global_random_numbers_are_left_alone(quick, contents):
    before = torch.get_rng_state()
    protocols.test_by_protocol(quick, Photographs(contents[:2]), "centre-224", normalize, 28)
    assert torch.equal(before, torch.get_rng_state())


def test_recomputed_statistics_serve_imagenets_networks():
    """Of whole batches with several replicas: statistics of a stem's outputs, averaged over the batches."""
    network = ImageNetResNet(18, classes=10, shape_change="B", replicas=2)
    g = torch.Generator().manual_seed(0)
    batches = [k + torch.randn(4, 3, 33, 40, generator=g) for k in (1, 2)]
    single_view.recompute_statistics(network, batches)
    norm = network.stem[1]
    with torch.no_grad():
        outputs = [network.stem[0](batch) for batch in batches]
    for replica in (0, 1):
        parts = [y[replica::2] for y in outputs]
        torch.testing.assert_close(norm.running_mean[replica], sum(p.mean((0, 2, 3)) for p in parts) / 2)
        torch.testing.assert_close(norm.running_var[replica], sum(p.var((0, 2, 3)) for p in parts) / 2)
    norms = [module for module in network.modules() if isinstance(module, BatchNorm2d)]
    assert len(norms) == 20
    assert all(not torch.equal(*norm.running_mean) for norm in norms)
