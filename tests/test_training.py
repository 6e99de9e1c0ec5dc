"""Training against formulas and loops written out here: rates, batches, loss, optimiser, average, resumption."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, fields, replace

import pytest
import torch
from torch import Tensor, nn

from tutorial_lib.checkpoints import load_checkpoint, save_checkpoint
from tutorial_lib.denoiser import EfficientTransformerDenoiser
from tutorial_lib.noising import NoiseSchedule
from tutorial_lib.training import EMA, TrainConfig, diffusion_loss, train, training_batch

NAN, INF = float("nan"), float("inf")
NULL = 4  # the null class of the tiny network


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny(seed: int, **changes) -> EfficientTransformerDenoiser:
    """A tiny network with random weights everywhere (a new one answers grey, and few of its gradients are not 0)."""
    sizes = {"image_size": 8, "dim": 16, "heads": 2, "layers": 1, "ff_dim": 32, "num_classes": NULL, **changes}
    model, generator = EfficientTransformerDenoiser(**sizes), gen(seed)
    with torch.no_grad():
        for weights in model.parameters():
            weights.normal_(std=0.2, generator=generator)
    return model


def pictures(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.rand(count, 1, 8, 8, generator=gen(seed), dtype=dtype) * 2 - 1, torch.arange(count) % NULL


def run(model, images, labels, config, **options) -> list:
    """All the progress of a run, with copies of what changes from step to step."""
    return [
        (progress, copy.deepcopy(progress.model.state_dict()), copy.deepcopy(progress.ema.state_dict()))
        for progress in train(model, images, labels, config, device="cpu", **options)
    ]


def refuses(call, *words: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)


def same(a: object, b: object) -> bool:
    """Bit for bit, through nested dicts and lists."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


# ----------------------------------------------------------------------------------------------------------- recipes


def test_published_recipe():
    config = TrainConfig.published()
    assert (config.batch_size, config.lr, config.weight_decay, config.epochs) == (128, 3e-4, 0.05, 30)
    assert (config.restart_epochs, config.warmup_steps, config.steps, config.levels) == (5, 0, None, None)
    assert TrainConfig.published(seed=7, lr=1e-3).seed == 7 and TrainConfig.published(lr=1e-3).lr == 1e-3


def test_fast_recipe():
    config = TrainConfig.fast()
    assert (config.batch_size, config.lr, config.weight_decay, config.epochs) == (128, 6e-3, 0.05, 30)
    assert (config.restart_epochs, config.warmup_steps, config.min_lr) == (None, 100, 0)
    assert (config.label_dropout, config.grad_clip, config.levels) == (0.1, 1, None)
    assert TrainConfig.fast(steps=9).steps == 9 and TrainConfig.fast() == TrainConfig()


@pytest.mark.parametrize(("images", "per_epoch"), [(4000, 31), (60_000, 468), (128, 1), (127, 1), (255, 1), (256, 2)])
def test_steps_are_known_beforehand(images, per_epoch):
    assert TrainConfig().steps_per_epoch(images) == per_epoch
    assert TrainConfig().total_steps(images) == 30 * per_epoch
    assert TrainConfig(epochs=3).total_steps(images) == 3 * per_epoch
    assert TrainConfig(epochs=3, steps=17).total_steps(images) == 17


# ------------------------------------------------------------------------------------------------------ learning rate


def test_published_rate_is_torchs_warm_restarts():
    config, images = TrainConfig.published(batch_size=10), 104  # 10 steps an epoch
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=3e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=50, eta_min=1e-6)
    for step in range(300):
        assert config.lr_at(step, images) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), step
        optimizer.step()
        scheduler.step()
    assert [step for step in range(300) if config.lr_at(step, images) == 3e-4] == [0, 50, 100, 150, 200, 250]


@pytest.mark.parametrize("low", [0.0, 1e-4])
def test_fast_rate_climbs_then_falls_once(low):
    config, images = TrainConfig.fast(min_lr=low, batch_size=10), 1000  # 3,000 steps
    rates = [config.lr_at(step, images) for step in range(3000)]
    assert rates[:100] == pytest.approx([6e-3 * (k + 1) / 100 for k in range(100)], rel=1e-12)
    assert rates[100] == 6e-3 and rates[100 + 1450] == pytest.approx((6e-3 + low) / 2, rel=1e-9)
    assert rates[100 + 725] == pytest.approx(low + (6e-3 - low) * (2 + math.sqrt(2)) / 4, rel=1e-9)
    assert all(a > b for a, b in zip(rates[100:], rates[101:], strict=False))
    assert low <= rates[-1] < low + 6e-3 * (math.pi / 2 / 2900) ** 2 * 1.001  # one step before the cosine's end


