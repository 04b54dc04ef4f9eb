"""A detector's training and test, in the place that `training.trainer.Trainer` has for a classification.

Images pass the network one by one, each with random numbers of its own, so that a step is the same function whatever
the number of processes: the images of a batch are dealt out, and gradients are averaged.
"""

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from torch import Tensor, distributed

from ..data.sampling import Sampler, stream
from ..errors import UserError
from ..records.experiment import Experiment
from ..training import devices
from ..training.assembly import recipe_of
from ..training.group import Group
from ..training.optimizer import Optimizer
from ..training.trainer import Options
from . import backbone, datasets, evaluation
from .networks import STEPS, Detector, Forward


class Images:
    """The images and boxes of a prepared dataset; files are decoded ahead by threads.

    Attributes:
        counts, protocol, workers: as the record states them.
        used: the training images with something to learn.
    """

    def __init__(self, dataset: dict[str, Any], folder: Path, train_on_difficult: bool, workers: int | None):
        self.index, self.kind = datasets.read_pinned(dataset, folder), dataset["kind"]
        self.folder, self.layout = folder / "detection" / dataset["name"], datasets.LAYOUTS[dataset["name"]]
        self.protocol = {"voc": "voc-11-point", "coco": "coco"}[self.kind]
        self.counts = {f"{split}_images": len(self.index[split]) for split in ("training", "test")}
        self.workers = 2 if workers is None else max(1, workers)
        self.threads = ThreadPoolExecutor(self.workers)
        crowds = self.kind == "coco"  # COCO marks crowds, which are never learned

        def learned(image: dict[str, Any]) -> list[int]:
            keep = [(train_on_difficult and not crowds) or not difficult for difficult in image["difficult"]]
            return [place for place, kept in enumerate(keep) if kept]

        self.used = [(image, places) for image in self.index["training"] if (places := learned(image))]

    def read(self, image: dict[str, Any]) -> Tensor:
        """float32 (3, H, W), in 0 to 255."""
        path = self.folder / image["file"]
        try:
            pixels = numpy.asarray(Image.open(path).convert("RGB"))
        except OSError as error:
            cure = f"`identity-mappings data verify {self.folder.name}` names what is damaged"
            raise UserError(f"{path}: missing or damaged ({error}): {cure}") from None
        if pixels.shape[:2] != (image["height"], image["width"]):
            raise UserError(f"{path}: of another size than its annotation says: prepare {self.folder.name} again")
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float()

    def training_view(self, number: int, flip: bool) -> tuple[Tensor, dict[str, Tensor]]:
        image, places = self.used[number]
        pixels, boxes = self.read(image), torch.tensor(image["boxes"], dtype=torch.float32)[places]
        if flip:
            pixels, boxes = pixels.flip(2), boxes[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1.0])
            boxes[:, [0, 2]] += image["width"]
        return pixels, {"boxes": boxes, "labels": torch.tensor(image["labels"])[places]}

    def score(self, found: Sequence[evaluation.Detections]) -> dict[str, Any]:
        """By the dataset's own measure; "mean_average_precision" is what its test error is 100 % minus."""
        images = self.index["test"]
        if self.kind == "voc":
            scored = evaluation.score_voc(found, list(map(datasets.objects_of, images)), self.index["classes"])
            return {"mean_average_precision": scored["map_50"], **scored}
        truth = self.folder / "annotations" / f"instances_{self.layout.test[0]}.json"
        numbers = [image["id"] for image in images]
        scored = evaluation.score_coco(found, numbers, self.index["categories"], truth)
        return {"mean_average_precision": scored["map"], **scored}

    def close(self) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)


