"""`identity-mappings import-weights`: networks that were trained elsewhere, under torchvision's names, tested here."""

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from ..data.colour import Normalization
from ..errors import UserError
from ..evaluation import protocols
from ..evaluation.single_view import Result
from ..networks.depth import IMAGENET_STAGES, VGG_DEPTHS, VGG_SIZE
from ..networks.families import FAMILIES
from ..records import provenance, run
from ..records.files import hash_file, json_bytes, write_atomically
from . import checkpoint, devices
from .group import Group
from .streamed import count_workers, open_shards
from .trainer import Options

WRAPPERS = ("state_dict", "model")  # keys under which training programs keep the weights among other things
# Of torchvision's published weights, in 0 to 255.
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
DECODER = "pillow"
TITLES = {"imagenet": "ResNet", "vgg": "VGG"}  # by family
VGG_DROPOUT = 0.5  # of torchvision's VGG, which numbers its layers by it


def get_names(network: Mapping[str, Any]) -> dict[str, str]:
    """{torchvision's name: ours} of all weights and statistics: both list them in the same order.

    Args:
        network: of `describe_network`.
    """
    ours = _build(network, 1, "meta").state_dict()
    if network["family"] == "vgg":
        return {name.replace("linear", "classifier"): name for name in ours}
    unit, counts = IMAGENET_STAGES[network["depth"]]
    with torch.device("meta"):
        original = ResNet(Bottleneck if unit == "bottleneck" else BasicBlock, list(counts))
    names = (name for name in original.state_dict() if not name.endswith("num_batches_tracked"))
    return dict(zip(names, ours, strict=True))


def describe_network(depth: int) -> dict[str, Any]:
    """torchvision's network as `network` of params/: a VGG, or a ResNet with option B and a bottleneck's stride on its
    3x3.

    Raises:
        UserError: neither has this depth.
    """
    if depth in VGG_DEPTHS:
        return {"family": "vgg", "depth": depth}
    if depth not in IMAGENET_STAGES:
        depths = ", ".join(map(str, IMAGENET_STAGES))
        raise UserError(f"no ResNet-{depth} or VGG-{depth}: ResNets have {depths} layers, VGGs 16 or 19")
    unit, _ = IMAGENET_STAGES[depth]
    network = {"family": "imagenet", "depth": depth, "unit": unit, "shape_change": "B"}
    return network | ({"bottleneck_stride": "3x3"} if unit == "bottleneck" else {})


def _build(network: Mapping[str, Any], classes: int, device: str = "cpu") -> nn.Module:
    arguments = {**network, "classes": classes}
    family = arguments.pop("family")
    with torch.device(device):
        return FAMILIES[family](**arguments, **({"dropout": VGG_DROPOUT} if family == "vgg" else {}))


def infer_depth(state: Mapping[str, Tensor]) -> int:
    """Layers of the ResNet or VGG that a state dict is of, by the names in it.

    Raises:
        UserError: of no network that we have.
    """
    if any(name.startswith("features.") for name in state):
        layers = sum(name.endswith(".weight") for name in state)
        if layers in VGG_DEPTHS:
            return layers
        raise UserError(
            f"{layers} layers with weights: no VGG of 16 or 19 layers without batch norm: give one of these"
        )
    blocks = {match[0] for name in state if (match := re.match(r"layer[1-4]\.\d+\.", name))}
    counts = tuple(sum(block.startswith(f"layer{stage}.") for block in blocks) for stage in (1, 2, 3, 4))
    unit = "bottleneck" if "layer1.0.conv3.weight" in state else "basic"
    for depth, stages in IMAGENET_STAGES.items():
        if stages == (unit, counts):
            return depth
    raise UserError(
        f"layer1 to layer4 have {', '.join(map(str, counts))} {unit} units, which is no ResNet of "
        f"{', '.join(map(str, IMAGENET_STAGES))} layers: give the weights of one, under torchvision's names"
    )


