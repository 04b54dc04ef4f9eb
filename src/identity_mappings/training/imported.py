"""`identity-mappings import-weights`: networks that were trained elsewhere, under torchvision's names, tested here."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.colour import Normalization
from ..errors import UserError
from ..evaluation import protocols
from ..evaluation.single_view import Result
from ..networks.depth import VGG_SIZE
from ..networks.torchvision_weights import build_network, convert
from ..records import provenance, run
from ..records.files import hash_file, json_bytes, write_atomically
from . import checkpoint, devices
from .group import Group
from .streamed import count_workers, open_shards
from .trainer import Options

# Of torchvision's published weights, in 0 to 255.
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
DECODER = "pillow"


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
    except ValueError as error:
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
    network = build_network(network_parameters, dataset["classes"])
    network.load_state_dict(state)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    mean, deviation = map(list, normalization)
    normalize = Normalization("channel-mean-and-deviation", None, mean, deviation, device)
    workers = count_workers(device, Group()) if options.workers is None else options.workers
    written = []
    for protocol in wanted:
        found = protocols.test_by_protocol(network, shards, protocol, normalize, crop_size, DECODER, device, workers)
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