def test_rate_of_restarts_after_a_warm_up():
    config, images = TrainConfig(lr=1.0, warmup_steps=4, restart_epochs=2, batch_size=10), 30  # every 6 steps
    fall = [(1 + math.cos(math.pi * k / 6)) / 2 for k in range(6)]
    rates = [config.lr_at(step, images) for step in range(16)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, *fall, *fall], rel=1e-12)


def test_rate_without_a_warm_up_and_with_nothing_else():
    assert TrainConfig(warmup_steps=0, steps=10).lr_at(0, 1000) == 6e-3
    config = TrainConfig(warmup_steps=100, steps=5)  # a run shorter than its warm-up
    assert [config.lr_at(step, 1000) for step in range(5)] == pytest.approx([6e-5 * (k + 1) for k in range(5)])


# -------------------------------------------------------------------------------------------------------------- loss


def test_loss_equals_a_loop():
    x0, eps = (torch.randn(3, 1, 2, 2, generator=gen(seed), dtype=torch.float64) for seed in (1, 2))
    t, labels = torch.tensor([0.0, 0.37, 1.0], dtype=torch.float64), torch.tensor([2, 0, 1])

    def model(x, t, labels):
        return torch.sin(x) * (1 + t + labels).reshape(-1, 1, 1, 1)

    total = 0.0
    for b in range(3):
        alpha, sigma = math.cos(math.pi * t[b].item() / 2), math.sin(math.pi * t[b].item() / 2)
        for clean, noise in zip(x0[b].flatten().tolist(), eps[b].flatten().tolist(), strict=True):
            guess = math.sin(alpha * clean + sigma * noise) * (1 + t[b].item() + labels[b].item())
            total += (guess - clean) ** 2 / 12
    loss = diffusion_loss(model, NoiseSchedule.cosine(), x0, t, eps, labels)
    assert loss.shape == () and abs(loss.item() - total) < 1e-12


# ----------------------------------------------------------------------------------------------------------- batches


def numbered(count: int) -> tuple[Tensor, Tensor]:
    """Image i is filled with i / count, so that a batch tells which images it holds; its label is i % 4."""
    return (torch.arange(count) / count).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous(), torch.arange(count) % 4


@pytest.mark.parametrize("count", [20, 23])
def test_each_epoch_visits_each_image_once(count):
    images, labels = numbered(count)
    config, orders = TrainConfig(batch_size=5, label_dropout=0.0), []
    for epoch in range(3):
        seen = []
        for step in range(4 * epoch, 4 * epoch + 4):
            x0, t, eps, y = training_batch(images, labels, config, step, NULL)
            numbers = (x0[:, 0, 0, 0] * count).round().long()
            assert x0.shape == eps.shape == (5, 1, 2, 2) and t.shape == y.shape == (5,)
            assert torch.equal(y, numbers % 4)  # the label stays with its image
            seen += numbers.tolist()
        assert len(set(seen)) == len(seen) == 20  # incomplete batches are dropped
        orders.append(seen)
    assert orders[0] != orders[1] != orders[2] != sorted(orders[2])


def test_fewer_images_than_a_batch():
    images, labels = numbered(3)
    x0, t, _, _ = training_batch(images, labels, TrainConfig(batch_size=5), 2, NULL)
    assert sorted((x0[:, 0, 0, 0] * 3).round().tolist()) == [0, 1, 2] and t.shape == (3,)


def test_one_uniform_time_a_sample():
    images, labels = numbered(5000)
    _, t, eps, _ = training_batch(images, labels, TrainConfig(batch_size=5000), 0, NULL)
    assert t.min() >= 0 and t.max() < 1 and len(t.unique()) > 4900
    counts = torch.histc(t, 10, 0, 1)
    assert (counts - 500).abs().max() < 5 * math.sqrt(450)
    assert abs(eps.mean()) < 4 / math.sqrt(eps.numel()) and abs(eps.var() - 1) < 4 * math.sqrt(2 / eps.numel())


