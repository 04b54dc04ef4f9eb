"""A detector's training and test: what `training.trainer.Trainer` is for a classification.

Images pass the network one by one, each with random numbers of its own, so that a step is the same function whatever
the number of processes: the images of a batch are dealt out, and gradients are averaged.
"""

import copy
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from ..data import boxes
from ..data.sampling import Sampler, derive_seed
from ..records.experiment import Experiment
from ..training import devices
from ..training.assembly import get_recipe
from ..training.group import Group
from ..training.optimizer import Optimizer
from ..training.trainer import Options
from . import backbone, scores
from .networks import STEPS, Detector


class Images:
    """The images and boxes of a prepared dataset; files are decoded ahead by threads.

    Attributes:
        counts, protocol, workers: as the record states them.
        training: the images with something to learn, and what is learned of each.
    """

    def __init__(self, dataset: dict[str, Any], folder: Path, train_on_difficult: bool, workers: int | None):
        self.index, self.kind = boxes.read_boxes(dataset["name"], folder, dataset), dataset["kind"]
        self.folder = folder / "detection" / dataset["name"]
        self.protocol = {"voc": "voc-11-point", "coco": "coco"}[self.kind]
        self.counts = {f"{split}_images": len(self.index[split]) for split in ("training", "test")}
        self.workers = 2 if workers is None else max(1, workers)
        self.threads = ThreadPoolExecutor(self.workers)
        self.training: list[tuple[dict[str, Any], boxes.Boxes]] = []
        for image in self.index["training"]:
            objects = boxes.get_objects(image)
            # COCO's difficult objects are crowds, which are never learned.
            kept = ~objects["difficult"] | (train_on_difficult and self.kind == "voc")
            if kept.any():
                self.training.append((image, {"boxes": objects["boxes"][kept], "labels": objects["labels"][kept]}))

    def read(self, image: dict[str, Any]) -> Tensor:
        return boxes.read_pixels(self.folder, image)

    def training_view(self, number: int, flip: bool) -> tuple[Tensor, boxes.Boxes]:
        image, objects = self.training[number]
        pixels, corners = self.read(image), objects["boxes"].float()
        if flip:
            pixels, corners = pixels.flip(2), corners[:, [2, 1, 0, 3]]
            corners[:, [0, 2]] = image["width"] - corners[:, [0, 2]]
        return pixels, {**objects, "boxes": corners}

    def score(self, found: Sequence[boxes.Boxes]) -> dict[str, Any]:
        """By the dataset's own measure; "mean_average_precision" is what its test error is 100 % minus."""
        images, classes = self.index["test"], self.index["classes"]
        if self.kind == "voc":
            scored = scores.score_voc(found, list(map(boxes.get_objects, images)), classes)
            return {"mean_average_precision": scored["map_50"], **scored}
        truth = self.folder / "annotations" / f"instances_{boxes.COCO_SPLITS['test']}.json"
        scored = scores.score_coco(found, [image["id"] for image in images], self.index["categories"], truth)
        return {"mean_average_precision": scored["map"], **scored}

    def close(self) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)


