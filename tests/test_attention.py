"""Attention against an explicit matrix, written here in plain Python loops and float64."""

from __future__ import annotations

import inspect
import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from tutorial_lib.attention import LinearAttention, SoftmaxAttention, attention_matrix, linear_attention

LINEAR = ("double_softmax", "elu1", "relu")
ALL = (*LINEAR, "softmax")
SHAPES = [  # leading dimensions, N queries, M keys, d features, e features of a value
    ((), 5, 5, 3, 3),
    ((2,), 6, 4, 3, 5),
    ((2, 3), 4, 7, 2, 1),
    ((1, 2), 1, 1, 4, 4),
    ((), 63, 63, 4, 2),
]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_qkv(lead=(2,), n=7, m=7, d=3, e=3, alive=False) -> tuple[Tensor, Tensor, Tensor]:
    """Random q, k, v; `alive`: every query and every key has a positive feature, so that ReLU attends to something."""
    q, k, v = random(*lead, n, d, seed=1), random(*lead, m, d, seed=2), random(*lead, m, e, seed=3)
    if alive:
        q[..., 0], k[..., 0] = q[..., 0].abs() + 0.1, k[..., 0].abs() + 0.1
    return q, k, v


def one_matrix(q: list, k: list, feature_map: str) -> list[list[float]]:
    """The N x M weights of one head from lists of rows: the formulas of the three papers, number by number."""
    d, exp = len(q[0]), math.exp
    if feature_map == "softmax":
        scores = [[exp(sum(a * b for a, b in zip(x, y, strict=True)) / math.sqrt(d)) for y in k] for x in q]
    else:
        if feature_map == "double_softmax":
            phi_q = [[exp(x[c]) / sum(exp(x[i]) for i in range(d)) for c in range(d)] for x in q]
            phi_k = [[exp(y[c]) / sum(exp(other[c]) for other in k) for c in range(d)] for y in k]
        elif feature_map == "elu1":
            phi_q, phi_k = ([[a + 1 if a > 0 else exp(a) for a in row] for row in rows] for rows in (q, k))
        else:
            phi_q, phi_k = ([[a if a > 0 else 0.0 for a in row] for row in rows] for rows in (q, k))
        scores = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in phi_k] for x in phi_q]
    if feature_map == "double_softmax":
        return scores
    return [[score / (sum(row) or 1.0) for score in row] for row in scores]


def matrix_by_hand(q: Tensor, k: Tensor, feature_map: str) -> Tensor:
    lead, heads = q.shape[:-2], zip(q.flatten(0, -3).tolist(), k.flatten(0, -3).tolist(), strict=True)
    rows = [one_matrix(a, b, feature_map) for a, b in heads]
    return torch.tensor(rows, dtype=torch.float64).reshape(*lead, q.shape[-2], k.shape[-2])


def product_by_hand(matrix: Tensor, v: Tensor) -> Tensor:
    result = torch.zeros(*matrix.shape[:-1], v.shape[-1], dtype=torch.float64)
    for i in range(matrix.shape[-2]):
        for j in range(matrix.shape[-1]):
            result[..., i, :] += matrix[..., i, j, None] * v[..., j, :]
    return result