@pytest.mark.parametrize("levels", [1, 10])
def test_levels_are_the_only_times(levels):
    images, labels = numbered(2000)
    _, t, _, _ = training_batch(images, labels, TrainConfig(batch_size=2000, levels=levels), 0, NULL)
    assert t.unique().tolist() == pytest.approx([k / levels for k in range(1, levels + 1)], rel=1e-6)


@pytest.mark.parametrize("share", [0.1, 0.0, 1.0])
def test_label_dropout(share):
    images, labels = numbered(5000)
    x0, _, _, y = training_batch(images, labels, TrainConfig(batch_size=5000, label_dropout=share), 0, NULL)
    true = (x0[:, 0, 0, 0] * 5000).round().long() % 4
    dropped = y != true
    assert (y[dropped] == NULL).all()  # and not another digit
    assert abs(dropped.float().mean() - share) <= 4 * math.sqrt(share * (1 - share) / 5000)
    assert share != 0.1 or len(true[dropped].unique()) == 4
    assert torch.equal(labels, torch.arange(5000) % 4)  # the data set keeps its labels


def test_batch_depends_on_seed_and_step_alone():
    images, labels = numbered(40)

    def batch(seed, step):
        return training_batch(images, labels, TrainConfig(batch_size=8, seed=seed), step, NULL)

    state = torch.get_rng_state()
    first = batch(3, 6)
    for step in (7, 0, 6):
        batch(3, step)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is not touched
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        assert same(first, batch(3, 6))
    for other in (batch(3, 7), batch(3, 11), batch(4, 6), batch(4, 5), batch(2, 7)):
        assert not any(torch.equal(a, b) for a, b in zip(first[:3], other[:3], strict=True))


def test_order_and_noise_share_no_seed(monkeypatch):
    seeds, images, labels = {"randperm": set(), "randn": set()}, *numbered(8)

    def watch(draw, found):
        def watched(*size, **options):
            found.add(options["generator"].initial_seed())
            return draw(*size, **options)

        return watched

    for name, found in seeds.items():
        monkeypatch.setattr(torch, name, watch(getattr(torch, name), found))
    for step in range(8):
        training_batch(images, labels, TrainConfig(batch_size=4, seed=123), step, NULL)
    assert (len(seeds["randperm"]), len(seeds["randn"])) == (4, 8) and not seeds["randperm"] & seeds["randn"]


def test_noise_and_times_differ_from_step_to_step():
    images, labels = numbered(8)
    draws = [training_batch(images, labels, TrainConfig(batch_size=8), step, NULL) for step in range(50)]
    assert (
        len({eps.sum().item() for _, _, eps, _ in draws}) == 50 and len({t.sum().item() for _, t, _, _ in draws}) == 50
    )


# --------------------------------------------------------------------------------------------------------------- EMA


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999, 1.0])
def test_ema_closed_form(decay):
    """average = prod(d) start + sum_j (1 - d_j) prod_{i > j} d_i w_j with d_k = min(decay, (1 + k) / (10 + k))."""
    model = nn.Linear(3, 2).double()
    weights = torch.randn(16, 2, 3, generator=gen(0), dtype=torch.float64)  # the start and 15 updates
    model.weight.data = weights[0].clone()
    ema = EMA(model, decay)
    for k in range(15):
        model.weight.data = weights[k + 1].clone()
        ema.update(model, k)
        assert torch.equal(model.weight, weights[k + 1])  # the network itself is left alone
    d = [min(decay, (1 + k) / (10 + k)) for k in range(15)]
    want = math.prod(d) * weights[0]
    for j in range(15):
        want = want + (1 - d[j]) * math.prod(d[j + 1 :]) * weights[j + 1]
    assert (ema.model.weight - want).abs().max() < 1e-12
    assert not ema.model.weight.requires_grad and not ema.model.training and model.weight.requires_grad


def test_ema_follows_the_optimiser_step():
    model = tiny(1).double()
    start = copy.deepcopy(dict(model.named_parameters()))
    progress = run(model, *pictures(8, dtype=torch.float64), TrainConfig(steps=3, batch_size=4, warmup_steps=1))
    average = start
    for (_, weights, ema), d in zip(progress, [1 / 10, 2 / 11, 3 / 12], strict=True):
        assert not torch.equal(weights["to_pixels.weight"], start["to_pixels.weight"])
        average = {name: d * average[name] + (1 - d) * weights[name] for name in average}
        assert all((ema[name] - average[name]).abs().max() < 1e-12 for name in average)


# --------------------------------------------------------------------------------------------------------- optimiser