class DetectionTrainer:
    """The detector, its optimizer and its images; `step` is an iteration of the recipe. See `RunTrainer`."""

    why_eager = None  # its steps are never recorded: their shapes differ

    def __init__(
        self, experiment: Experiment, seed: int, device: torch.device, options: Options, group: Group | None = None
    ):
        self.recipe = recipe = get_recipe(experiment)
        self.seed, self.device, self.group = seed, device, group or Group()
        self.device_name = devices.get_name(device)
        self.run_key = {"digest": experiment.digest, "seed": seed}
        state, self.parents = backbone.load(experiment, options)
        self.feed = Images(
            experiment.parameters["dataset"], options.data_folder, recipe.train_on_difficult, options.workers
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "construction"))
            self.network = Detector(experiment.parameters, state, seed).to(device).train()
        if recipe.steps == "alternating":
            self.initial = copy.deepcopy(self.network.backbone.state_dict())
            self.initial_head = copy.deepcopy(self.network.roi_heads.box_head.state_dict())
            self.network.proposer = copy.deepcopy(self.network.backbone).requires_grad_(False)
        self.optimizer = Optimizer(self.network, recipe)
        self.model = self.group.model(self.network)
        self.sampler, self.detector_sampler = (
            Sampler(len(self.feed.training), size, "continue", 0, recipe.flip, seed)
            for size in (recipe.batch_size, recipe.detector_batch_size or recipe.batch_size)
        )
        # Refuses more processes than images.
        self.group.get_share(min(self.sampler.batch_size, self.detector_sampler.batch_size))
        self.ahead: dict[int, list] = {}  # views of the next iteration, which threads decode meanwhile
        self.moving: dict[str, Tensor] | None = None

    def _phase(self, iteration: int) -> tuple[str, int, Sampler]:
        """The step of the training that an iteration belongs to, that step's first iteration, and its batches."""
        if self.recipe.steps == "joint":
            return "joint", 0, self.sampler
        quarter = self.recipe.iterations // len(STEPS)
        step = STEPS[iteration // quarter]
        sampler = self.detector_sampler if step.startswith("detector") else self.sampler
        return step, iteration // quarter * quarter, sampler

    def _begin(self, phase: str) -> None:
        """Before the first iteration of one of the four steps: the Faster R-CNN paper, Section 3.2."""
        if phase == "detector":  # "initialized by the ImageNet pre-trained model"; "do not share" layers yet
            self.network.proposer.load_state_dict(self.network.backbone.state_dict())
            self.network.backbone.load_state_dict(self.initial)
            self.network.roi_heads.box_head.load_state_dict(self.initial_head)
        for buffer in self.optimizer.momentum:
            buffer.zero_()

    def _views(self, iteration: int) -> list[tuple[int, Future]]:
        """Of this process's images of an iteration: position in the batch; pixels and boxes."""
        if iteration == self.recipe.iterations:
            return []
        *_, sampler = self._phase(iteration)
        view, submit = sampler.view(iteration), self.feed.threads.submit
        return [
            (place, submit(self.feed.training_view, int(view.image[place]), bool(view.flip[place])))
            for place in self.group.get_share(len(view.image))
        ]

    def step(self, iteration: int) -> tuple[Tensor, Tensor, int]:
        """One iteration: its loss, the misclassified sampled regions, and the number of sampled regions."""
        phase, begin, sampler = self._phase(iteration)
        views = self.ahead.get(iteration) or self._views(iteration)
        self.ahead = {iteration + 1: self._views(iteration + 1)}
        self.optimizer.prepare(iteration)
        if iteration == begin:
            self._begin(phase)
        self.optimizer.zero_grad()
        totals = torch.zeros(3, dtype=torch.float64, device=self.device)  # loss, wrong regions, regions
        cuda = [self.device.index or 0] if self.device.type == "cuda" else []
        with torch.random.fork_rng(cuda):
            for place, view in views:
                pixels, target = view.result()
                torch.manual_seed(derive_seed(self.seed, "regions", iteration, place))
                target = {key: value.to(self.device) for key, value in target.items()}
                with (
                    self.group.accumulating(self.model, last=place == views[-1][0]),
                    devices.autocast(self.device, self.recipe.arithmetic),
                ):
                    loss, wrong, regions = self.model([pixels.to(self.device)], [target], phase)
                    # The group takes the mean of its processes.
                    (loss.float() / sampler.batch_size * self.group.size).backward()
                counts = [wrong, torch.tensor(regions, device=self.device)]
                totals += torch.stack([loss.detach() / sampler.batch_size, *counts]).double()
            self.group.sum(totals)
        self.optimizer.update()
        return totals[0].float(), totals[1].long(), int(totals[2])

    def recompute_statistics(self) -> None:
        """Batch norm is frozen: there is nothing to recompute."""

    def state(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])

    def close(self) -> None:
        self.feed.close()

    def test(self) -> dict[str, Any]:
        """Detect on the test images, dealt out to the processes, and score."""
        images, found = self.feed.index["test"], {}
        self.network.eval()
        with torch.no_grad(), devices.autocast(self.device, self.recipe.arithmetic):
            for number in range(self.group.rank, len(images), self.group.size):
                [seen] = self.network([self.feed.read(images[number]).to(self.device)])
                found[number] = {name: (x.float() if x.is_floating_point() else x).cpu() for name, x in seen.items()}
        self.network.train()
        if self.group.size > 1:
            every: list[Any] = [None] * self.group.size
            distributed.all_gather_object(every, found, group=self.group.votes)
            found = {number: seen for part in every for number, seen in part.items()}
        return {"images": len(images), **self.feed.score([found[number] for number in range(len(images))])}
