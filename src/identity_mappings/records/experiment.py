"""An experiment with every parameter resolved, and the digest that is its identity."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import UserError
from .files import canonical, json_bytes, parse_json, sha256, write_atomically

# Raised by hand when a change of code changes the numbers that a run gives, and only then: it is part of every digest.
NUMERICS = 2

# In the order in which tables prefer them: IEEE single precision, the papers' own; TensorFloat-32, PyTorch's default
# for convolutions; and bfloat16.
ARITHMETICS = ("float32", "tf32", "bfloat16")


def identity(parameters: Any) -> Any:
    """What of the parameters makes an experiment: all but keys that are null.

    A key that is added later and is null by default changes no experiment that does not use it.
    """
    if isinstance(parameters, dict):
        # The arguments of a custom shortcut are its class's own: there, null is a value.
        kept = {key: value for key, value in parameters.items() if value is not None}
        return {key: value if key == "arguments" else identity(value) for key, value in kept.items()}
    return parameters


def get_image_counts(parameters: dict[str, Any]) -> dict[str, int]:
    """Images that a run trains on and is tested on, by its resolved parameters."""
    dataset, held_out = parameters["dataset"], (parameters["recipe"] or {}).get("validation")
    training, test = dataset["training_images"], dataset["test_images"]
    return {"training_images": training - (held_out or 0), "test_images": held_out or test}


@dataclass(frozen=True)
class Experiment:
    """Dataset, network and recipe, with nothing left to look up."""

    name: str
    scale: str  # at which it was resolved
    parameters: dict[str, Any]  # {"dataset": ..., "network": ..., "recipe": ...}: all that can change its numbers
    gpus: int = 1  # devices that a run wants
    custom_source: str | None = None  # file of the user's own shortcut, relative to the project

    def in_arithmetic(self, arithmetic: str) -> "Experiment":
        """The same experiment in another arithmetic: other runs, with another digest."""
        if self.parameters["recipe"] is None or self.parameters["recipe"]["arithmetic"] == arithmetic:
            return self
        recipe = {**self.parameters["recipe"], "arithmetic": arithmetic}
        return replace(self, parameters={**self.parameters, "recipe": recipe})

    @cached_property
    def alternatives(self) -> list["Experiment"]:
        """Itself in every arithmetic, in the order in which tables prefer them."""
        return [self.in_arithmetic(arithmetic) for arithmetic in ARITHMETICS] if self.parameters["recipe"] else [self]

    @cached_property  # reports ask for it many thousand times
    def digest(self) -> str:
        """12 hexadecimal digits; never of a name, a commit, a time, a host or a path."""
        return sha256(canonical({"numerics": NUMERICS, **identity(self.parameters)}))[:12]

    @property
    def network_digest(self) -> str:
        """12 hexadecimal digits of the network and of the shape of its inputs and outputs: what its cost depends on."""
        dataset = self.parameters["dataset"]
        shape = {key: dataset.get(key) for key in ("classes", "channels", "size")}
        return sha256(canonical(identity({"inputs": shape, "network": self.parameters["network"]})))[:12]

    @property
    def streamed(self) -> bool:
        """Whether its images come from shards or files, as on ImageNet, and are not all in memory."""
        return self.detects or (self.parameters["recipe"] or {}).get("crop") is not None

    @property
    def detects(self) -> bool:
        """Whether it is a detection, which begins from the weights of another experiment's run."""
        return "backbone" in self.parameters

    @property
    def untrainable(self) -> str | None:
        """Why nothing can be trained of it, with the cure; None if it can."""
        if self.parameters["recipe"] is None:
            return f"{self.name} has no recipe, only its cost is counted: name a recipe in params/experiments"
        dataset = self.parameters["dataset"]
        if dataset["md5"] is None:
            return f"{self.name}: params/datasets.yaml pins no data for {dataset['name']} yet: give its md5"
        return None

    @property
    def folder(self) -> str:
        return f"{self.name}-{self.digest}"

    def as_json(self) -> dict[str, Any]:
        return {
            "experiment": self.name,
            "scale": self.scale,
            "digest": self.digest,
            "gpus": self.gpus,
            "custom_source": self.custom_source,
            "parameters": self.parameters,
        }

    def save(self, path: Path) -> None:
        write_atomically(path, json_bytes(self.as_json()))

    @classmethod
    def load(cls, path: Path) -> "Experiment":
        """Read a resolved parameter file.

        Raises:
            UserError: the file is missing, not such a file, or was edited after it was resolved.
        """
        cure = "make it with `identity-mappings resolve`"
        try:
            saved = parse_json(path.read_bytes())
            keys = ("experiment", "scale", "parameters", "gpus", "custom_source")
            experiment = cls(*(saved[key] for key in keys))
            digest, found = saved["digest"], experiment.digest
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}: {cure}") from None
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}: not a resolved parameter file: {cure}") from None
        if found != digest:
            raise UserError(
                f"{path}: its parameters have the digest {found}, not {digest} as it says: it was edited "
                "or resolved by another version; change params/ and resolve it again"
            )
        return experiment