class DetectionTrainer:
    """The detector, its optimizer and its images; `step` is an iteration of the recipe. See `Trainer`."""

    def __init__(
        self, experiment: Experiment, seed: int, device: torch.device, options: Options, group: Group | None = None
    ):
        self.recipe = recipe = recipe_of(experiment)
        self.seed, self.device, self.group = seed, device, group or Group()
        self.run = {"digest": experiment.digest, "seed": seed}
        self.state_of_backbone, self.parents = backbone.load(experiment, options)
        self.feed = Images(
            experiment.parameters["dataset"], options.data_folder, recipe.train_on_difficult, options.workers
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(seed, "construction"))
            self.network = Detector(experiment.parameters, self.state_of_backbone, seed).to(device).train()
        if recipe.steps == "alternating":
            self.initial = copy.deepcopy(self.network.backbone.state_dict())
            self.initial_head = copy.deepcopy(self.network.roi_heads.box_head.state_dict())
            self.network.proposer = copy.deepcopy(self.network.backbone).requires_grad_(False)
        self.optimizer = Optimizer(self.network, recipe)
        self.model = self.group.model(Forward(self.network))
        self.samplers = {
            size: Sampler(len(self.feed.used), size, "continue", 0, recipe.flip, seed)
            for size in {recipe.batch_size, recipe.detector_batch_size or recipe.batch_size}
        }
        self.group.share_of(min(self.samplers))  # refuses more processes than images
        self.ahead: tuple[int, list] = (-1, [])
        self.whole, self.moving = True, None

    @property
    def device_name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

    def _phase(self, iteration: int) -> tuple[str, int]:
        """The step of the training that an iteration belongs to, and the first iteration of that."""
        if self.recipe.steps == "joint":
            return "joint", 0
        quarter = self.recipe.iterations // len(STEPS)
        number = min(iteration // quarter, len(STEPS) - 1)
        return STEPS[number], number * quarter

    def _begin(self, phase: str) -> None:
        """Before the first iteration of one of the four steps: the Faster R-CNN paper, Section 3.2."""
        if phase == "detector":  # "initialized by the ImageNet pre-trained model"; "do not share" layers yet
            self.network.proposer.load_state_dict(self.network.backbone.state_dict())
            self.network.backbone.load_state_dict(self.initial)
            self.network.roi_heads.box_head.load_state_dict(self.initial_head)
        for buffer in self.optimizer.momentum:
            buffer.zero_()

    def _views(self, iteration: int) -> list:
        """Futures of this process's images of an iteration: position in the batch, pixels and boxes."""
        phase, _ = self._phase(iteration)
        detector = phase.startswith("detector") and self.recipe.detector_batch_size
        view = self.samplers[detector or self.recipe.batch_size].view(iteration)
        places = self.group.share_of(len(view.image))
        read = self.feed.training_view
        return [
            (place, self.feed.threads.submit(read, int(view.image[place]), bool(view.flip[place]))) for place in places
        ]

    def step(self, iteration: int) -> tuple[Tensor, Tensor, int]:
        """One iteration: its loss, and of its sampled regions how many were taken for another class, and how many.

        Raises:
            LostWorker: another process of the group is gone; the state is that of before the iteration.
        """
        phase, begin = self._phase(iteration)
        views = self.ahead[1] if self.ahead[0] == iteration else self._views(iteration)
        self.ahead = (iteration + 1, self._views(iteration + 1)) if iteration + 1 < self.recipe.iterations else (-1, [])
        self.optimizer.prepare(iteration)
        self.whole = iteration != begin  # the first of a step changes weights before it ends
        if iteration == begin:
            self._begin(phase)
        detector = phase.startswith("detector") and self.recipe.detector_batch_size
        batch = detector or self.recipe.batch_size
        self.optimizer.zero_grad()
        totals = torch.zeros(3, dtype=torch.float64, device=self.device)  # loss, wrong regions, regions
        with self.group.exchange(lambda: None), torch.random.fork_rng(self._cuda()):
            for place, view in views:
                pixels, target = view.result()
                torch.manual_seed(stream(self.seed, "regions", iteration, place))
                target = {key: value.to(self.device) for key, value in target.items()}
                with (
                    self.group.accumulating(self.model, last=place == views[-1][0]),
                    devices.autocast(self.device, self.recipe.arithmetic),
                ):
                    loss, wrong, regions = self.model([pixels.to(self.device)], [target], phase)
                    (loss.float() / batch * self.group.size).backward()  # the group takes the mean of its processes
                totals += torch.stack(
                    [loss.detach() / batch, wrong, torch.tensor(regions, device=self.device)]
                ).double()
            self.group.sum(totals)
        self.optimizer.update()
        self.whole = True
        return totals[0].float(), totals[1].long(), int(totals[2])

    def _cuda(self) -> list[int]:
        return [self.device.index or 0] if self.device.type == "cuda" else []

    def wait(self) -> None:
        """Nothing is queued."""

    def test(self) -> dict[str, Any]:
        """Detect on the test images, dealt out to the processes, and score."""
        images, found = self.feed.index["test"], []
        self.network.eval()
        with torch.no_grad(), devices.autocast(self.device, self.recipe.arithmetic):
            own = range(self.group.rank, len(images), self.group.size)
            for image in own:
                [seen] = self.network([self.feed.read(images[image]).to(self.device)])
                values = (seen[key].float().cpu().numpy() for key in ("boxes", "labels", "scores"))
                found.append((image, evaluation.Detections(*values)))
        self.network.train()
        if self.group.size > 1:
            every: list[Any] = [None] * self.group.size
            distributed.all_gather_object(every, found, group=self.group.votes)
            found = [pair for part in every for pair in part]
        scored = self.feed.score([detected for _, detected in sorted(found, key=lambda pair: pair[0])])
        return {"images": len(images), **scored}

    def state(self) -> dict:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