@pytest.mark.parametrize("clip", [1e-7, 0.3, 1e9])
@pytest.mark.parametrize("decay", [0.05, 0.7])
def test_steps_equal_adamw_written_out(clip, decay):
    """Loss, clipping, AdamW (arXiv:1711.05101) and rates, four steps in float64, all by hand."""
    config = TrainConfig(steps=4, batch_size=4, warmup_steps=2, lr=1e-2, weight_decay=decay, grad_clip=clip, seed=5)
    images, labels = pictures(9, dtype=torch.float64)
    model = tiny(1).double()
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    first, second = ({name: torch.zeros_like(w) for name, w in weights.items()} for _ in range(2))
    stub, norms = copy.deepcopy(model), []
    for step, (progress, got, _) in enumerate(run(model, images, labels, config)):
        x0, t, eps, y = training_batch(images, labels, config, step, NULL)
        angle = math.pi / 2 * t.double().reshape(-1, 1, 1, 1)
        leaves = {name: weight.clone().requires_grad_(True) for name, weight in weights.items()}
        guess = torch.func.functional_call(stub, leaves, (torch.cos(angle) * x0 + torch.sin(angle) * eps, t, y))
        loss = ((guess - x0) ** 2).sum() / x0.numel()
        gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        norms.append(math.sqrt(sum((g**2).sum().item() for g in gradients.values())))
        shrink = min(1.0, clip / (norms[-1] + 1e-6))
        rate = 1e-2 * [1 / 2, 1, 1, 1 / 2][step]  # two steps up, then a cosine over two: 1, 1/2
        assert progress.lr == pytest.approx(rate, rel=1e-12) and abs(progress.loss - loss.item()) < 1e-12
        for name, gradient in gradients.items():
            gradient = shrink * gradient
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            mean, square = first[name] / (1 - 0.9 ** (step + 1)), second[name] / (1 - 0.999 ** (step + 1))
            weights[name] = weights[name] * (1 - rate * decay) - rate * mean / (square.sqrt() + 1e-8)
            assert (got[name] - weights[name]).abs().max() < 1e-11, (step, name)
    assert clip != 0.3 or min(norms) > 0.3  # this one does clip


# ------------------------------------------------------------------------------------------------------------- train


def test_loss_falls():
    images = torch.stack([torch.full((1, 8, 8), -0.9), torch.full((1, 8, 8), 0.9)]).repeat(16, 1, 1, 1)
    images[:, :, :4] *= -1
    config = TrainConfig(steps=60, batch_size=32, lr=1e-2, warmup_steps=5, label_dropout=0.0)
    losses = [p.loss for p in train(tiny(1), images, torch.arange(32) % 2, config, device="cpu")]
    assert sum(losses[-10:]) / 10 < 0.1 * losses[0]


def test_yields_each_finished_step():
    model, (images, labels) = tiny(1).eval(), pictures(10)
    before = copy.deepcopy(model.state_dict())
    config = TrainConfig(epochs=3, batch_size=4, warmup_steps=2)  # 2 steps an epoch
    progress = train(model, images, labels, config, device="cpu")
    assert same(before, model.state_dict())  # nothing has happened yet
    for step in range(1, 7):
        p = next(progress)
        assert (p.step, p.steps, p.config) == (step, 6, config) and p.model is model and p.ema is not model
        assert p.lr == config.lr_at(step - 1, 10) and math.isfinite(p.loss)
        assert not same(before, model.state_dict())  # the optimiser has moved them
        assert {int(s["step"]) for s in p.optimizer.state.values()} == {step}
        assert model.training and not p.ema.training
        before = copy.deepcopy(model.state_dict())
    assert next(progress, None) is None
    assert same(before, model.state_dict())


def test_levels_and_dropout_reach_the_network():
    seen, model = [], tiny(1)
    model.register_forward_hook(lambda module, inputs, output: seen.append(inputs[1:]))
    config = TrainConfig(steps=2, batch_size=8, levels=2, label_dropout=1.0)
    list(train(model, *pictures(8), config, device="cpu"))
    assert all(set(t.tolist()) <= {0.5, 1.0} and (labels == NULL).all() for t, labels in seen) and len(seen) == 2


