"""SDMGradStochastic: its projected step, where it settles, and the preference it leans to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import moopt
from moopt.records.step_statistics import StepStatistics
from moopt.settings.names import sample_name
from moopt.testing import all_cases
from moopt.weightings import MoDo, SDMGrad, SDMGradStochastic
from moopt.weightings.problem import Problem
from tests.weightings.test_modo import NAMES, projected, three_batches

PROJECTION_TOL = 1e-7
"""What cvxpy's solver leaves of a projection."""

PREFERENCE = (3.0, 1.0, 4.0)


@pytest.mark.parametrize("case", list(all_cases(ms=(2, 3))), ids=repr)
def test_one_projected_step_and_the_regularised_direction(case) -> None:
    """Both by the rows themselves: the slope is J1 (J2'w + lambda g0), g0 of the second batch."""
    second = case.jacobian.flip(-1) + 0.1 * case.jacobian
    third = case.jacobian.roll(1, -1)
    previous = torch.linspace(1.0, 2.0, case.m, dtype=torch.float64)
    previous = previous / previous.sum()
    u = torch.tensor(PREFERENCE[: case.m], dtype=torch.float64)
    u = u / u.sum()
    step_size = 0.3 / max(float(case.gramian.abs().max()), 1.0)
    slope = case.jacobian @ (second.T @ previous + 0.7 * (second.T @ u))
    moved = projected(previous - step_size * slope)
    method = SDMGradStochastic(
        step_size=step_size,
        regularization=0.7,
        preference=dict(zip(NAMES, PREFERENCE, strict=True)),
    )
    statistics = three_batches([third, case.jacobian, second])
    weights, state, _ = method(statistics, {"weights": previous})
    torch.testing.assert_close(state["weights"], moved, rtol=0, atol=PROJECTION_TOL)
    direction = (third.T @ moved + 0.7 * (third.T @ u)) / 1.7
    scale = float(third.norm())
    torch.testing.assert_close(
        third.T @ weights[: case.m], direction, rtol=0, atol=PROJECTION_TOL * scale
    )
    assert (weights[case.m :] == 0).all()


def sdmgrad_stochastic_weights(products, weights, **settings):
    """The weights that `SDMGradStochastic` keeps after a step, for one or many `J1 J2'`."""
    method, m = SDMGradStochastic(**settings), products.shape[-1]
    names = tuple(map(str, range(m)))
    samples = tuple(sample_name(n, k) for k in (1, 2) for n in names)
    chains = []
    for one, previous in zip(products.reshape(-1, m, m), weights.reshape(-1, m), strict=True):
        wide = np.zeros((3 * m, 3 * m))
        wide[m : 2 * m, 2 * m :] = one.numpy()
        problem = Problem.of(np.eye(m), names=names, auxiliary=samples, wide=wide)
        chains.append(method.weigh(problem, {"weights": previous.numpy()}).state["weights"])
    return torch.from_numpy(np.array(chains)).reshape(products.shape[:-1])


