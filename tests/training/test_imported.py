"""Weights under torchvision's names become our networks' own, and what is no such weights is refused in one line."""

from argparse import Namespace
from collections import OrderedDict

import pytest
import torch
import torchvision
from PIL import Image

from identity_mappings.errors import UserError
from identity_mappings.evaluation import protocols
from identity_mappings.networks import torchvision_weights
from identity_mappings.networks.depth import VGG_SIZE
from identity_mappings.networks.families import FAMILIES
from identity_mappings.records import run
from identity_mappings.training import imported

IMAGE = Image.new("RGB", (500, 375))


def find_weights(depth, classes=7, seed=0):
    """A state dict of torchvision's, every number of which is drawn."""
    with torch.device("meta"):
        network = getattr(torchvision.models, f"resnet{depth}")(num_classes=classes)
    g = torch.Generator().manual_seed(seed)
    state = OrderedDict()
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(5)
        elif name.endswith("running_var"):
            state[name] = torch.rand(tensor.shape, generator=g) + 0.5
        elif tensor.dim() == 1 and name.endswith("weight"):
            state[name] = torch.rand(tensor.shape, generator=g) + 0.2
        else:
            scale = (2 / tensor[0].numel()) ** 0.5 if tensor.dim() > 1 else 0.2
            state[name] = scale * torch.randn(tensor.shape, generator=g)
    return state


@pytest.fixture(scope="module")
def weights_18():
    """Each tensor is one number many times, and so of a few bytes in a file."""
    with torch.device("meta"):
        state = torchvision.models.resnet18(num_classes=7).state_dict()
    g = torch.Generator().manual_seed(0)
    counts = {name: torch.tensor(5) for name in state if name.endswith("num_batches_tracked")}
    return {name: torch.rand((), generator=g).expand(tensor.shape) for name, tensor in state.items()} | counts


@pytest.fixture
def state(weights_18):
    """To be changed: only the dict is the test's own."""
    return OrderedDict(weights_18)


def build(network, **others):
    arguments = {**network, **others}
    with torch.device("meta"):
        return FAMILIES[arguments.pop("family")](**arguments)


@pytest.mark.parametrize("depth", [16, 18, 19, 34, 50, 101, 152])
def test_every_weight_has_one_place_and_the_depth_is_found(depth):
    network = torchvision_weights.describe_network(depth)
    vgg = network["family"] == "vgg"
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"{'vgg' if vgg else 'resnet'}{depth}")().state_dict()
    ours = build(network, **({"dropout": 0.5} if vgg else {}))
    names = torchvision_weights.get_names(network)
    assert list(names) == [name for name in theirs if not name.endswith("num_batches_tracked")]
    assert sorted(names.values()) == sorted(ours.state_dict())
    assert torchvision_weights.infer_depth(theirs) == depth