def test_bf16_rounds_the_same_run():
    def losses(bf16):
        config = TrainConfig(steps=3, batch_size=8, warmup_steps=0, lr=1e-2, bf16=bf16)
        return torch.tensor([p.loss for p, *_ in run(tiny(1), *pictures(8), config)])  # (3,)

    exact, rounded = losses(False), losses(True)
    assert not torch.equal(exact, rounded) and torch.allclose(exact, rounded, rtol=2e-2)  # 8 bits: 0.4 % each


def test_compiled_steps_are_the_same_steps(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or network)
    config, model = TrainConfig(steps=2, batch_size=8), tiny(1)
    for compile in (True, False):
        list(train(copy.deepcopy(model), *pictures(8), replace(config, compile=compile), device="cpu"))
    assert len(compiled) == 1


def test_a_seed_is_a_run():
    def last(seed):
        return run(tiny(1), *pictures(10), TrainConfig(steps=3, batch_size=4, seed=seed))[-1][1]

    assert same(last(0), last(0)) and not same(last(0), last(1))


def test_diverging_loss_stops_the_run():
    model = tiny(1)
    with torch.no_grad():
        model.to_pixels.bias.fill_(1e30)
    with pytest.raises(FloatingPointError, match=r"loss is inf at step 0.*smaller lr than 0\.006"):
        next(train(model, *pictures(8), TrainConfig(batch_size=4), device="cpu"))
    with torch.no_grad():
        model.to_pixels.bias.fill_(NAN)
    with pytest.raises(FloatingPointError, match="loss is nan at step 0"):
        next(train(model, *pictures(8), TrainConfig(batch_size=4), device="cpu"))


def test_a_rate_that_diverges_does_not_go_on():
    config = TrainConfig(steps=3, batch_size=4, lr=1.0, warmup_steps=0)
    progress = train(tiny(1), *pictures(8), config, device="cpu")
    p = next(progress)
    with torch.no_grad():
        for weights in p.model.parameters():
            weights.mul_(1e20)
    with pytest.raises(FloatingPointError, match=r"at step 1.*smaller lr than 1"):
        next(progress)


# ------------------------------------------------------------------------------------------------------------ resume

RUNS = {
    "fast": TrainConfig(steps=7, batch_size=4, warmup_steps=2),
    "published": TrainConfig.published(epochs=4, batch_size=4, restart_epochs=1, lr=1e-2, ema_decay=0.15, levels=10),
}


@pytest.mark.parametrize("cut", [1, 3, 4])  # 2 steps an epoch: within one, and at the end of one
@pytest.mark.parametrize("config", RUNS.values(), ids=RUNS)
def test_resumed_equals_uninterrupted(config, cut, tmp_path):
    images, labels = pictures(10)
    whole = run(tiny(1), images, labels, config)
    for progress in train(tiny(1), images, labels, config, device="cpu"):
        if progress.step == cut:
            save_checkpoint(progress.state(), tmp_path / "run.pt")
            break
    state = load_checkpoint(tmp_path / "run.pt")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1234)  # another process would have another global generator
        rest = run(tiny(2), images, labels, config, resume=state)
    assert [p.step for p, _, _ in rest] == list(range(cut + 1, len(whole) + 1))
    for (p, model, ema), (q, other_model, other_ema) in zip(rest, whole[cut:], strict=True):
        assert (p.step, p.steps, p.loss, p.lr) == (q.step, q.steps, q.loss, q.lr)
        assert same(model, other_model) and same(ema, other_ema)
    assert same(rest[-1][0].optimizer.state_dict(), whole[-1][0].optimizer.state_dict())
    assert same(rest[-1][0].state(), whole[-1][0].state())


def test_a_state_can_be_resumed_twice():
    images, labels = pictures(10)
    progress = train(tiny(1), images, labels, RUNS["fast"], device="cpu")
    state = copy.deepcopy(next(progress).state())
    kept = copy.deepcopy(state)
    one, two = (run(tiny(seed), images, labels, RUNS["fast"], resume=state)[-1] for seed in (2, 3))
    assert same(one[1:], two[1:]) and same(state, kept)


def test_a_finished_run_has_nothing_left():
    images, labels = pictures(10)
    last = run(tiny(1), images, labels, RUNS["fast"])[-1][0]
    assert (
        last.step == 7 and list(train(tiny(2), images, labels, RUNS["fast"], device="cpu", resume=last.state())) == []
    )


@pytest.fixture(scope="module")
def state() -> dict:
    return copy.deepcopy(next(train(tiny(1), *pictures(10), RUNS["fast"], device="cpu")).state())


