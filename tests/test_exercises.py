"""The checks are checked: solutions pass, stubs are not attempted, each named mistake gets its own sentence."""

from __future__ import annotations

import math
from itertools import accumulate
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tutorial_lib.cards import EXERCISES
from tutorial_lib.denoiser import EfficientTransformerBlock
from tutorial_lib.exercises import answer_in, judge
from tutorial_lib.scaling import LATENCY, PARAMETERS, exchange_seconds, speed_up
from tutorial_lib.training import TrainConfig

ROOT = Path(__file__).parents[1]
NUMBERS = list(EXERCISES)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def regrouped_by_einsum(q, k, v):
    state = torch.einsum("bnd,bne->bde", k, v)
    return torch.einsum("bnd,bde->bne", q, state)


def double_softmax_by_hand(q, k):
    q, k = q.exp(), k.exp()
    return q / q.sum(-1, keepdim=True), k / k.sum(-2, keepdim=True)


def elu1_by_loops(q, k, v):
    q, k = (torch.where(x > 0, x + 1, x.exp()) for x in (q, k))
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=v.dtype)
    for b in range(len(q)):
        for i in range(q.shape[1]):
            weights = torch.stack([q[b, i] @ k[b, j] for j in range(k.shape[1])])
            out[b, i] = sum(w * row for w, row in zip(weights / weights.sum(), v[b], strict=True))
    return out


def patchify_by_loops(images, p):
    rows, columns = images.shape[2] // p, images.shape[3] // p
    patches = [
        images[:, :, r * p : r * p + p, c * p : c * p + p].movedim(1, 3).flatten(1)
        for r in range(rows)
        for c in range(columns)
    ]
    return torch.stack(patches, dim=1)


def join_heads_by_cat(values, x):
    return torch.cat(list(values.unbind(dim=1)), dim=-1)


def recovered_by_tangent(x_t, t, eps):
    return x_t / math.cos(math.pi * t / 2) - math.tan(math.pi * t / 2) * eps


def coin_guess_by_tanh(x_t, t, share):
    alpha, sigma = math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)
    return torch.tanh(alpha * x_t / sigma**2 + math.log(share / (1 - share)) / 2)


def noised_one_by_one(x0, t, eps):
    angles = [math.pi / 2 * level for level in t.tolist()]
    return torch.stack([math.cos(a) * x + math.sin(a) * e for a, x, e in zip(angles, x0, eps, strict=True)])


def level_by_alpha_bar(db):
    snr = 10 ** (db / 10)
    return torch.acos((snr / (1 + snr)).sqrt()) / (math.pi / 2)


def noised_step_by_step(x0, i, eps, beta):
    alpha, variance = 1.0, 0.0
    for b in beta[: i + 1].tolist():
        alpha, variance = alpha * (1 - b) ** 0.5, variance * (1 - b) + b
    return alpha * x0 + variance**0.5 * eps


def step_in_two_terms(x, x0, alpha_t, sigma_t, alpha_s, sigma_s):
    return sigma_s / sigma_t * x + (alpha_s - alpha_t * sigma_s / sigma_t) * x0


def walk_by_index(denoise, schedule, x, times):
    for i in range(len(times) - 1):
        t, s = times[i : i + 2]
        x = step_in_two_terms(x, denoise(x, t), *(f(u) for u in (t, s) for f in (schedule.alpha, schedule.sigma)))
    return x


def guide_latents_by_loops(out, scale):
    half, guided = len(out) // 2, out.clone()
    for i in range(len(out)):
        with_label, without = out[i % half], out[i % half + half]
        for channel in range(4):
            guided[i, channel] = torch.lerp(without[channel], with_label[channel], scale)
    return guided


def evaluations_by_walking(solver, steps, scale):
    count = 0
    for step in range(steps):
        looks = 2 if solver == "heun" and step < steps - 1 else 1
        count += looks * (1 if scale == 0 or scale == 1 else 2)
    return count


def modulate_by_hand(tokens, scale, shift):
    centred = tokens - tokens.mean(-1, keepdim=True)
    normed = centred / centred.square().mean(-1, keepdim=True).sqrt()
    return shift + normed + scale * normed