@pytest.mark.parametrize("depth", [18, 50])
def test_outputs_are_torchvisions(depth):
    weights = find_weights(depth)
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"resnet{depth}")(num_classes=7)
    theirs.load_state_dict(weights, assign=True)
    network, state = torchvision_weights.convert(weights)
    x = torch.randn(2, 3, 65, 80, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = theirs.eval()(x)
        ours = build(network, classes=7)
        ours.load_state_dict(state, assign=True)
        got = ours.eval()(x)
    assert (wanted[0] - wanted[1]).abs().max() > 0.01 * wanted.std()
    torch.testing.assert_close(got / wanted.std(), wanted / wanted.std(), rtol=1e-4, atol=1e-4)


@pytest.fixture
def vgg(monkeypatch):
    """torchvision's VGG-16 with 64 hidden units, each number drawn; ours has as many."""
    monkeypatch.setattr("identity_mappings.networks.vgg.HIDDEN", 64)
    with torch.device("meta"):
        network = torchvision.models.vgg16()
        for number, (inputs, outputs) in {0: (512 * 7 * 7, 64), 3: (64, 64), 6: (64, 7)}.items():
            network.classifier[number] = torch.nn.Linear(inputs, outputs)
    g, state = torch.Generator().manual_seed(0), OrderedDict()
    for name, tensor in network.state_dict().items():
        state[name] = torch.randn(tensor.shape, generator=g) * (2 / max(tensor[0].numel(), 2)) ** 0.5
    network.load_state_dict(state, assign=True)
    return network.eval()


def test_outputs_of_vgg_are_torchvisions(vgg):
    network, state = torchvision_weights.convert(vgg.state_dict())
    ours = build(network, classes=7, dropout=0.5)
    ours.load_state_dict(state, assign=True)
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted, got = vgg(x), ours.eval()(x)
    assert wanted.std() > 0.01 and torch.equal(got, wanted)


def test_what_is_no_vgg_of_the_papers_is_refused(vgg):
    state = OrderedDict(vgg.state_dict())
    refused(lambda: torchvision_weights.convert(state, classes=1000), "classifier.6.weight: of 7 classes", "1000")
    refused(lambda: torchvision_weights.convert(state, 19), "features.16.weight is missing", "VGG-19")
    state["features.0.bias"] = torch.full((64,), float("nan"))
    refused(lambda: torchvision_weights.convert(state), "features.0.bias", "not finite")
    state["classifier.6.bias"] = torch.zeros(8)
    state["features.0.bias"] = torch.zeros(64)
    refused(lambda: torchvision_weights.convert(state), "classifier.6.bias: shape (8,)", "VGG-16", "(7,)")
    with torch.device("meta"):
        normalized = torchvision.models.vgg16_bn().state_dict()
    refused(lambda: torchvision_weights.convert(normalized), "no VGG of 16 or 19 layers without batch norm")


def test_a_vgg_is_tested_by_crops_of_its_size():
    """Its linear layers take no larger images."""
    assert run.choose_protocols("ours", "vgg", ()) == ["centre-224", "10-crop"]
    assert run.choose_protocols("ours", "imagenet", ()) == list(protocols.PROTOCOLS)
    sizes = {name: {tuple(view.shape[2:]) for view in protocols.views(IMAGE, name)} for name in protocols.PROTOCOLS}
    assert [name for name, seen in sizes.items() if seen == {(VGG_SIZE, VGG_SIZE)}] == list(run.VGG_PROTOCOLS)
    refused(lambda: run.choose_protocols("ours", "vgg", ["multi-scale"]), "ours", "multi-scale", "centre-224, 10-crop")


def test_network_is_one_of_params(weights_18):
    models = pytest.importorskip("identity_mappings.parameters.models")
    network, _ = torchvision_weights.convert(weights_18)
    assert models.Network(**network).model_dump(exclude_unset=True) == network
    stride = models.Network(**torchvision_weights.describe_network(50)).bottleneck_stride
    assert stride == "3x3"


def wrapped(key):
    return lambda state: {key: state, "epoch": 90, "best": 76.1}


@pytest.mark.parametrize(
    "form",
    [
        dict,
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        wrapped("state_dict"),
        wrapped("model"),
        lambda state: wrapped("state_dict")({f"module.{name}": tensor for name, tensor in state.items()}),
        lambda state: {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")},
    ],
    ids=["plain", "module", "state_dict", "model", "both", "no counts"],
)
def test_forms_in_which_weights_are_kept(tmp_path, weights_18, form):
    path = tmp_path / "weights.pth"
    torch.save(form(weights_18), path)
    network, got = imported.read_weights(path)
    assert network["depth"] == 18
    _, wanted = torchvision_weights.convert(weights_18, 18)
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], wanted[name]) for name in got)


def test_other_precisions_become_float32(state):
    _, wanted = torchvision_weights.convert(state)
    state = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    _, got = torchvision_weights.convert(state)
    assert all(tensor.dtype == torch.float32 and torch.equal(tensor, wanted[name]) for name, tensor in got.items())


def test_converted_weights_are_copies(state):
    _, got = torchvision_weights.convert(state)
    before = state["fc.bias"].clone()
    got["linear.bias"].zero_()
    assert torch.equal(state["fc.bias"], before)


def refused(call, *words):
    with pytest.raises((UserError, ValueError)) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_missing_and_extra_keys_are_named_the_first_first(state):
    tensor = state.pop("layer2.1.bn2.running_var")
    state.pop("fc.bias")
    refused(lambda: torchvision_weights.convert(state), "layer2.1.bn2.running_var is missing", "ResNet-18")
    state["layer2.1.bn2.running_var"], state["fc.bias"] = tensor, torch.zeros(7)
    state["fc2.bias"] = torch.zeros(7)
    refused(lambda: torchvision_weights.convert(state), "fc2.bias is in no ResNet-18")