@pytest.mark.parametrize(
    "change", [{"lr": 5e-3}, {"steps": 8}, {"batch_size": 5}, {"seed": 1}, {"levels": 4}, {"ema_decay": 0.5}]
)
def test_refuses_to_resume_with_another_config(state, change):
    config = TrainConfig(**{**asdict(RUNS["fast"]), **change})
    refuses(lambda: train(tiny(1), *pictures(10), config, device="cpu", resume=state), "resume", "same run", "config")


def test_refuses_to_resume_another_architecture(state):
    for changes in ({"layers": 2}, {"attention": "softmax"}, {"local": False}):
        model = tiny(1, **changes)
        refuses(
            lambda model=model: train(model, *pictures(10), RUNS["fast"], device="cpu", resume=state),
            "resume",
            "same run",
            "architecture",
        )


def test_refuses_to_resume_with_other_data(state):
    for images, labels in (pictures(10, seed=1), pictures(11)):
        refuses(
            lambda images=images, labels=labels: train(
                tiny(1), images, labels, RUNS["fast"], device="cpu", resume=state
            ),
            "resume",
            "same run",
            "data",
        )


@pytest.mark.parametrize("what", ["labels", "order"])
def test_refuses_to_resume_with_rearranged_data(state, what):
    """The same pictures in another order, or with other labels, end in other weights."""
    images, labels = pictures(10)
    images, labels = (images, labels.flip(0)) if what == "labels" else (images.flip(0), labels)
    refuses(lambda: train(tiny(1), images, labels, RUNS["fast"], device="cpu", resume=state), "resume")


@pytest.mark.parametrize("bad", ["run.pt", 3, [], {}], ids=str)
def test_refuses_to_resume_from_something_else(bad):
    refuses(lambda: train(tiny(1), *pictures(10), RUNS["fast"], device="cpu", resume=bad), "resume")


@pytest.mark.parametrize("part", ["format", "step", "config", "architecture", "data", "model", "ema", "optimizer"])
def test_refuses_to_resume_from_an_incomplete_state(state, part):
    broken = {name: value for name, value in state.items() if name != part}
    refuses(lambda: train(tiny(1), *pictures(10), RUNS["fast"], device="cpu", resume=broken), "resume")


def test_a_state_holds_its_config(state):
    assert TrainConfig(**state["config"]) == RUNS["fast"]


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.full((8, 1, 8, 8), NAN), ("finite", "NaN")),
        (torch.full((8, 1, 8, 8), INF), ("finite", "infinity")),
        (torch.full((8, 1, 8, 8), 1.5), ("[-1, 1]", "1.5")),
        (torch.full((8, 1, 8, 8), -7.25), ("[-1, 1]", "-7.25")),
        (torch.zeros(8, 1, 8, 6), ("(M, 1, 8, 8)", "(8, 1, 8, 6)")),
        (torch.zeros(8, 3, 8, 8), ("(M, 1, 8, 8)", "(8, 3, 8, 8)")),
        (torch.zeros(8, 8, 8), ("(M, 1, 8, 8)", "(8, 8, 8)")),
        (torch.zeros(8, 1, 8, 8, dtype=torch.uint8), ("floating-point", "uint8")),
        ([0.0], ("floating-point", "list")),
        (torch.zeros(0, 1, 8, 8), ("at least one image", "0 images")),
    ],
)
def test_refuses_images_at_once(images, words):
    labels = torch.zeros(len(images), dtype=torch.int64)
    refuses(lambda: train(tiny(1), images, labels, TrainConfig(), device="cpu"), "images", *words)


def test_refuses_images_of_another_precision_at_once():
    images, labels = pictures(8, dtype=torch.float64)
    refuses(lambda: train(tiny(1), images, labels, TrainConfig(), device="cpu"), "images", "float32", "float64")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.arange(7) % 4, ("(8,)", "7 labels")),
        (torch.arange(8) % 5, ("from 0 to 3", "from 0 to 4")),  # the null class is not a label of an image
        (torch.arange(8) % 4 - 1, ("from 0 to 3", "from -1 to 2")),
        (torch.zeros(8), ("int64", "float32")),
        (torch.zeros(8, dtype=torch.int32), ("int64", "int32")),
        (torch.zeros(8, 4, dtype=torch.int64), ("(8,)", "(8, 4)")),
        ([0] * 8, ("int64", "list")),
        (None, ("int64", "NoneType")),
    ],
)
def test_refuses_labels_at_once(labels, words):
    refuses(lambda: train(tiny(1), pictures(8)[0], labels, TrainConfig(), device="cpu"), "labels", *words)


