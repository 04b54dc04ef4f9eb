"""The order of images and their crops and flips."""

import pytest
import torch

from identity_mappings.data.sampling import DeviceViews, Sampler, View, derive_seed, make_generator


def sampler(images=1000, batch_size=128, epoch_end="continue", padding=4, flip=True, seed=0):
    return Sampler(images, batch_size, epoch_end, padding, flip, seed)


def tensors(view):
    return view.image, view.top, view.left, view.flip


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


@pytest.mark.parametrize("batch_size, batches", [(128, 40), (100, 50), (3000, 2)])
def test_every_epoch_shows_every_image_once_in_batches_that_continue(batch_size, batches):
    one = sampler(batch_size=batch_size)
    views = [one.view(iteration).image for iteration in range(batches)]
    assert {len(image) for image in views} == {batch_size}
    assert_permutations(torch.cat(views)[:5000].view(5, 1000))


@pytest.mark.parametrize("batch_size, per_epoch", [(128, 8), (100, 10), (3000, 1)])
def test_every_epoch_shows_every_image_once_with_short_batches(batch_size, per_epoch):
    one = sampler(batch_size=batch_size, epoch_end="short-batch")
    assert_permutations(torch.cat([one.view(iteration).image for iteration in range(5 * per_epoch)]).view(5, 1000))


def assert_permutations(orders):
    """Of all images, each epoch in an order of its own, and none as they are stored."""
    assert all(torch.equal(order.sort().values, torch.arange(1000)) for order in orders)
    for order, other in zip([torch.arange(1000), *orders], orders, strict=False):
        assert (order == other).double().mean() < 0.05


def test_batches_continue_across_the_end_of_an_epoch():
    """he2016: 64,000 batches of 128 are 163.84 epochs of 50,000, without a gap."""
    one = sampler(images=50_000)
    epoch = position = 0
    for iteration in range(64_000):
        parts = one.positions(iteration)
        assert sum(end - begin for _, begin, end in parts) == 128
        for part in parts:
            assert part[:2] == (epoch, position)
            position = part[2]
            if position == 50_000:
                epoch, position = epoch + 1, 0
    assert (epoch, position) == (163, 42_000)
    assert one.positions(390) == [(0, 49_920, 50_000), (1, 0, 48)]


def test_short_batches_end_an_epoch():
    """Released code: 782 batches of 64 of 50,000, the last with 16; 200 epochs are 156,400 batches."""
    one = sampler(images=50_000, batch_size=64, epoch_end="short-batch")
    position = 0
    for iteration in range(782):
        ((epoch, begin, end),) = one.positions(iteration)
        assert (epoch, begin) == (0, position)
        assert end - begin == (64 if iteration < 781 else 16)
        position = end
    assert position == 50_000
    assert one.positions(782) == [(1, 0, 64)]
    assert one.positions(156_399) == [(199, 49_984, 50_000)]
    assert len(one.view(781).image) == 16


def test_a_batch_across_two_epochs_has_the_views_of_both():
    one = sampler()
    view, (first, second) = one.view(7), (one.epoch(0), one.epoch(1))  # positions 896 to 1000, and 0 to 24
    for name in View._fields:
        assert torch.equal(getattr(view, name), torch.cat([getattr(first, name)[896:], getattr(second, name)[:24]]))


def test_any_iteration_can_be_asked_for_first():
    """A resumed run sees what an uninterrupted one sees."""
    one = sampler()
    views = [one.view(iteration) for iteration in range(40)]
    torch.manual_seed(123)
    for iteration in (39, 7, 8, 0, 25, 7):
        assert equal(sampler().view(iteration), views[iteration])
        assert equal(one.view(iteration), views[iteration])


def test_crops_and_flips_of_an_image_do_not_depend_on_the_batch_size():
    whole, parts = sampler(batch_size=1000).view(0), [sampler(batch_size=100).view(i) for i in range(10)]
    for index, tensor in enumerate(tensors(whole)):
        assert torch.equal(tensor, torch.cat([tensors(part)[index] for part in parts]))