@pytest.mark.parametrize(
    "key, shape",
    [("layer3.0.downsample.0.weight", (256, 128, 3, 3)), ("bn1.running_mean", (1, 64)), ("fc.weight", (7, 2048))],
)
def test_another_shape_is_refused(state, key, shape):
    expected = str(tuple(state[key].shape))
    state[key] = torch.zeros(shape)
    refused(lambda: torchvision_weights.convert(state), f"{key}: shape {shape}", expected)


def test_biases_must_fit_the_classes(state):
    state["fc.bias"] = torch.zeros(8)
    refused(lambda: torchvision_weights.convert(state), "fc.bias: shape (8,)", "(7,)")


def test_wide_networks_are_not_the_papers():
    with torch.device("meta"):
        wide = torchvision.models.wide_resnet50_2().state_dict()
    wide = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in wide.items()}
    refused(lambda: torchvision_weights.convert(wide), "layer1.0.conv1.weight: shape (128, 64, 1, 1)", "(64, 64, 1, 1)")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(state, bad):
    state["layer4.1.conv2.weight"] = state["layer4.1.conv2.weight"].clone()
    state["layer4.1.conv2.weight"][3, 2, 1, 0] = bad
    refused(lambda: torchvision_weights.convert(state), "layer4.1.conv2.weight", "not finite")


def test_integers_are_no_weights(state):
    state["conv1.weight"] = state["conv1.weight"].char()
    refused(lambda: torchvision_weights.convert(state), "conv1.weight", "int8")


def test_number_of_classes_is_held_against_the_one_asked_for(state):
    refused(lambda: torchvision_weights.convert(state, classes=1000), "7 classes", "1000")
    torchvision_weights.convert(state, classes=7)


def test_depth_is_held_against_the_names(state):
    refused(lambda: torchvision_weights.convert(state, 34), "layer1.2.conv1.weight is missing", "ResNet-34")
    refused(lambda: torchvision_weights.convert(state, 20), "ResNet-20", "18, 34, 50")
    del state["layer4.1.conv1.weight"]
    refused(lambda: torchvision_weights.convert(state), "layer4.1.conv1.weight")
    state = {name: tensor for name, tensor in state.items() if not name.startswith("layer4.1.")}
    refused(lambda: torchvision_weights.convert(state), "2, 2, 2, 1 basic units")


def code(_):
    return {"state_dict": {}, "args": Namespace(depth=18)}


@pytest.mark.parametrize(
    "content, words",
    [
        (code, "running code"),
        (lambda state: {"state_dict": dict(state) | {"epoch": 3}}, "'epoch' is no tensor"),
        (lambda state: {"weights": state}, "'weights' is no tensor"),
        (lambda state: list(state.values()), "a list and no state dict"),
        (lambda state: {}, "0, 0, 0, 0"),
    ],
    ids=["code", "number among weights", "unknown wrapper", "list", "empty"],
)
def test_files_that_are_no_state_dict_are_refused_with_their_name(tmp_path, weights_18, content, words):
    path = tmp_path / "weights.pth"
    torch.save(content(weights_18), path)
    refused(lambda: imported.read_weights(path), str(path), words)


@pytest.mark.filterwarnings("ignore")  # of torch, on its TorchScript
@pytest.mark.parametrize("damage", ["text", "empty", "cut", "missing", "folder", "script"])
def test_damaged_files_are_refused_with_their_name(tmp_path, weights_18, damage):
    path = tmp_path / "weights.pth"
    torch.save(weights_18, path)
    if damage == "text":
        path.write_text("<html>404 not found</html>")
    elif damage == "script":
        torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1)).save(path)
    elif damage in ("empty", "cut"):
        content = path.read_bytes()
        path.write_bytes(content[: 0 if damage == "empty" else len(content) // 2])
    elif damage == "missing":
        path.unlink()
    else:
        path.unlink()
        path.mkdir()
    refused(lambda: imported.read_weights(path), str(path), "torch.save(model.state_dict())")


def test_reading_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path / "ran").touch, ()

    path = tmp_path / "weights.pth"
    torch.save({"state_dict": Evil()}, path)
    refused(lambda: imported.read_weights(path), "running code")
    assert not (tmp_path / "ran").exists()