@pytest.mark.parametrize("config", [None, {"lr": 1e-3}, "fast"])
def test_refuses_a_config_of_another_kind_at_once(config):
    refuses(lambda: train(tiny(1), *pictures(8), config, device="cpu"), "config", "TrainConfig")


def test_refuses_schedule_and_device_at_once():
    schedule = NoiseSchedule.linear_beta(10, rescaled=False)
    refuses(lambda: train(tiny(1), *pictures(8), TrainConfig(), schedule, device="cpu"), "schedule", "end in noise")
    refuses(lambda: train(tiny(1), *pictures(8), TrainConfig(), device="abacus"), "device", "cpu", "abacus")


SWITCHES = ["bf16", "compile"]
WHOLE = ["epochs", "steps", "batch_size", "warmup_steps", "restart_epochs", "levels", "seed"]
RANGES = {
    "lr": ("from 1e-08 to 1", [0, -1e-3, 1.5]),
    "min_lr": ("from 0 to 0.006", [-1e-9, 0.007]),
    "weight_decay": ("from 0 to 1", [-0.1, 1.1]),
    "grad_clip": ("from 1e-08", [0, -1.0]),
    "label_dropout": ("from 0 to 1", [-0.1, 1.1]),
    "ema_decay": ("from 0 to 1", [-0.1, 1.1]),
}


def test_every_field_is_checked():
    assert {f.name for f in fields(TrainConfig)} == {*WHOLE, *RANGES, *SWITCHES}


@pytest.mark.parametrize("name", SWITCHES)
def test_refuses_what_is_not_a_switch(name):
    for value in (1, 0, None, "yes", NAN):
        refuses(lambda value=value: TrainConfig(**{name: value}), f"{name} must be True or False", repr(value))


@pytest.mark.parametrize("value", [-1, 0, 2.5, NAN, INF, True, "3", [1]], ids=str)
@pytest.mark.parametrize("name", WHOLE)
def test_refuses_what_is_not_a_count(name, value):
    if value == 0 and value is not True and name in ("warmup_steps", "seed"):
        assert getattr(TrainConfig(**{name: 0}), name) == 0
    else:
        refuses(lambda: TrainConfig(**{name: value}), f"{name} must be a whole number", repr(value))


@pytest.mark.parametrize("name", ["epochs", "batch_size", "warmup_steps", "seed"])
def test_refuses_none_where_a_count_is_needed(name):
    refuses(lambda: TrainConfig(**{name: None}), f"{name} must be a whole number", "None")


def test_refuses_a_seed_too_large():
    refuses(lambda: TrainConfig(seed=2**31), "seed", str(2**31 - 1), str(2**31))
    images, labels = numbered(8)
    training_batch(images, labels, TrainConfig(seed=2**31 - 1), 10**6, NULL)  # the largest one works


@pytest.mark.parametrize("name", RANGES)
def test_refuses_what_is_not_in_range(name):
    allowed, outside = RANGES[name]
    for value in [*outside, NAN, INF, -INF, True, "1e-3", None]:
        refuses(lambda value=value: TrainConfig(**{name: value}), f"{name} must be a number {allowed}", repr(value))


def test_refuses_a_number_too_large_for_a_float():
    refuses(lambda: TrainConfig(grad_clip=10**400), "grad_clip")


def test_recipes_are_checked_too():
    refuses(lambda: TrainConfig.published(batch_size=0), "batch_size", "at least 1", "0")
    refuses(lambda: TrainConfig.fast(lr=NAN), "lr", "nan")
    refuses(lambda: EMA(nn.Linear(1, 1), 1.5), "decay", "from 0 to 1", "1.5")


@pytest.mark.parametrize("step", [-1, 10**6, "3"])
def test_refuses_a_state_from_beyond_the_run(state, step):
    beyond = {**state, "step": step}
    refuses(
        lambda: train(tiny(1), *pictures(10), RUNS["fast"], device="cpu", resume=beyond),
        "resume['step']",
        "from 0 to 7",
    )


def test_a_run_may_be_all_warm_up():
    config = TrainConfig.fast(steps=3, warmup_steps=3)
    assert config.lr_at(2, 100) == pytest.approx(config.lr)
    assert config.lr_at(3, 100) == pytest.approx(config.lr)
