"""Which operators of aten CUDA cannot compute deterministically, and a mode that records those that are called."""

from torch.utils._python_dispatch import TorchDispatchMode

# torch.use_deterministic_algorithms of torch 2.11.0: "normally-nondeterministic operations will throw a RuntimeError",
# by their names in aten. Of some only a form is: those are left out by `FORMS`.
TORCH = "2.11.0"
NONDETERMINISTIC = {
    "avg_pool3d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward",
    "max_pool3d_with_indices_backward", "adaptive_max_pool2d_backward", "fractional_max_pool2d_backward",
    "fractional_max_pool3d_backward", "max_unpool2d", "max_unpool3d", "upsample_linear1d_backward",
    "upsample_bilinear2d_backward", "upsample_bicubic2d_backward", "upsample_trilinear3d_backward",
    "_upsample_bilinear2d_aa_backward", "_upsample_bicubic2d_aa_backward", "reflection_pad1d_backward",
    "reflection_pad2d_backward", "reflection_pad3d_backward", "replication_pad1d_backward",
    "replication_pad2d_backward", "replication_pad3d_backward", "nll_loss2d_forward", "nll_loss2d_backward",
    "_ctc_loss_backward", "_embedding_bag_dense_backward", "put", "put_", "histc", "bincount", "median", "nanmedian",
    "kthvalue", "grid_sampler_2d_backward", "grid_sampler_3d_backward", "cumsum", "cumsum_", "scatter_reduce",
    "scatter_reduce_", "resize_",
}  # fmt: skip
FORMS = {
    "cumsum": lambda arguments: not arguments[0].is_floating_point(),
    "cumsum_": lambda arguments: not arguments[0].is_floating_point(),
    "resize_": lambda arguments: not arguments[0].is_quantized,
}


class Recorded(TorchDispatchMode):
    """The names of the aten operators that are called, but for forms that are deterministic."""

    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if not (name in FORMS and FORMS[name](args)):
            self.names.add(name)
        return function(*args, **(kwargs or {}))