def parameters_of_a_real_block(dim, ff_dim):
    return sum(p.numel() for p in EfficientTransformerBlock(dim, ff_dim=ff_dim).parameters())


def loss_picture_by_picture(model, x0, t, eps, labels):
    total = 0
    for i in range(len(x0)):
        x_t = (1 - torch.sin(math.pi / 2 * t[i]) ** 2).sqrt() * x0[i] + torch.sin(math.pi / 2 * t[i]) * eps[i]
        guess = model(x_t[None], t[i : i + 1], labels[i : i + 1])[0]
        total += F.mse_loss(guess, x0[i])
    return total / len(x0)


def drop_labels_in_place(labels, eta):
    labels[torch.bernoulli(torch.full(labels.shape, eta)).bool()] = 10
    return labels


def moving_average_as_a_sum(weights, decay):
    decays = [min(decay, (1 + k) / (10 + k)) for k in range(len(weights) - 1)]
    shares = [(1 - d) * math.prod(decays[k + 1 :]) for k, d in enumerate(decays)]
    return torch.tensor([math.prod(decays), *shares]).double() @ torch.stack(weights)


def shares_of_the_learning_rate():
    config = TrainConfig.fast()
    rates = [config.lr_at(step, 60_000) for step in range(config.total_steps(60_000))]
    whole = sum(rates)
    half = sum(so_far < whole / 2 for so_far in accumulate(rates))
    tail = sum(so_far < whole / 100 for so_far in accumulate(reversed(rates)))
    return 100 * half / len(rates), 100 * tail / len(rates)


def evaluations_by_tensor(times, scale, low, high):
    t = torch.tensor(times[:-1])
    inside = (t >= torch.tensor(low)) & (t <= torch.tensor(high))
    return len(t) + (int(inside.sum()) if scale != 0 and scale != 1 else 0)


def distance_by_quantiles(a, b):
    ranks = range(1, len(a) + 1)
    return sum(abs(a.kthvalue(rank).values - b.kthvalue(rank).values) for rank in ranks) / len(a)


def steps_by_trying(solver, nfe, scale):
    def cost(steps):
        return evaluations_by_walking(solver, steps, scale)

    return max((steps for steps in range(nfe + 1) if cost(steps) <= nfe), default=0)


def core_work_by_counting(size, patch, dim, heads, softmax):
    n, d = sum(1 for _ in range(0, size, patch)) ** 2, dim // heads
    first = (n, d, n) if softmax else (d, n, d)
    second = (n, n, d) if softmax else (n, d, d)
    return heads * (math.prod(first) + math.prod(second))


def widened_by_stacking(embed, to_pixels):
    return torch.stack([embed / 3] * 3, dim=2).flatten(1), torch.stack([to_pixels] * 3, dim=1).flatten(0, 1)


def level_by_angles(t):
    return math.atan2(math.sin(math.pi * t / 2), math.sqrt(3) * math.cos(math.pi * t / 2)) * 2 / math.pi


def exponent_by_lstsq(n, ms):
    columns = torch.tensor([[math.log(value), 1.0] for value in n]).double()
    return torch.linalg.lstsq(columns, torch.tensor(ms).double().log()[:, None]).solution[0, 0]


def combine_picture_by_picture(gradients, sizes):
    each = [gradient for gradient, size in zip(gradients, sizes, strict=True) for _ in range(size)]
    return torch.stack(each).mean(0)


def share_place_by_place(order, step, batch_size, rank, world):
    places = range(step * batch_size, (step + 1) * batch_size)
    return order[[place for place in places if (place - step * batch_size) % world == rank]]


def bytes_hop_by_hop(parameters, processes):
    return sum(4 * parameters / processes for _ in range(2) for _ in range(processes - 1))


def balance_by_library(parameters, processes, gbit, seconds_per_picture):
    seconds = exchange_seconds(parameters, processes, gbit) - 2 * (processes - 1) * LATENCY
    return seconds / seconds_per_picture


def smallest_by_search():
    wanted = (
        lambda batch: speed_up(8, 1.0, PARAMETERS, batch),
        lambda batch: speed_up(8, 1.0, PARAMETERS, batch, 100),
        lambda gbit: speed_up(8, float(gbit), PARAMETERS, 256, 100),
    )
    return [next(n for n in range(1, 10_000) if gain(n) >= 4) for gain in wanted]