def settled(mean: torch.Tensor, *, independent: bool) -> torch.Tensor:
    """The average over 200 chains of w after 500 steps on noisy gradients."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.full((200, len(mean)), 1 / len(mean), dtype=torch.float64)
    for _ in range(500):
        noise = torch.randn(2, 200, *mean.shape, generator=generator, dtype=torch.float64)
        first, second = mean + 1.5 * noise
        products = first @ (second if independent else first).mT
        weights = sdmgrad_stochastic_weights(products, weights, step_size=5e-3, regularization=0.5)
    return weights.mean(0)


def test_w_settles_where_the_exact_method_does_for_the_expected_gradients() -> None:
    """And with one batch in place of two it does not."""
    mean = torch.tensor([[1.5, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    # min ||J'(w + u / 2)||^2 on the simplex, u = (1/2, 1/2): 9/4 (a + 1/4) = 5/4 - a, a = w_1.
    exact = torch.tensor([11 / 52, 41 / 52], dtype=torch.float64)
    whole = SDMGrad(regularization=0.5)(StepStatistics(gramian=mean @ mean.T)).weights
    torch.testing.assert_close((exact + 0.25) / 1.5, whole, rtol=0, atol=1e-9)
    assert float((settled(mean, independent=True) - exact).abs().max()) < 0.03
    assert float((settled(mean, independent=False) - exact).abs().max()) > 0.1


def test_without_regularization_it_is_modo_without_its_own() -> None:
    torch.manual_seed(0)
    statistics = three_batches([torch.randn(3, 5, dtype=torch.float64) for _ in range(3)])
    past = {"weights": torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)}
    ours, state, _ = SDMGradStochastic(step_size=0.01, regularization=0.0)(statistics, past)
    theirs, other, _ = MoDo(step_size=0.01, regularization=0.0)(statistics, past)
    assert torch.equal(ours, theirs)
    assert torch.equal(state["weights"], other["weights"])
    leaning = SDMGradStochastic(step_size=0.01, regularization=0.5)(statistics, past).weights
    assert float((leaning - ours).abs().max()) > 1e-3


def test_much_regularization_is_the_preferred_direction() -> None:
    torch.manual_seed(0)
    statistics = three_batches([torch.randn(3, 5, dtype=torch.float64) for _ in range(3)])
    method = SDMGradStochastic(regularization=1e9, step_size=1e-12, preference=PREFERENCE)
    expected = torch.tensor(PREFERENCE, dtype=torch.float64) / sum(PREFERENCE)
    torch.testing.assert_close(method(statistics).weights[:3], expected, rtol=1e-8, atol=0)


def test_absent_and_inactive_objectives_keep_their_weight_and_have_no_preference() -> None:
    torch.manual_seed(0)
    jacobians = [torch.randn(3, 5, dtype=torch.float64) for _ in range(3)]
    active = torch.tensor([True, False, True])
    state = {"weights": torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)}
    method = SDMGradStochastic(step_size=0.1, preference=dict(zip(NAMES, PREFERENCE, strict=True)))
    weights, next_state, _ = method(three_batches(jacobians, active=active), state)
    assert weights[1] == 0
    assert next_state["weights"][1] == 0.3
    # As if the step had the other two alone, from their shares.
    kept = [j[active] for j in jacobians]
    rows = torch.cat(kept)
    pair = StepStatistics(
        gramian=rows @ rows.T,
        names=("a", "c"),
        auxiliary=tuple(sample_name(n, k) for k in (1, 2) for n in ("a", "c")),
    )
    start = {"weights": torch.tensor([0.65, 0.35], dtype=torch.float64)}
    alone, after, _ = method(pair, start)
    torch.testing.assert_close(weights[:3][active], alone[:2], rtol=0, atol=1e-12)
    torch.testing.assert_close(next_state["weights"][active], after["weights"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch", [0, 1, 2])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_batch_that_is_not_finite_leaves_the_state(bad: float, batch: int) -> None:
    torch.manual_seed(0)
    jacobians = [torch.randn(2, 4, dtype=torch.float64) for _ in range(3)]
    jacobians[batch][0, 0] = bad
    state = {"weights": torch.tensor([0.9, 0.1], dtype=torch.float64)}
    weights, next_state, _ = SDMGradStochastic()(three_batches(jacobians), state)
    assert weights[:2].tolist() == [0.5, 0.5]
    assert torch.equal(next_state["weights"], state["weights"])


def test_it_trains_on_three_batches_and_resumes_bit_for_bit() -> None:
    def run(steps: range, saved=None):
        w = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        optimizer = moopt.CommonDescent(
            torch.optim.SGD([w], lr=0.05), SDMGradStochastic(step_size=1e-3)
        )
        if saved is not None:
            w.data.copy_(saved[0])
            optimizer.load_state_dict(saved[1])
        for step in steps:
            optimizer.zero_grad()
            losses = [
                {"a": (w[0] - 1 - 0.1 * k) ** 2, "b": 3 * (w.sum() - step) ** 2} for k in range(3)
            ]
            optimizer.backward(losses[0], samples=losses[1:])
            optimizer.step()
        return w.detach().clone(), optimizer.state_dict()

    whole, _ = run(range(4))
    half = run(range(2))
    assert torch.equal(run(range(2, 4), half)[0], whole)
    assert not torch.equal(run(range(2, 4), (half[0], run(range(0))[1]))[0], whole)


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: SDMGradStochastic()(StepStatistics(gramian=torch.eye(2))), "objectives' names"),
        (
            lambda: SDMGradStochastic()(StepStatistics(gramian=torch.eye(2), names=("a", "b"))),
            "`SDMGradStochastic` needs each loss on two further batches.*'a#1', 'b#1'",
        ),
        (
            lambda: SDMGradStochastic(preference={"a": 1.0})(
                three_batches([torch.eye(2, dtype=torch.float64)] * 3)
            ),
            "`preference` of `SDMGradStochastic`",
        ),
    ],
)
def test_errors_name_the_rule_and_the_remedy(build, match) -> None:
    with pytest.raises(ValueError, match=match):
        build()