def local_by_hand(v: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Each channel of v (B, N, D), on its square grid, with its own 3 x 3 kernel; zeros around the picture."""
    batch, n, dim = v.shape
    side, values = math.isqrt(n), v.tolist()
    result = torch.zeros(batch, n, dim, dtype=torch.float64)
    for b in range(batch):
        for channel in range(dim):
            kernel = weight[channel, 0].tolist()
            for row in range(side):
                for column in range(side):
                    total = bias[channel].item()
                    for i in range(3):
                        for j in range(3):
                            y, x = row + i - 1, column + j - 1
                            if 0 <= y < side and 0 <= x < side:
                                total += kernel[i][j] * values[b][y * side + x][channel]
                    result[b, row * side + column, channel] = total
    return result


def module_by_hand(module, tokens: Tensor, feature_map: str, local: bool = True) -> Tensor:
    p = {name: value.detach() for name, value in module.named_parameters()}
    dim, d = module.dim, module.dim // module.heads
    q, k, v = (
        tokens @ p["qkv.weight"][i * dim : (i + 1) * dim].T + p["qkv.bias"][i * dim : (i + 1) * dim] for i in range(3)
    )
    mixed = torch.zeros_like(tokens)
    for head in range(module.heads):
        part = slice(head * d, (head + 1) * d)
        for b in range(len(tokens)):
            weights = matrix_by_hand(q[b, None, :, part], k[b, None, :, part], feature_map)[0]
            mixed[b, :, part] = product_by_hand(weights, v[b, :, part])
    if local and module.local is not None:
        mixed = mixed + local_by_hand(v, p["local.weight"], p["local.bias"])
    return mixed @ p["out.weight"].T + p["out.bias"]


def module(feature_map: str, dim: int = 6, heads: int = 2, local: bool = True):
    made = (
        SoftmaxAttention(dim, heads, local)
        if feature_map == "softmax"
        else LinearAttention(dim, heads, feature_map, local)
    )
    with torch.no_grad():
        for i, parameter in enumerate(made.double().parameters()):
            parameter.copy_(random(*parameter.shape, seed=10 + i))
    return made


def flops(call) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


# The functions


@pytest.mark.parametrize("lead, n, m, d, e", SHAPES)
@pytest.mark.parametrize("feature_map", LINEAR)
def test_linear_attention_equals_the_matrix_in_loops(feature_map, lead, n, m, d, e):
    q, k, v = random_qkv(lead, n, m, d, e)
    got = linear_attention(q, k, v, feature_map)
    want = product_by_hand(matrix_by_hand(q[None], k[None], feature_map)[0], v)
    assert got.shape == (*lead, n, e)
    assert (got - want).abs().max() < 1e-12


@pytest.mark.parametrize("lead, n, m, d, e", SHAPES)
@pytest.mark.parametrize("feature_map", ALL)
def test_attention_matrix_equals_loops(feature_map, lead, n, m, d, e):
    q, k, _ = random_qkv(lead, n, m, d, e)
    got = attention_matrix(q, k, feature_map)
    assert got.shape == (*lead, n, m)
    assert (got - matrix_by_hand(q[None], k[None], feature_map)[0]).abs().max() < 1e-12


def test_double_softmax_is_the_default():
    q, k, v = random_qkv()
    assert torch.equal(linear_attention(q, k, v), linear_attention(q, k, v, "double_softmax"))
    assert torch.equal(attention_matrix(q, k), attention_matrix(q, k, "double_softmax"))
    assert inspect.signature(LinearAttention).parameters["feature_map"].default == "double_softmax"


@pytest.mark.parametrize("feature_map", ALL)
def test_weights_are_not_negative_and_sum_to_one(feature_map):
    q, k, _ = random_qkv(m=5, alive=True)
    matrix = attention_matrix(q, k, feature_map)
    assert (matrix >= 0).all()
    assert (matrix.sum(dim=-1) - 1).abs().max() < 1e-12


@pytest.mark.parametrize("feature_map", LINEAR)
def test_ones_give_ones(feature_map):
    q, k, v = random_qkv(m=5, e=2, alive=True)
    assert (linear_attention(q, k, torch.ones_like(v), feature_map) - 1).abs().max() < 1e-12


@pytest.mark.parametrize("feature_map", LINEAR)
def test_outputs_stay_inside_the_hull_of_the_values(feature_map):
    q, k, v = random_qkv(d=4, e=3, alive=True)
    got = linear_attention(3 * q, 3 * k, v, feature_map)
    directions = random(3, 50, seed=4)  # inside the hull: inside the values' range in every direction
    seen, values = got @ directions, v @ directions
    assert (seen <= values.amax(dim=-2, keepdim=True) + 1e-12).all()
    assert (seen >= values.amin(dim=-2, keepdim=True) - 1e-12).all()


def test_a_relu_query_without_a_positive_feature_attends_to_nothing():
    q, k, v = random_qkv(alive=True)
    q[:, 2] = -q[:, 2].abs()
    q[:, 3] = 0
    for x in (attention_matrix(q, k, "relu"), linear_attention(q, k, v, "relu")):
        assert torch.isfinite(x).all()
        assert (x[:, 2:4] == 0).all()
    assert (attention_matrix(q, k, "relu").sum(dim=-1)[:, [0, 1, 4, 5, 6]] - 1).abs().max() < 1e-12


def test_a_relu_without_a_positive_key_gives_zero_and_finite_gradients():
    q, k, v = random_qkv()
    q.requires_grad_()
    got = linear_attention(q, -k.abs(), v, "relu")
    assert (got == 0).all()
    got.sum().backward()
    assert torch.isfinite(q.grad).all()


@pytest.mark.parametrize("feature_map", LINEAR)
def test_faint_queries_give_what_the_matrix_gives(feature_map):
    q, k, v = random_qkv(m=5, alive=True)
    faint = 1e-9 * q if feature_map == "relu" else q - 20  # below the floor of the denominator
    got, want = linear_attention(faint, k, v, feature_map), attention_matrix(faint, k, feature_map) @ v
    assert (got - want).abs().max() < 1e-15
    assert got.abs().max() > 0


@pytest.mark.parametrize("feature_map", LINEAR)
def test_moving_keys_and_values_together_changes_nothing(feature_map):
    q, k, v = random_qkv(n=5, m=8)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(5))
    got = linear_attention(q, k[:, order], v[:, order], feature_map)
    assert (got - linear_attention(q, k, v, feature_map)).abs().max() < 1e-12
    assert (linear_attention(q, k[:, order], v, feature_map) - got).abs().max() > 1e-3  # alone they do change it


@pytest.mark.parametrize("feature_map", LINEAR)
def test_batch_order_does_not_matter_to_the_function(feature_map):
    q, k, v = random_qkv(lead=(5, 2))
    order = torch.tensor([3, 0, 4, 1, 2])
    got = linear_attention(q[order], k[order], v[order], feature_map)
    assert (got - linear_attention(q, k, v, feature_map)[order]).abs().max() < 1e-12


@pytest.mark.parametrize("feature_map", LINEAR)
def test_the_function_passes_gradcheck(feature_map):
    inputs = [x.requires_grad_() for x in random_qkv((1, 2), 5, 5, 3, 3, alive=True)]
    assert gradcheck(lambda *qkv: linear_attention(*qkv, feature_map), inputs)
    assert gradcheck(lambda q, k: attention_matrix(q, k, feature_map), inputs[:2])


@pytest.mark.parametrize("feature_map", LINEAR)
def test_rank_is_at_most_d(feature_map):
    q, k, _ = random_qkv(n=20, m=20, d=3)
    assert (torch.linalg.matrix_rank(attention_matrix(q, k, feature_map)) <= 3).all()
    assert (torch.linalg.matrix_rank(attention_matrix(q, k, "softmax")) > 3).all()


@pytest.mark.parametrize("feature_map", LINEAR)
@pytest.mark.parametrize("scale", [1, 10])
def test_mean_weight_on_a_partner_is_at_most_d_over_n(feature_map, scale):
    n, d = 12, 3
    q = scale * random(n, d)
    assert attention_matrix(q, q, feature_map).diagonal().mean() <= d / n + 1e-12  # partners that look alike
    for seed in range(20):
        partner = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        matrix = attention_matrix(q, scale * random(n, d, seed=seed + 1), feature_map)
        assert matrix[torch.arange(n), partner].mean() <= d / n + 1e-12


def test_d_over_n_is_reached_and_softmax_passes_it():
    n, d = 8, 2
    q, k = torch.zeros(n, d, dtype=torch.float64), torch.zeros(n, d, dtype=torch.float64)
    for i in range(n):
        q[i, i % d] = 60.0
    for c in range(d):
        k[c, c] = 60.0
    assert attention_matrix(q, k).diagonal().mean() == pytest.approx(d / n, abs=1e-12)
    angles = torch.arange(n, dtype=torch.float64) * 2 * math.pi / n
    circle = 20 * torch.stack([angles.cos(), angles.sin()], dim=1)
    assert attention_matrix(circle, circle, "softmax").diagonal().mean() > 0.9


def test_relu_weights_do_not_know_the_scale_of_the_query():
    q, k, _ = random_qkv(alive=True)
    want = attention_matrix(q, k, "relu")
    assert torch.equal(attention_matrix(4 * q, k, "relu"), want)
    assert torch.equal(attention_matrix(q / 4096, k, "relu"), want)  # still far above the floor of the denominator
    assert (attention_matrix(3.7 * q, k, "relu") - want).abs().max() < 1e-12
    for other in ("double_softmax", "elu1", "softmax"):
        assert (attention_matrix(4 * q, k, other) - attention_matrix(q, k, other)).abs().max() > 1e-3


@pytest.mark.parametrize("feature_map", LINEAR)
def test_strides_do_not_matter(feature_map):
    packed = random(2, 9, 3, 2, 4)  # (B, N, 3, h, d) as the projection gives it
    q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
    assert not q.is_contiguous()
    want = linear_attention(q.contiguous(), k.contiguous(), v.contiguous(), feature_map)
    assert (linear_attention(q, k, v, feature_map) - want).abs().max() < 1e-14
    assert (attention_matrix(q, k, feature_map) @ v - want).abs().max() < 1e-12


@pytest.mark.parametrize("feature_map", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_input_stays_finite(feature_map, dtype):
    q, k, v = (50 * random(2, 8, 4, seed=i, dtype=dtype).sign() for i in range(3))
    q.requires_grad_(), k.requires_grad_()
    matrix = attention_matrix(q, k, feature_map)
    out = matrix @ v if feature_map == "softmax" else linear_attention(q, k, v, feature_map)
    assert matrix.dtype == out.dtype == dtype
    (out.square().sum() + matrix.square().sum()).backward()
    assert all(torch.isfinite(x).all() for x in (matrix, out, q.grad, k.grad))
    assert out.abs().max() <= 50 * (1 + 1e-5)


@pytest.mark.parametrize("feature_map", LINEAR)
def test_float32_is_close_to_float64(feature_map):
    q, k, v = random_qkv(n=64, m=64, d=32, e=32)
    want = linear_attention(q, k, v, feature_map)
    got = linear_attention(q.float(), k.float(), v.float(), feature_map)
    assert (got - want).abs().max() / want.abs().max() < 5e-6


# What it costs


@pytest.mark.parametrize("feature_map", LINEAR)
def test_flops_of_linear_attention_grow_with_slope_one(feature_map):
    counts = []
    for n in (32, 64, 128, 256):
        q = random(2, n, 8)
        counts.append(flops(lambda q=q: linear_attention(q, q, q, feature_map)))
    assert counts[0] >= 2 * 2 * (2 * 32 * 8 * 8)  # both products, 2 FLOPs a multiplication, 2 in the batch
    assert [math.log2(b / a) for a, b in itertools.pairwise(counts)] == [1.0] * 3


def test_flops_of_explicit_softmax_grow_with_slope_two():
    counts = []
    for n in (32, 64, 128, 256):
        q = random(2, n, 8)
        counts.append(flops(lambda q=q: attention_matrix(q, q, "softmax") @ q))
    assert [math.log2(b / a) for a, b in itertools.pairwise(counts)] == [2.0] * 3


@pytest.mark.parametrize("feature_map", LINEAR)
def test_flops_of_the_module_grow_with_slope_one(feature_map):
    attention = module(feature_map, dim=16, heads=4, local=False)
    counts = [flops(lambda n=n: attention(random(1, n, 16))) for n in (16, 64, 256)]
    assert counts[0] > 0
    assert [math.log2(b / a) for a, b in itertools.pairwise(counts)] == [2.0, 2.0]  # four times the tokens


# The modules


@pytest.mark.parametrize("feature_map", ALL)
@pytest.mark.parametrize("local", [False, True])
def test_module_equals_projections_composed_by_hand(feature_map, local):
    attention, tokens = module(feature_map, local=local), random(2, 9, 6)
    assert (attention(tokens) - module_by_hand(attention, tokens, feature_map)).abs().max() < 1e-11


@pytest.mark.parametrize("heads", [1, 2, 3, 6])
def test_module_splits_features_into_heads(heads):
    attention, tokens = module("elu1", heads=heads), random(1, 4, 6)
    assert (attention(tokens) - module_by_hand(attention, tokens, "elu1")).abs().max() < 1e-11


@pytest.mark.parametrize("n", [1, 4, 25])
def test_local_branch_is_a_depthwise_convolution_of_the_values(n):
    attention, tokens = module("double_softmax"), random(2, n, 6)
    v = tokens @ attention.qkv.weight[12:].T + attention.qkv.bias[12:]
    local = local_by_hand(v, attention.local.weight, attention.local.bias) @ attention.out.weight.T
    want = module_by_hand(attention, tokens, "double_softmax", local=False) + local
    assert (attention(tokens) - want).abs().max() < 1e-11


@pytest.mark.parametrize("feature_map", ALL)
def test_without_the_local_branch_order_does_not_matter(feature_map):
    attention, tokens = module(feature_map, local=False), random(2, 16, 6)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(6))
    assert (attention(tokens[:, order]) - attention(tokens)[:, order]).abs().max() < 1e-12


@pytest.mark.parametrize("feature_map", ALL)
def test_with_the_local_branch_order_does_matter(feature_map):
    attention, tokens = module(feature_map, local=True), random(2, 16, 6)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(6))
    assert (attention(tokens[:, order]) - attention(tokens)[:, order]).abs().max() > 0.1


@pytest.mark.parametrize("feature_map", ALL)
@pytest.mark.parametrize("local", [False, True])
def test_batch_order_does_not_matter_to_the_module(feature_map, local):
    attention, tokens = module(feature_map, local=local), random(5, 9, 6)
    order = torch.tensor([3, 0, 4, 1, 2])
    got = attention(tokens)
    assert (attention(tokens[order]) - got[order]).abs().max() < 1e-12
    assert (attention(tokens[1:2]) - got[1:2]).abs().max() < 1e-12


@pytest.mark.parametrize("feature_map", ALL)
def test_the_module_passes_gradcheck(feature_map):
    attention, tokens = module(feature_map, dim=4), random(1, 4, 4).requires_grad_()
    names, values = zip(*attention.named_parameters(), strict=True)
    values = [value.detach().clone().requires_grad_() for value in values]

    def call(tokens, *values):
        return functional_call(attention, dict(zip(names, values, strict=True)), (tokens,))

    assert gradcheck(call, (tokens, *values))


@pytest.mark.parametrize("local", [False, True])
def test_linear_and_softmax_attention_have_the_same_parameters(local):
    shapes = [
        {name: tuple(p.shape) for name, p in made.state_dict().items()}
        for made in (LinearAttention(8, 2, local=local), SoftmaxAttention(8, 2, local=local))
    ]
    want = {"qkv.weight": (24, 8), "qkv.bias": (24,), "out.weight": (8, 8), "out.bias": (8,)}
    if local:
        want |= {"local.weight": (8, 1, 3, 3), "local.bias": (8,)}
    assert shapes == [want, want]


def test_both_modules_take_the_same_defaults():
    for made in (LinearAttention, SoftmaxAttention):
        defaults = {name: p.default for name, p in inspect.signature(made).parameters.items()}
        assert (defaults["heads"], defaults["local"]) == (4, True)
        assert made(128)(torch.zeros(1, 64, 128)).shape == (1, 64, 128)


@pytest.mark.parametrize("feature_map", ALL)
def test_the_record_recomposes_the_output(feature_map):
    attention, tokens = module(feature_map, local=False), random(2, 9, 6)
    record = attention.record(tokens)
    weight, bias = attention.qkv.weight.detach(), attention.qkv.bias.detach()
    q, k, v = (
        torch.stack([tokens @ weight[a : a + 3].T + bias[a : a + 3] for a in (start, start + 3)], dim=1)  # two heads
        for start in (0, 6, 12)
    )
    assert (record.q - q).abs().max() < 1e-12
    assert (record.k - k).abs().max() < 1e-12
    assert (record.matrix - matrix_by_hand(q, k, feature_map)).abs().max() < 1e-12
    mixed = record.matrix @ v  # (B, h, N, d)
    want = torch.cat([mixed[:, 0], mixed[:, 1]], dim=2) @ attention.out.weight.T + attention.out.bias
    assert (attention(tokens) - want).abs().max() < 1e-11
    assert not record.matrix.requires_grad


@pytest.mark.parametrize("feature_map", ALL)
def test_the_record_ignores_the_local_branch(feature_map):
    with_local, without = module(feature_map, local=True), module(feature_map, local=False)
    without.load_state_dict({n: p for n, p in with_local.state_dict().items() if not n.startswith("local")})
    tokens = random(2, 9, 6)
    assert torch.equal(with_local.record(tokens).matrix, without.record(tokens).matrix)


def test_without_the_local_branch_any_number_of_tokens_will_do():
    for n in (1, 2, 63):
        assert module("elu1", local=False)(random(1, n, 6)).shape == (1, n, 6)


# Bad input

Q, NAN, INF = torch.zeros(2, 5, 3), torch.full((2, 5, 3), math.nan), torch.full((2, 5, 3), math.inf)
BAD = {
    "map": (lambda: linear_attention(Q, Q, Q, "tanh"), "feature_map", "'double_softmax', 'elu1', 'relu'", "'tanh'"),
    "map softmax": (lambda: linear_attention(Q, Q, Q, "softmax"), "feature_map", "'double_softmax'", "got 'softmax'"),
    "map None": (lambda: linear_attention(Q, Q, Q, None), "feature_map", "'elu1'", "got None"),
    "map list": (lambda: linear_attention(Q, Q, Q, ["elu1"]), "feature_map", "'elu1'", "got ['elu1']"),
    "matrix map": (lambda: attention_matrix(Q, Q, "tanh"), "feature_map", "'relu', 'softmax'", "got 'tanh'"),
    "q list": (lambda: linear_attention([0.0], Q, Q), "q", "(..., N, d)", "list"),
    "q long": (lambda: linear_attention(Q.long(), Q, Q), "q", "floating-point", "torch.int64"),
    "q 1-D": (lambda: linear_attention(Q[0, 0], Q, Q), "q", "(..., N, d)", "(3,)"),
    "q NaN": (lambda: linear_attention(NAN, Q, Q), "q", "finite", "NaN"),
    "k inf": (lambda: linear_attention(Q, INF, Q), "k", "finite", "infinity"),
    "v NaN": (lambda: linear_attention(Q, Q, NAN), "v", "finite", "NaN"),
    "k features": (lambda: linear_attention(Q, Q[..., :2], Q), "k", "(..., N, 3)", "(2, 5, 2)"),
    "v tokens": (lambda: linear_attention(Q, Q, Q[:, :4]), "v", "(..., 5, e)", "(2, 4, 3)"),
    "v long": (lambda: linear_attention(Q, Q, Q.long()), "v", "floating-point", "torch.int64"),
    "k batch": (lambda: linear_attention(Q, Q[:1], Q[:1]), "q, k and v", "agree", "(2, 5, 3), (1, 5, 3), (1, 5, 3)"),
    "k batch alone": (lambda: linear_attention(Q, Q[:1], Q), "q, k and v", "agree", "(2, 5, 3), (1, 5, 3), (2, 5, 3)"),
    "v batch": (lambda: linear_attention(Q, Q, Q[0]), "q, k and v", "agree", "(2, 5, 3), (2, 5, 3), (5, 3)"),
    "matrix q": (lambda: attention_matrix(Q[0, 0], Q), "q", "(..., N, d)", "(3,)"),
    "matrix k": (lambda: attention_matrix(Q, Q[..., :1]), "k", "(..., N, 3)", "(2, 5, 1)"),
    "matrix k batch": (lambda: attention_matrix(Q, Q[0]), "q, k and v", "agree", "(5, 3)"),
    "matrix NaN": (lambda: attention_matrix(Q, NAN, "softmax"), "k", "finite", "NaN"),
    "heads": (lambda: LinearAttention(6, 4), "heads", "divide dim 6", "got 4"),
    "softmax heads": (lambda: SoftmaxAttention(6, 4), "heads", "divide dim 6", "got 4"),
    "heads 0": (lambda: SoftmaxAttention(8, 0), "heads", "whole number of at least 1", "got 0"),
    "heads 2.0": (lambda: LinearAttention(8, 2.0), "heads", "whole number of at least 1", "got 2.0"),
    "dim": (lambda: LinearAttention(-8, 2), "dim", "whole number of at least 1", "got -8"),
    "module map": (lambda: LinearAttention(8, 2, "softmax"), "feature_map", "'double_softmax'", "got 'softmax'"),
    "tokens D": (lambda: LinearAttention(8, 2)(torch.zeros(1, 4, 6)), "tokens", "(B, N, 8)", "(1, 4, 6)"),
    "tokens 2-D": (lambda: SoftmaxAttention(8, 2)(torch.zeros(4, 8)), "tokens", "(B, N, 8)", "(4, 8)"),
    "tokens long": (lambda: LinearAttention(8, 2)(torch.zeros(1, 4, 8).long()), "tokens", "floating", "torch.int64"),
    "tokens None": (lambda: LinearAttention(8, 2)(None), "tokens", "(B, N, 8)", "NoneType"),
    "record": (lambda: LinearAttention(8, 2).record(torch.zeros(1, 4, 6)), "tokens", "(B, N, 8)", "(1, 4, 6)"),
    "grid": (lambda: LinearAttention(8, 2)(torch.zeros(1, 5, 8)), "tokens", "square grid when local=True", "N = 5"),
    "softmax grid": (lambda: SoftmaxAttention(8, 2)(torch.zeros(1, 8, 8)), "tokens", "square grid", "N = 8"),
}


@pytest.mark.parametrize("call, name, parts", [(c, n, p) for c, n, *p in BAD.values()], ids=list(BAD))
def test_bad_input_is_refused(call, name, parts):
    with pytest.raises(ValueError) as caught:
        call()
    message = str(caught.value)
    assert message.startswith(name + " must"), message
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("attention", ["softmax", "double_softmax", "elu1", "relu"])
def test_the_biases_of_the_keys_learn_only_where_they_are_felt(attention):
    """Under a softmax over tokens, 1 on every key changes no output, and the gradient is zero: exactly, not rounded."""
    torch.manual_seed(0)
    module = SoftmaxAttention(8, 2) if attention == "softmax" else LinearAttention(8, 2, attention)
    tokens = torch.randn(3, 9, 8, generator=torch.Generator().manual_seed(1))  # (3, 9, 8)
    before = module(tokens)  # (3, 9, 8)
    before.square().sum().backward()
    q, k, v = module.qkv.bias.grad.chunk(3)  # (8,) each
    with torch.no_grad():
        module.qkv.bias[8:16] += 1
        change = (module(tokens) - before).abs().max()
    assert (change < 1e-5) == (k == 0).all() == (attention in ("softmax", "double_softmax"))
    assert q.abs().min() > 0 and v.abs().min() > 0