# A correct answer to each exercise, written in another way than the solution.
OTHERS = {
    "1.2": regrouped_by_einsum,
    "1.3": double_softmax_by_hand,
    "1.4": elu1_by_loops,
    "1.1": patchify_by_loops,
    "1.5": [1.0, 16 / 64],
    "1.6": join_heads_by_cat,
    "2.1": recovered_by_tangent,
    "2.2": coin_guess_by_tanh,
    "2.3": noised_one_by_one,
    "2.4": level_by_alpha_bar,
    "2.5": [20.0, 683.0],
    "2.6": noised_step_by_step,
    "4.1": step_in_two_terms,
    "4.2": walk_by_index,
    "4.3": lambda with_label, without, scale: torch.lerp(without, with_label, scale),
    "4.4": guide_latents_by_loops,
    "4.5": evaluations_by_walking,
    "4.6": [5, 1, 3],
    "5.1": evaluations_by_tensor,
    "5.2": distance_by_quantiles,
    "5.3": steps_by_trying,
    "5.4": [0.6, 0.5, 6],
    "5.5": lambda guess, known, hidden: guess * hidden + known * ~hidden,
    "3.1": modulate_by_hand,
    "3.2": parameters_of_a_real_block,
    "3.3": loss_picture_by_picture,
    "3.4": drop_labels_in_place,
    "3.5": moving_average_as_a_sum,
    "3.6": shares_of_the_learning_rate(),
    "7.1": combine_picture_by_picture,
    "7.2": share_place_by_place,
    "7.3": bytes_hop_by_hop,
    "7.4": balance_by_library,
    "7.5": smallest_by_search(),
    "6.1": core_work_by_counting,
    "6.2": widened_by_stacking,
    "6.3": level_by_angles,
    "6.4": exponent_by_lstsq,
    "6.5": [128**2, 12 * 4 * 16384**2 / 1e9, 4.0],
}


@pytest.mark.parametrize("number", NUMBERS)
def test_the_solution_is_correct_and_stands_alone(number):
    card = EXERCISES[number]
    assert judge(card, answer_in(card.solution)) == ("correct", card.title)


@pytest.mark.parametrize("number", NUMBERS)
def test_another_way_to_write_it_is_correct(number):
    assert judge(EXERCISES[number], OTHERS[number]) == ("correct", EXERCISES[number].title)


@pytest.mark.parametrize("number", NUMBERS)
def test_each_named_mistake_is_rejected_by_its_name(number):
    card = EXERCISES[number]
    assert len(card.mistakes) >= 3
    for sentence, wrong in card.mistakes.items():
        verdict, said = judge(card, wrong)
        assert verdict == "wrong" and said.startswith(f"{sentence} ("), said


@pytest.mark.parametrize("number", NUMBERS)
def test_three_dots_or_the_published_code_are_not_attempted(number):
    card = EXERCISES[number]
    assert judge(card, ...)[0] == "not attempted"
    if callable(answer_in(card.solution)):
        assert judge(card, lambda *arguments: ...)[0] == "not attempted"
    if card.published:
        assert judge(card, answer_in(card.published)) == (
            "not attempted",
            "this still does what the published code does: one thing in it is wrong",
        )


@pytest.mark.parametrize("number", NUMBERS)
def test_hints_climb_and_do_not_give_the_answer_away_at_once(number):
    card = EXERCISES[number]
    assert len(card.hints) == 3 and all(hint.endswith((".", "?")) for hint in card.hints)
    lines = [line.strip() for line in card.solution.strip().splitlines()[1:]]
    assert not [line for line in lines if len(line) > 20 and line.removeprefix("return ") in card.hints[0]]


def test_cards_are_numbered_in_order():
    for notebook in "1234567":
        own = [number for number in NUMBERS if number.startswith(f"{notebook}.")]
        assert own == [f"{notebook}.{i}" for i in range(1, len(own) + 1)]
        assert 4 <= len(own) <= 6
    assert sum(bool(card.published) for card in EXERCISES.values()) == 5  # the bug museum
