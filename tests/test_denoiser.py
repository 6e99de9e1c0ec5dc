"""The network against a second one, written here from its parameters with plain formulas."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from tutorial_lib.attention import LinearAttention, SoftmaxAttention
from tutorial_lib.denoiser import EfficientTransformerBlock, EfficientTransformerDenoiser

ATTENTION = ("double_softmax", "elu1", "relu", "softmax")
TINY = {
    "image_size": 6, "patch_size": 2, "channels": 2, "dim": 8, "heads": 2, "layers": 2, "ff_dim": 5, "num_classes": 3
}  # fmt: skip


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def perturb(model, scale: float = 0.4):
    """A new network answers 0 whatever it is given: random weights show what it does."""
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(scale * random(*parameter.shape, seed=100 + i))
    return model


def tiny(**changes) -> EfficientTransformerDenoiser:
    return perturb(EfficientTransformerDenoiser(**{**TINY, **changes}).double())


def tiny_input(batch: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    t = torch.linspace(0, 1, batch, dtype=torch.float64)
    return random(batch, 2, 6, 6), t, torch.arange(batch) % 4  # class 3 is the null class


# The same network once more


def linear(p: dict, name: str, x: Tensor) -> Tensor:
    return x @ p[name + ".weight"].T + p[name + ".bias"]


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def normalise(x: Tensor) -> Tensor:
    mean = x.sum(dim=-1, keepdim=True) / x.shape[-1]
    variance = ((x - mean) ** 2).sum(dim=-1, keepdim=True) / x.shape[-1]
    return (x - mean) / (variance + 1e-5).sqrt()


def weights_by_hand(q: Tensor, k: Tensor, feature_map: str) -> Tensor:
    if feature_map == "double_softmax":
        return (q.exp() / q.exp().sum(-1, keepdim=True)) @ (k.exp() / k.exp().sum(-2, keepdim=True)).mT
    if feature_map == "elu1":
        q, k = (torch.where(x > 0, x + 1, x.exp()) for x in (q, k))
    elif feature_map == "relu":
        q, k = q * (q > 0), k * (k > 0)
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).exp() if feature_map == "softmax" else q @ k.mT
    total = scores.sum(-1, keepdim=True)
    return scores / torch.where(total == 0, 1, total)


def attention_by_hand(p: dict, name: str, x: Tensor, heads: int, feature_map: str, maps: list) -> Tensor:
    b, n, dim = x.shape
    d, side = dim // heads, math.isqrt(n)
    q, k, v = linear(p, name + ".qkv", x).split(dim, dim=2)
    mixed = torch.zeros_like(x)
    maps.append([])
    for h in range(heads):
        part = slice(h * d, (h + 1) * d)
        matrix = weights_by_hand(q[..., part], k[..., part], feature_map)
        maps[-1].append(matrix)
        mixed[..., part] = matrix @ v[..., part]
    if name + ".local.weight" in p:
        kernel = p[name + ".local.weight"]
        padded = torch.zeros(b, side + 2, side + 2, dim, dtype=x.dtype)
        padded[:, 1:-1, 1:-1] = v.reshape(b, side, side, dim)
        for i in range(3):
            for j in range(3):
                mixed += (kernel[:, 0, i, j] * padded[:, i : i + side, j : j + side]).reshape(b, n, dim)
        mixed += p[name + ".local.bias"]
    return linear(p, name + ".out", mixed)


def block_by_hand(p, name, x, condition, heads, feature_map, maps) -> Tensor:
    parts = linear(p, name + "modulation.linear", silu(condition))[:, None].split(x.shape[2], dim=2)
    shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = parts
    hidden = normalise(x) * (1 + scale_a) + shift_a
    x = x + gate_a * attention_by_hand(p, name + "attention", hidden, heads, feature_map, maps)
    hidden = linear(p, name + "ff.0", normalise(x) * (1 + scale_f) + shift_f)
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    return x + gate_f * linear(p, name + "ff.2", hidden)


def network_by_hand(model, x_t: Tensor, t: Tensor, labels: Tensor) -> tuple[Tensor, list]:
    """x0_hat and the attention weights, layer by layer and head by head."""
    p, config, maps = {n: v.detach() for n, v in model.named_parameters()}, model.config, []
    b, c, size, _ = x_t.shape
    patch, dim = config["patch_size"], config["dim"]
    side, quarter = size // patch, config["dim"] // 4
    angles = t[:, None] * model.time.frequencies
    time = linear(p, "time.mlp.0", torch.cat([angles.sin(), angles.cos()], dim=1))
    condition = linear(p, "time.mlp.2", silu(time)) + p["label.weight"][labels]
    x = torch.zeros(b, side * side, dim, dtype=x_t.dtype)
    for row in range(side):
        for column in range(side):
            corner = x_t[:, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            token = linear(p, "embed.project", corner.permute(0, 2, 3, 1).reshape(b, -1))
            place = [f(where / 100 ** (i / quarter)) for where in (row, column) for f in (math.sin, math.cos)
                     for i in range(quarter)]  # fmt: skip
            assert model.positions[row * side + column].tolist() == pytest.approx(place, abs=1e-6)
            x[:, row * side + column] = token + model.positions[row * side + column]
    for layer in range(config["layers"]):
        x = block_by_hand(p, f"blocks.{layer}.", x, condition, config["heads"], config["attention"], maps)
    shift, scale = linear(p, "modulation.linear", silu(condition))[:, None].split(dim, dim=2)
    x = linear(p, "to_pixels", normalise(x) * (1 + scale) + shift)
    images = torch.zeros_like(x_t)
    for y in range(size):
        for column in range(size):
            pixel = (y % patch) * patch + column % patch
            values = x[:, (y // patch) * side + column // patch]
            images[:, :, y, column] = values[:, pixel * c : (pixel + 1) * c]
    return images, maps


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("local", [False, True])
def test_network_equals_the_formulas(attention, local):
    model, (x_t, t, labels) = tiny(attention=attention, local=local), tiny_input()
    want, _ = network_by_hand(model, x_t, t, labels)
    assert want.abs().max() > 0.1
    assert (model(x_t, t, labels) - want).abs().max() < 1e-11


@pytest.mark.parametrize("attention", ATTENTION)
def test_block_equals_the_formulas(attention):
    block = perturb(EfficientTransformerBlock(8, 2, 5, attention).double())
    tokens, condition, p = random(3, 9, 8), random(3, 8, seed=1), dict(block.named_parameters())
    want = block_by_hand(p, "", tokens, condition, 2, attention, [])
    assert (block(tokens, condition) - want).abs().max() < 1e-11


@pytest.mark.parametrize("dim", [8, 128])
def test_frequencies_of_time_go_evenly_from_one_to_a_thousand(dim):
    got = EfficientTransformerDenoiser(dim=dim, layers=1).time.frequencies
    want = [10 ** (3 * i / (dim // 2 - 1)) for i in range(dim // 2)]
    assert got.tolist() == pytest.approx(want, rel=1e-5)


# At the start


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("local", [False, True])
def test_a_new_block_is_the_identity_bit_for_bit(attention, local):
    block = EfficientTransformerBlock(8, 2, 16, attention, local)
    tokens, condition = random(2, 9, 8, dtype=torch.float32), random(2, 8, seed=1, dtype=torch.float32)
    assert torch.equal(block(tokens, condition), tokens)


def test_a_new_network_answers_grey():
    model, x_t = EfficientTransformerDenoiser(), random(2, 1, 16, 16, dtype=torch.float32)
    for t, labels in ((0.0, None), (0.5, torch.tensor([3, 10])), (1.0, torch.tensor([0, 9]))):
        assert torch.equal(model(x_t, t, labels), torch.zeros(2, 1, 16, 16))


def test_a_new_network_can_start_to_learn():
    model, x_t = EfficientTransformerDenoiser(**TINY), random(2, 2, 6, 6, dtype=torch.float32)
    (model(x_t, 0.5) - 1).square().mean().backward()
    assert model.to_pixels.weight.grad.abs().max() > 0
    assert model.to_pixels.bias.grad.abs().max() > 0


def test_defaults_are_the_published_numbers():
    def defaults(made) -> dict:
        return {name: p.default for name, p in inspect.signature(made).parameters.items()}

    published = {"dim": 128, "heads": 4, "ff_dim": 256, "attention": "double_softmax", "local": True}
    assert defaults(EfficientTransformerBlock) == published
    assert defaults(EfficientTransformerDenoiser) == {
        **published, "image_size": 16, "patch_size": 2, "channels": 1, "layers": 3, "num_classes": 10
    }  # fmt: skip
    model = EfficientTransformerDenoiser()
    assert (model.embed.num_tokens, len(model.blocks), model.blocks[0].ff[0].out_features) == (64, 3, 256)
    assert (model.blocks[0].attention.heads, model.blocks[0].attention.local is not None) == (4, True)
    assert model.label.weight.shape == (11, 128)


def test_config_rebuilds_the_network():
    asked = {**TINY, "attention": "relu", "local": False}
    model = EfficientTransformerDenoiser(**asked)
    assert model.config == asked
    assert (
        EfficientTransformerDenoiser().config.keys()
        == inspect.signature(EfficientTransformerDenoiser).parameters.keys()
    )
    EfficientTransformerDenoiser(**model.config).load_state_dict(model.state_dict())


def test_parameters_fit_into_four_megabytes():
    dim, ff, patch, layers, classes = 128, 256, 4, 3, 10
    block = 6 * (dim * dim + dim) + 3 * (dim * dim + dim) + 10 * dim + (dim * dim + dim) + 2 * dim * ff + ff + dim
    rest = (patch + 1) * dim + 2 * (dim * dim + dim) + (classes + 1) * dim + 2 * (dim * dim + dim) + (dim + 1) * patch
    count = sum(p.numel() for p in EfficientTransformerDenoiser().parameters())
    assert count == layers * block + rest == 765_572
    assert 4 * count < 4e6


# Conditioning


@pytest.mark.parametrize("attention", ATTENTION)
def test_time_and_label_change_the_answer(attention):
    model, (x_t, _, labels) = tiny(attention=attention), tiny_input()
    answer = model(x_t, 0.4, labels)
    assert (model(x_t, 0.5, labels) - answer).abs().amax(dim=(1, 2, 3)).min() > 1e-3
    assert (model(x_t, 0.4, (labels + 1) % 4) - answer).abs().amax(dim=(1, 2, 3)).min() > 1e-3


def test_each_sample_has_its_own_time_and_label():
    model, (x_t, t, labels) = tiny(), tiny_input()
    answer = model(x_t, t, labels)
    for b in range(4):
        alone = model(x_t[b : b + 1], t[b].item(), labels[b : b + 1])
        assert (alone - answer[b : b + 1]).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_label_is_the_null_class_bit_for_bit(dtype):
    model, (x_t, t, _) = tiny().to(dtype), tiny_input()
    null = torch.full((4,), 3)
    assert torch.equal(model(x_t.to(dtype), t.to(dtype)), model(x_t.to(dtype), t.to(dtype), null))
    assert not torch.equal(model(x_t.to(dtype), t.to(dtype)), model(x_t.to(dtype), t.to(dtype), null - 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_time_for_all_equals_a_vector_bit_for_bit(dtype):
    model, (x_t, _, labels) = tiny().to(dtype), tiny_input()
    want = model(x_t.to(dtype), torch.full((4,), 0.3, dtype=dtype), labels)
    assert want.dtype == dtype
    for t in (0.3, torch.tensor(0.3, dtype=torch.float64), torch.full((4,), 0.3, dtype=torch.float64)):
        assert torch.equal(model(x_t.to(dtype), t, labels), want)
    for t in (0, 1):
        assert torch.equal(model(x_t.to(dtype), t, labels), model(x_t.to(dtype), float(t), labels))


@pytest.mark.parametrize("attention", ATTENTION)
def test_batch_order_does_not_matter(attention):
    model, (x_t, t, labels) = tiny(attention=attention), tiny_input(5)
    order = torch.tensor([3, 0, 4, 1, 2])
    got = model(x_t[order], t[order], labels[order])
    assert (got - model(x_t, t, labels)[order]).abs().max() < 1e-12


# Gradients


@pytest.mark.parametrize("attention", ATTENTION)
def test_gradients_equal_finite_differences(attention):
    model, (x_t, t, labels), weight = tiny(attention=attention), tiny_input(), random(4, 2, 6, 6, seed=1)
    t = 0.1 + 0.8 * t
    names = [name for name, _ in model.named_parameters()]
    inputs = [x.detach().clone().requires_grad_() for x in (x_t, t, *model.parameters())]

    def loss(x_t, t, *values) -> Tensor:
        return (functional_call(model, dict(zip(names, values, strict=True)), (x_t, t, labels)) * weight).sum()

    gradients = torch.autograd.grad(loss(*inputs), inputs)
    for i, (x, gradient) in enumerate(zip(inputs, gradients, strict=True)):  # one random direction in each of them
        direction, step = random(*x.shape, seed=200 + i), 1e-7 if i == 1 else 1e-5  # sin(1000 t) bends fast
        up, down = ([*inputs[:i], x + sign * step * direction, *inputs[i + 1 :]] for sign in (1, -1))
        with torch.no_grad():
            slope = ((loss(*up) - loss(*down)) / (2 * step)).item()
        assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-5, abs=1e-6)


# Looking inside


@pytest.mark.parametrize("attention", ATTENTION)
def test_records_are_what_each_layer_did(attention):
    model, (x_t, t, labels) = tiny(attention=attention), tiny_input()
    records = model.attention_records(x_t, t, labels)
    _, maps = network_by_hand(model, x_t, t, labels)
    assert len(records) == len(maps) == 2
    for record, heads in zip(records, maps, strict=True):
        assert record.q.shape == record.k.shape == (4, 2, 9, 4)
        assert record.matrix.shape == (4, 2, 9, 9)
        assert (record.matrix - torch.stack(heads, dim=1)).abs().max() < 1e-11
        assert not record.matrix.requires_grad
    assert (records[0].matrix - records[1].matrix).abs().max() > 1e-3


@pytest.mark.parametrize("attention", ["double_softmax", "elu1", "softmax"])
def test_rows_of_the_records_sum_to_one(attention):
    model = perturb(EfficientTransformerDenoiser(attention=attention), 0.1)
    for record in model.attention_records(random(1, 1, 16, 16, dtype=torch.float32), 0.5):
        assert record.q.shape == (1, 4, 64, 32)
        assert (record.matrix >= 0).all()
        assert (record.matrix.sum(dim=-1) - 1).abs().max() < 1e-5


def test_records_leave_nothing_behind():
    model, (x_t, t, labels) = tiny(), tiny_input()
    want = model(x_t, t, labels)
    model.attention_records(x_t, t, labels)
    with pytest.raises(ValueError, match="t must be from 0"):
        model.attention_records(x_t, 2.0, labels)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert torch.equal(model(x_t, t, labels), want)
    assert len(model.attention_records(x_t, t, labels)) == 2


# Choices


def test_the_choice_of_attention_changes_only_the_attention():
    models = {attention: EfficientTransformerDenoiser(**TINY, attention=attention) for attention in ATTENTION}
    shapes = [{n: tuple(p.shape) for n, p in model.state_dict().items()} for model in models.values()]
    assert all(shape == shapes[0] for shape in shapes)
    kinds = {a: [type(m).__name__ for m in model.modules()] for a, model in models.items()}
    swapped = [name.replace("SoftmaxAttention", "LinearAttention") for name in kinds["softmax"]]
    assert kinds["elu1"] == kinds["relu"] == kinds["double_softmax"] == swapped
    assert kinds["softmax"] != swapped
    for attention, model in models.items():
        for block in model.blocks:
            assert type(block.attention) is (SoftmaxAttention if attention == "softmax" else LinearAttention)
            assert block.attention.feature_map == attention
    models["softmax"].load_state_dict(models["relu"].state_dict())


def test_without_local_only_the_convolution_is_missing():
    with_local, without = (EfficientTransformerDenoiser(**TINY, local=local).state_dict() for local in (True, False))
    assert without.keys() == {name for name in with_local if ".local." not in name}


@pytest.mark.parametrize(
    "image, patch, channels", [(28, 4, 1), (16, 2, 3), (28, 4, 3), (8, 8, 1), (5, 1, 2), (64, 8, 1)]
)
def test_other_sizes_work(image, patch, channels):
    model = EfficientTransformerDenoiser(image, patch, channels, dim=16, layers=1, ff_dim=8)
    answer = perturb(model)(random(2, channels, image, image, dtype=torch.float32), 0.5, torch.tensor([0, 10]))
    assert answer.shape == (2, channels, image, image)
    assert torch.isfinite(answer).all()
    assert answer.abs().max() > 0


# Bad input

MODEL = EfficientTransformerDenoiser(**TINY)
X, LABELS = torch.zeros(4, 2, 6, 6), torch.tensor([0, 1, 2, 3])


def build(**changes):
    return lambda: EfficientTransformerDenoiser(**{**TINY, **changes})


AT_LEAST_1, TIMES = "whole number of at least 1", "from 0 (clean) to 1 (noise)"
BAD = {
    "image_size": (build(image_size=7), "patch_size", "divide image_size 7", "got 2"),
    "image_size 0": (build(image_size=0), "image_size", AT_LEAST_1, "got 0"),
    "patch_size": (build(patch_size=4), "patch_size", "divide image_size 6", "got 4"),
    "patch_size 0": (build(patch_size=0), "patch_size", AT_LEAST_1, "got 0"),
    "channels": (build(channels=0), "channels", AT_LEAST_1, "got 0"),
    "heads": (build(heads=3), "heads", "divide dim 8", "got 3"),
    "heads 0": (build(heads=0), "heads", AT_LEAST_1, "got 0"),
    "dim": (build(dim=6), "dim", "multiple of 4", "got 6"),
    "dim 0": (build(dim=0), "dim", AT_LEAST_1, "got 0"),
    "dim text": (build(dim="8"), "dim", AT_LEAST_1, "got '8'"),
    "layers": (build(layers=0), "layers", "whole number from 1 to 100", "got 0"),
    "ff_dim": (build(ff_dim=-1), "ff_dim", AT_LEAST_1, "got -1"),
    "num_classes": (build(num_classes=0), "num_classes", AT_LEAST_1, "got 0"),
    "attention": (build(attention="flash"), "attention", "'double_softmax', 'elu1', 'relu', 'softmax'", "got 'flash'"),
    "attention None": (build(attention=None), "attention", "'softmax'", "got None"),
    "block heads": (lambda: EfficientTransformerBlock(8, 3), "heads", "divide dim 8", "got 3"),
    "block dim": (lambda: EfficientTransformerBlock(None), "dim", AT_LEAST_1, "got None"),
    "block ff_dim": (lambda: EfficientTransformerBlock(8, 2, 0), "ff_dim", AT_LEAST_1, "got 0"),
    "block attention": (lambda: EfficientTransformerBlock(attention="x"), "attention", "'elu1'", "got 'x'"),
    "x_t size": (lambda: MODEL(torch.zeros(4, 2, 8, 8), 0.5), "x_t", "(B, 2, 6, 6)", "(4, 2, 8, 8)"),
    "x_t channels": (lambda: MODEL(X[:, :1], 0.5), "x_t", "(B, 2, 6, 6)", "(4, 1, 6, 6)"),
    "x_t 3-D": (lambda: MODEL(X[0], 0.5), "x_t", "(B, 2, 6, 6)", "(2, 6, 6)"),
    "x_t bytes": (lambda: MODEL(X.byte(), 0.5), "x_t", "floating-point", "torch.uint8"),
    "x_t NaN": (lambda: MODEL(X * math.nan, 0.5), "x_t", "finite", "NaN"),
    "x_t inf": (lambda: MODEL(X + math.inf, 0.5), "x_t", "finite", "infinity"),
    "x_t list": (lambda: MODEL([0.0], 0.5), "x_t", "(B, 2, 6, 6)", "list"),
    "t above": (lambda: MODEL(X, 1.1), "t", TIMES, "1.1"),
    "t below": (lambda: MODEL(X, -0.1), "t", TIMES, "-0.1"),
    "t one of four": (lambda: MODEL(X, torch.tensor([0.0, 0.5, 1.0, 7.0])), "t", TIMES, "from 0 to 7"),
    "t NaN": (lambda: MODEL(X, math.nan), "t", "finite", "NaN"),
    "t length": (lambda: MODEL(X, torch.zeros(3)), "t", "(4,)", "(3,)"),
    "t length 1": (lambda: MODEL(X, torch.zeros(1)), "t", "(4,)", "(1,)"),
    "t 2-D": (lambda: MODEL(X, torch.zeros(4, 1)), "t", "(4,)", "(4, 1)"),
    "t long": (lambda: MODEL(X, torch.zeros(4).long()), "t", "floating-point", "torch.int64"),
    "t text": (lambda: MODEL(X, "0.5"), "t", "floating-point", "str"),
    "labels above": (lambda: MODEL(X, 0.5, LABELS + 1), "labels", "from 0 to 3", "from 1 to 4"),
    "labels below": (lambda: MODEL(X, 0.5, LABELS - 1), "labels", "from 0 to 3", "from -1 to 2"),
    "labels length": (lambda: MODEL(X, 0.5, LABELS[:3]), "labels", "(4,)", "3 labels"),
    "labels float": (lambda: MODEL(X, 0.5, LABELS.float()), "labels", "int64", "torch.float32"),
    "labels int32": (lambda: MODEL(X, 0.5, LABELS.int()), "labels", "int64", "torch.int32"),
    "labels 2-D": (lambda: MODEL(X, 0.5, LABELS[:, None]), "labels", "(4,)", "(4, 1)"),
    "labels number": (lambda: MODEL(X, 0.5, 3), "labels", "int64", "int"),
    "labels list": (lambda: MODEL(X, 0.5, [0, 1, 2, 3]), "labels", "int64", "list"),
    "records x_t": (lambda: MODEL.attention_records(X[0], 0.5), "x_t", "(B, 2, 6, 6)", "(2, 6, 6)"),
    "records labels": (lambda: MODEL.attention_records(X, 0.5, LABELS + 1), "labels", "from 0 to 3", "from 1 to 4"),
}


@pytest.mark.parametrize("call, name, parts", [(c, n, p) for c, n, *p in BAD.values()], ids=list(BAD))
def test_bad_input_is_refused(call, name, parts):
    with pytest.raises(ValueError) as caught:
        call()
    message = str(caught.value)
    assert message.startswith(name + " must"), message
    assert all(part in message for part in parts), message