@pytest.mark.parametrize("seed", [1, 10])
def test_seeds_have_nothing_in_common(seed):
    assert_independent(sampler().epoch(0), sampler(seed=seed).epoch(0))


def test_epochs_have_nothing_in_common():
    one = sampler()
    assert_independent(one.epoch(0), one.epoch(1))


def assert_independent(a, b):
    """One place in 1000, one crop in 9 and one flip in 2 agree by chance."""
    assert (a.image == b.image).float().mean() < 0.05
    assert (a.top == b.top).float().mean() < 0.2
    assert (a.left == b.left).float().mean() < 0.2
    assert 0.4 < (a.flip == b.flip).float().mean() < 0.6


@pytest.mark.parametrize("padding", [4, 1])
def test_crops_are_uniform_over_the_padded_image(padding):
    """Rows and columns are independent of each other, of the flip and of the order: 5 standard deviations each."""
    images, sides = 50_000, 2 * padding + 1
    epoch = sampler(images=images, padding=padding).epoch(0)
    assert (epoch.top.min(), epoch.top.max(), epoch.left.min(), epoch.left.max()) == (0, 2 * padding, 0, 2 * padding)
    cells = torch.bincount((epoch.top * sides + epoch.left) * 2 + epoch.flip, minlength=2 * sides**2)
    expected = images / (2 * sides**2)
    assert len(cells) == 2 * sides**2
    assert ((cells - expected).abs() < 5 * expected**0.5).all()
    halves = [torch.bincount(part, minlength=sides) for part in epoch.top.chunk(2)]
    assert ((halves[0] - halves[1]).abs() < 5 * (images / sides) ** 0.5).all()


def test_half_of_the_images_are_flipped():
    flip = sampler(images=50_000).epoch(0).flip
    assert flip.dtype == torch.bool
    assert flip.double().mean().item() == pytest.approx(0.5, abs=0.01)


def test_no_flip_and_no_padding_leave_the_images_as_they_are():
    view = sampler(batch_size=1000, flip=False, padding=0).view(0)
    assert not view.flip.any()
    assert not view.top.any()
    assert not view.left.any()


def test_flips_off_do_not_change_crops_or_order():
    a, b = sampler(flip=True).view(3), sampler(flip=False).view(3)
    assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("image", "top", "left"))
    assert a.flip.any()
    assert not b.flip.any()


def test_streams_differ_by_seed_and_purpose():
    purposes = [(0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1), (0, "a", 11), (0, "a", "1", "1"), (0, "a")]
    seeds = [derive_seed(*purpose) for purpose in purposes]
    assert len(set(seeds)) == len(purposes)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "a", 1) == seeds[0]
    numbers = [torch.rand(3, generator=make_generator(*purpose)) for purpose in (purposes[0], purposes[0], purposes[1])]
    assert torch.equal(numbers[0], numbers[1])
    assert not torch.equal(numbers[0], numbers[2])


def test_streams_are_those_of_every_machine_and_version():
    """A change of this number is a change of every run: the first 63 bits of the SHA-256 of "0/order/0"."""
    assert derive_seed(0, "order", 0) == 3_955_691_223_199_900_983


@pytest.mark.parametrize("epoch_end", ["continue", "short-batch"])
@pytest.mark.parametrize("batch_size", [128, 100, 1000, 1500, 3000])
@pytest.mark.parametrize("replicas", [1, 2])
def test_tables_on_the_device_have_the_samplers_views(epoch_end, batch_size, replicas):
    """In order, and after jumps to and fro, as a resumed run makes them; a replica has every so many samples."""
    one = sampler(batch_size=batch_size, epoch_end=epoch_end)
    there = DeviceViews(one, torch.device("cpu"))
    for iteration in (*range(20), 3, 47, 46):
        view, size = one.view(iteration), there.seek(iteration)
        assert size == len(view.image)
        for replica in range(replicas):
            found = there.part(size, replica, replicas)
            assert equal(found, View(*(tensor[replica::replicas] for tensor in view)))
