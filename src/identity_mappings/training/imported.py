"""`identity-mappings import-weights`: a network that was trained elsewhere, tested by the papers' protocols."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..data.colour import Normalization
from ..evaluation import protocols
from ..networks.imagenet import ImageNetResNet
from ..records import imported
from ..records.files import json_bytes, sha256_of, write_atomically
from . import checkpoint, devices
from .evaluate import made_by
from .group import Group
from .import_weights import read
from .streamed import pinned, workers_for
from .trainer import Options

# Of torchvision's published weights, in 0 to 255.
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def test(
    file: Path,
    name: str,
    source: str,
    dataset: dict[str, Any],
    options: Options,
    wanted: Sequence[str] = (),
    crop_size: int = protocols.CROP_SIZE,
    depth: int | None = None,
    normalization: tuple[Sequence[float], Sequence[float]] = (MEAN, DEVIATION),
    decoder: str = "pillow",
) -> list[Path]:
    """Test a torchvision-style state dict and leave results/imported/NAME/evaluation-PROTOCOL.json.

    Batch norm keeps the statistics that the file brings. The numbers stand in a table of their own, as of imported
    weights and another recipe: they rebuild no cell.

    Args:
        file: of torch.save; only weights are read, no code.
        name: of the record.
        source: where the weights come from, in words.
        dataset: the parameters' entry of its images.
        options: where results and data lie, and the device.
        wanted: protocols; none: all.
        crop_size: that the network was trained with.
        depth: of the network; None: found from the names of its layers.
        normalization: mean and deviation by channel, in 0 to 255, that the weights want.
        decoder: of the images.

    Raises:
        UserError: the file is none of such weights, or the dataset is not prepared.
    """
    shards = pinned(dataset, "validation", options.data_folder)
    network_parameters, state = read(file, depth, dataset["classes"])
    arguments = {key: value for key, value in network_parameters.items() if key != "family"}
    device = torch.device("cpu") if options.device == "cpu" else devices.any_gpu()
    devices.prepare("float32", torch.get_num_threads())
    network = ImageNetResNet(**arguments, classes=dataset["classes"])
    network.load_state_dict(state)
    network.to(device, memory_format=torch.channels_last)
    normalize = Normalization(
        "channel-mean-and-deviation",
        channel_mean=list(normalization[0]),
        channel_deviation=list(normalization[1]),
        device=device,
    )
    workers = workers_for(device, Group()) if options.workers is None else options.workers
    written = []
    for protocol in wanted or protocols.PROTOCOLS:
        found = protocols.test(network, shards, protocol, normalize, crop_size, decoder, device, workers)
        record = {
            "format": imported.FORMAT,
            "kind": imported.KIND,
            "name": name,
            "source": source,
            "network": network_parameters,
            "protocol": protocol,
            "crop_size": crop_size,
            "decoder": decoder,
            "normalization": {"mean": list(normalization[0]), "deviation": list(normalization[1])},
            "test_error": round(100 * found.wrong / found.images, 6),
            "top_5_error": round(100 * found.wrong_top_5 / found.images, 6),
            "wrong": found.wrong,
            "wrong_top_5": found.wrong_top_5,
            "images": found.images,
            "test_loss": found.loss / found.images,
            "arithmetic": "float32",
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "weights_sha256": checkpoint.weights_sha256(state),
            "file_sha256": sha256_of(file),
            "data": {"name": dataset["name"], "dvc_md5": dataset["md5"]},
            "made_by": made_by(options.root),
        }
        written.append(imported.path_of(options.results, name, protocol))
        write_atomically(written[-1], json_bytes(record))
    return written