def convert(
    state: Mapping[str, Any], depth: int | None = None, classes: int | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A torchvision-style state dict as (`network` of params/, our state dict in float32 with one replica).

    The names do not tell which convolution of a bottleneck has the stride: weights of he2015's own networks, with the
    stride on the first 1x1, would be taken for torchvision's.

    Args:
        state: with or without "module." before all names, and num_batches_tracked; or below a key of `WRAPPERS`.
        depth: layers; None: by the names.
        classes: that the weights must have; None: any number.

    Raises:
        UserError: no state dict, a key that is missing or too many, another shape, or numbers that are not finite.
    """
    for key in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping):
        raise UserError(f"a {type(state).__name__} and no state dict: save model.state_dict()")
    for name, value in state.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise UserError(f"{name!r} is no tensor, so this is no state dict: save model.state_dict()")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    network = describe_network(depth or infer_depth(state))
    names, title = get_names(network), f"{TITLES[network['family']]}-{network['depth']}"
    if missing := [name for name in names if name not in state]:
        raise UserError(f"{missing[0]} is missing, which a {title} has: give its whole state dict")
    if extra := [name for name in state if name not in names and not name.endswith(".num_batches_tracked")]:
        raise UserError(f"{extra[0]} is in no {title} of torchvision: give the state dict of one")
    last = list(names)[-2]  # the last layer's weights; after them its biases
    found = next(iter(state[last].shape), 1)
    if classes is not None and found != classes:
        raise UserError(f"{last}: of {found} classes where {classes} are tested: give weights for {classes}")
    shapes = {name: tensor.shape for name, tensor in _build(network, found, "meta").state_dict().items()}
    converted = {}
    for original, name in names.items():
        tensor = state[original]
        shape = shapes[name][1:] if name.endswith(("running_mean", "running_var")) else shapes[name]  # no replicas
        if tensor.shape != shape:
            raise UserError(f"{original}: shape {tuple(tensor.shape)} where a {title} has {tuple(shape)}")
        if not tensor.is_floating_point():
            raise UserError(f"{original}: numbers of type {str(tensor.dtype).removeprefix('torch.')}: give floats")
        tensor = tensor.detach().float().clone()
        if not tensor.isfinite().all():
            raise UserError(f"{original}: numbers that are not finite: the training diverged or the file is damaged")
        converted[name] = tensor.view(shapes[name])
    return network, converted


def read_weights(
    path: Path, depth: int | None = None, classes: int | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """`convert` a file of torch.save, without running code in it.

    Raises:
        UserError: no such file, one that cannot be read so, or what `convert` refuses.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: give a file of torch.save(model.state_dict())") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError):
        raise UserError(
            f"{path}: damaged, not of torch.save, or with objects that only running code would read: give a file of "
            "torch.save(model.state_dict())"
        ) from None
    try:
        return convert(state, depth, classes)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def test_imported(
    file: Path,
    name: str,
    source: str,
    dataset: dict[str, Any],
    options: Options,
    wanted: Sequence[str] = (),
    crop_size: int = protocols.CROP_SIZE,
    depth: int | None = None,
    normalization: tuple[Sequence[float], Sequence[float]] = (MEAN, DEVIATION),
) -> list[Path]:
    """Test a torchvision-style state dict and leave results/imported/NAME/evaluation-PROTOCOL.json.

    Batch norm keeps the statistics of the file. The numbers stand in a table of their own: they rebuild no cell.

    Args:
        source: where the weights come from, in words.
        wanted: protocols; none: all of the network.
        crop_size: that a ResNet was trained with; a VGG's is 224.
        normalization: mean and deviation by channel, in 0 to 255, that the weights want.

    Raises:
        UserError: the file is none of such weights, or the dataset is not prepared.
    """
    shards = open_shards(dataset, "validation", options.data_folder)
    network_parameters, state = read_weights(file, depth, dataset["classes"])
    wanted = run.choose_protocols(name, network_parameters["family"], wanted)
    crop_size = VGG_SIZE if network_parameters["family"] == "vgg" else crop_size
    if options.device != "cpu" and not torch.cuda.is_available():
        raise UserError("no GPU here: if you want the CPU, say --device cpu")
    device = torch.device("cpu" if options.device == "cpu" else "cuda")
    devices.prepare("float32", torch.get_num_threads())
    network = _build(network_parameters, dataset["classes"])
    network.load_state_dict(state)
    network.to(device, memory_format=torch.channels_last)
    mean, deviation = map(list, normalization)
    normalize = Normalization("channel-mean-and-deviation", None, mean, deviation, device)
    workers = count_workers(device, Group()) if options.workers is None else options.workers
    written = []
    for protocol in wanted:
        found = protocols.test(network, shards, protocol, normalize, crop_size, DECODER, device, workers)
        record = {
            "format": run.FORMAT,
            "kind": run.IMPORTED_KIND,
            "name": name,
            "source": source,
            "network": network_parameters,
            "protocol": protocol,
            "crop_size": crop_size,
            "decoder": DECODER,
            "normalization": {"mean": mean, "deviation": deviation},
            **Result(found.wrong, found.images, found.loss / found.images, found.wrong_top_5).as_json(),
            "arithmetic": "float32",
            "device": devices.get_name(device),
            "weights_sha256": checkpoint.weights_sha256(state),
            "file_sha256": hash_file(file),
            "data": {"name": dataset["name"], "dvc_md5": dataset["md5"]},
            "made_by": provenance.code(options.root),
        }
        written.append(run.get_imported_path(options.results, name, protocol))
        write_atomically(written[-1], json_bytes(record))
    return written
