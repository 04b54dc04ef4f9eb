"""From an experiment's parameters to a network with its initial weights."""

import copy
import hashlib
import math
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import nn

from ..data.sampling import make_generator
from ..errors import UserError
from ..networks.batch_norm import BatchNorm2d
from ..networks.families import FAMILIES, Network
from ..networks.shortcuts import Gate, Shortcut
from ..records.experiment import Experiment

LAYERS: dict[str, Any] = {"convolution": nn.Conv2d, "linear": nn.Linear, "batch-norm": (BatchNorm2d, nn.BatchNorm2d)}


def get_recipe(experiment: Experiment) -> SimpleNamespace:
    """The recipe's keys as attributes; params/recipes/ and workflow/schemas/recipe.json say what each is."""
    return SimpleNamespace(**experiment.parameters["recipe"])


def load_custom_shortcut(source: Path, sha256: str, class_name: str) -> type[Shortcut]:
    """The class of a shortcut of the user's own, from the very bytes whose hash is in the digest.

    Raises:
        UserError: the file is not there, has changed since the experiment was resolved, or lacks the class.
    """
    try:
        content = source.read_bytes()
    except OSError as error:
        raise UserError(f"{source}: {error.strerror}: the experiment's shortcut is defined there") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{source}: changed since the experiment was resolved: resolve it again, it is another run")
    module = ModuleType(source.stem)
    try:
        exec(compile(content, str(source), "exec"), module.__dict__)
    except Exception as error:  # the user's own code may raise anything
        raise UserError(f"{source}: cannot be imported: {type(error).__name__}: {error}") from None
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, Shortcut)):
        raise UserError(f"{source}: no class {class_name} derived from identity_mappings.networks.shortcuts.Shortcut")
    if found.forward is Shortcut.forward:
        raise UserError(
            f"{source}: {class_name} has no method forward(self, x, f): without, it is the identity shortcut"
        )
    return found


def _try_shortcuts(network: Any, shortcut_class: type[Shortcut], source: str) -> None:
    """Call the user's own shortcut once in each place that it has in a network.

    Raises:
        UserError: it fails, or what it returns is not like F(x).
    """
    tried = set()
    for unit in network.units:
        convolutions = [module for module in unit.residual.modules() if isinstance(module, nn.Conv2d)]
        stride = math.prod(convolution.stride[0] for convolution in convolutions)
        place = convolutions[0].in_channels, convolutions[-1].out_channels, stride
        if type(unit.shortcut) is not shortcut_class or place in tried:
            continue
        tried.add(place)
        with torch.random.fork_rng(devices=[]), torch.no_grad(), convolutions[0].weight.device:
            x, f = torch.zeros(2, place[0], 8, 8), torch.zeros(2, place[1], 8 // stride, 8 // stride)
            where = f"{source}: {shortcut_class.__name__}.forward(x, f) with x {_describe(x)} and f {_describe(f)}"
            try:
                y = copy.deepcopy(unit.shortcut).eval()(x, f)
            except Exception as error:
                cure = "self.path(x) has the shape of f"
                raise UserError(f"{where}: {type(error).__name__}: {error} ({cure})") from None
        if _describe(y) != _describe(f):
            raise UserError(f"{where} returns {_describe(y)}: return a tensor like f")


def _describe(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return f"{type(value).__name__}, no tensor"
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def get_arguments(experiment: Experiment) -> tuple[str, dict[str, Any]]:
    """Family and keyword arguments of an experiment's network, as JSON has them."""
    # A key that is null is one that the paper's network does not have.
    network = {key: value for key, value in experiment.parameters["network"].items() if value is not None}
    dataset = experiment.parameters["dataset"]
    family, sizes = network.pop("family", "cifar"), {"classes": dataset["classes"], "in_channels": dataset["channels"]}
    if family == "vgg":
        dropout = (experiment.parameters["recipe"] or {}).get("dropout")
        return family, {"depth": network["depth"], **sizes, "size": dataset["size"], "dropout": dropout}
    batch_norm: dict[str, Any] = {}
    if experiment.parameters["recipe"] is not None:
        recipe = get_recipe(experiment)
        batch_norm = {
            "replicas": recipe.batch_size // recipe.batch_norm_samples,
            "batch_norm_eps": recipe.batch_norm_eps,
            "batch_norm_momentum": recipe.batch_norm_momentum,
            "running_statistics": recipe.running_statistics,
        }
    return family, {**sizes, **batch_norm, **network}


def build(experiment: Experiment, root: Path = Path()) -> Network:
    """The experiment's network, not yet initialized; `root` is what a custom shortcut's path is relative to."""
    family, arguments = get_arguments(experiment)
    if family == "vgg":
        return FAMILIES[family](**arguments)
    shortcut, shortcut_class = dict(arguments.pop("shortcut")), None
    if shortcut["kind"] == "custom":
        if experiment.custom_source is None:
            raise UserError(f"{experiment.name}: the resolved parameters name no file of its custom shortcut")
        source = root / experiment.custom_source
        shortcut_class = load_custom_shortcut(source, shortcut["sha256"], shortcut["class_name"])
        shortcut = {"kind": "custom", **shortcut["arguments"]}
    arguments |= {"shortcut": shortcut}
    if shortcut_class is None:
        return FAMILIES[family](**arguments)
    try:
        arguments["shortcut_class"] = shortcut_class
        network = FAMILIES[family](**arguments)
    except Exception as error:  # the user's own code may raise anything
        raise UserError(
            f"{source}: {shortcut_class.__name__}.__init__(self, in_channels, out_channels, stride, path, norm, and "
            f"the arguments of params/): {type(error).__name__}: {error}"
        ) from None
    _try_shortcuts(network, shortcut_class, str(source))
    return network


@torch.no_grad()
def initialize(network: nn.Module, recipe: SimpleNamespace, seed: int) -> None:
    """Draw the initial weights: a function of the seed and each weight's name, whatever the order of modules.

    Convolutions: N(0, sqrt(2 / n)), n = k k c_in ("he-fan-in"; He et al. 2015, "Delving deep", Equation 10) or
    k k c_out ("he-fan-out", the released code). Gates keep their initial bias.
    """
    for name, module in network.named_modules():
        g = make_generator(seed, "initialization", name)
        if isinstance(module, nn.Conv2d):
            fan_in = recipe.convolution_initialization == "he-fan-in"
            n = math.prod(module.kernel_size) * (module.in_channels if fan_in else module.out_channels)
            module.weight.normal_(0, (2 / n) ** 0.5, generator=g)
        elif isinstance(module, nn.Linear) and recipe.linear_initialization == "he-fan-in":
            module.weight.normal_(0, (2 / module.in_features) ** 0.5, generator=g)
        elif isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            module.weight.uniform_(-bound, bound, generator=g)
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None and not isinstance(module, Gate):
            module.bias.zero_()


def decayed(network: nn.Module, kinds: list[str]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters that weight decay acts on, and the others.

    Args:
        kinds: of "convolution", "linear" (their weights), "batch-norm" (its scale), "bias" (of all layers) and
            "other" (what a shortcut of the user's own may have).
    """
    with_decay: list[nn.Parameter] = []
    without: list[nn.Parameter] = []
    for module in network.modules():
        layer = next((kind for kind, layers in LAYERS.items() if isinstance(module, layers)), "other")
        for name, parameter in module.named_parameters(recurse=False):
            decays = ("bias" if name == "bias" else layer) in kinds
            (with_decay if decays else without).append(parameter)
    return with_decay, without
