"""MoDo: its projected step, its expectation, the batches it needs."""

from __future__ import annotations

import cvxpy
import numpy as np
import pytest
import torch

from moopt.records.step_statistics import StepStatistics
from moopt.settings.names import sample_name
from moopt.testing import OneBatch, all_cases
from moopt.weightings import MoDo
from moopt.weightings.problem import Problem

AGREEMENT = 1e-9
NAMES = ("a", "b", "c")


def projected(vector: torch.Tensor) -> torch.Tensor:
    """The nearest point of the simplex, by cvxpy."""
    w = cvxpy.Variable(len(vector))
    problem = cvxpy.Problem(
        cvxpy.Minimize(cvxpy.sum_squares(w - vector.numpy())), [w >= 0, cvxpy.sum(w) == 1]
    )
    problem.solve(solver=cvxpy.CLARABEL, tol_gap_abs=1e-14, tol_gap_rel=1e-14, tol_feas=1e-14)
    return torch.from_numpy(np.asarray(w.value))


def three_batches(jacobians: list[torch.Tensor], **other: object) -> StepStatistics:
    """The statistics of a step whose objectives are `jacobians[0]`, its samples the other two."""
    rows = torch.cat(jacobians)
    names = NAMES[: len(jacobians[0])]
    samples = tuple(sample_name(n, k) for k in (1, 2) for n in names)
    return StepStatistics(gramian=rows @ rows.T, names=names, auxiliary=samples, **other)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", list(all_cases(ms=(2, 3))), ids=repr)
def test_one_projected_gradient_step_of_the_regularised_problem(case) -> None:
    second = case.jacobian.flip(-1) + 0.1 * case.jacobian
    third = case.jacobian.roll(1, -1)
    previous = torch.linspace(1.0, 2.0, case.m, dtype=torch.float64)
    previous = previous / previous.sum()
    statistics = three_batches([third, case.jacobian, second])
    products = case.jacobian @ second.T
    step_size = 0.3 / max(float(case.gramian.abs().max()), 1.0)
    expected = projected(previous - step_size * (products @ previous + 0.2 * previous))
    method = MoDo(step_size=step_size, regularization=0.2)
    weights, state, _ = method(statistics, {"weights": previous})
    torch.testing.assert_close(weights[: case.m], expected, rtol=0, atol=1e-7)
    assert (weights[case.m :] == 0).all()
    assert torch.equal(state["weights"], weights[: case.m])


def modo_weights(products, weights, **settings):
    """The weights that `MoDo` keeps after a step, for one or many `J1 J2'`."""
    method, m = MoDo(**settings), products.shape[-1]
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
    """The average over 200 chains of the weights after 500 steps on noisy gradients."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.full((200, len(mean)), 1 / len(mean), dtype=torch.float64)
    for _ in range(500):
        noise = torch.randn(2, 200, *mean.shape, generator=generator, dtype=torch.float64)
        first, second = mean + 1.5 * noise
        products = first @ (second if independent else first).mT
        weights = modo_weights(products, weights, step_size=5e-3, regularization=0.0)
    return weights.mean(0)


def test_the_weights_settle_at_the_minimum_norm_point_of_the_expected_gradients() -> None:
    """And with one batch in place of two they do not: each row's noise counts as its length."""
    mean = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    exact = torch.tensor([0.2, 0.8], dtype=torch.float64)  # min-norm of the expectation
    assert float((settled(mean, independent=True) - exact).abs().max()) < 0.03
    assert float((settled(mean, independent=False) - exact).abs().max()) > 0.1


def test_absent_and_inactive_objectives_keep_their_weight() -> None:
    torch.manual_seed(0)
    jacobians = [torch.randn(3, 5, dtype=torch.float64) for _ in range(3)]
    active = torch.tensor([True, False, True])
    state = {"weights": torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)}
    weights, next_state, _ = MoDo()(three_batches(jacobians, active=active), state)
    assert weights[1] == 0
    assert next_state["weights"][1] == 0.3
    torch.testing.assert_close(weights[:3].sum(), torch.tensor(1.0, dtype=torch.float64))
    # As if the step had the other two alone, from their shares.
    kept = [j[active] for j in jacobians]
    alone = modo_weights(kept[1] @ kept[2].T, torch.tensor([0.65, 0.35], dtype=torch.float64))
    torch.testing.assert_close(weights[:3][active], alone, rtol=0, atol=AGREEMENT)


class Inverse(MoDo):
    """One that divides by the norms, and weighs its samples, too."""

    sees_zero_gradients = False

    def weigh(self, problem, state):
        assert problem.auxiliary == ("b#1", "b#2")
        return np.append(problem.share / problem.norms, np.ones(2 * problem.m))


def test_on_one_batch_a_method_sees_what_it_asks_for() -> None:
    gramian = torch.diag(torch.tensor([0.0, 4.0], dtype=torch.float64))
    output = OneBatch(Inverse())(StepStatistics(gramian=gramian, names=("a", "b")))
    assert output.weights.tolist() == [0.0, 0.25]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_sample_of_an_objective_left_out_is_not_read(bad: float) -> None:
    torch.manual_seed(0)
    jacobians = [torch.randn(3, 4, dtype=torch.float64) for _ in range(3)]
    active = torch.tensor([True, False, True])

    def step():
        weights, state, result = MoDo(step_size=0.1)(three_batches(jacobians, active=active))
        return [*weights.tolist(), *state["weights"].tolist()], result

    expected = step()
    for sample in (1, 2):
        jacobians[sample][1, 0] = bad
    assert step() == expected
    assert expected[1] is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_sample_that_is_not_finite_leaves_the_state(bad: float) -> None:
    torch.manual_seed(0)
    jacobians = [torch.randn(2, 4, dtype=torch.float64) for _ in range(3)]
    jacobians[2][0, 0] = bad
    state = {"weights": torch.tensor([0.9, 0.1], dtype=torch.float64)}
    weights, next_state, _ = MoDo()(three_batches(jacobians), state)
    assert weights[:2].tolist() == [0.5, 0.5]
    assert torch.equal(next_state["weights"], state["weights"])


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: MoDo(step_size=0.0), "`step_size` of `MoDo`"),
        (lambda: MoDo(step_size=float("inf")), "`step_size` of `MoDo`"),
        (lambda: MoDo(regularization=-0.1), "`regularization` of `MoDo`"),
        (lambda: MoDo()(StepStatistics(gramian=torch.eye(2))), "objectives' names"),
        (
            lambda: MoDo()(StepStatistics(gramian=torch.eye(2), names=("a", "b"))),
            "'a#1', 'b#1'",
        ),
    ],
)
def test_errors_name_the_rule_and_the_remedy(build, match) -> None:
    with pytest.raises(ValueError, match=match):
        build()


def test_it_starts_at_uniform_weights() -> None:
    assert MoDo().initial_state(4)["weights"].tolist() == [0.25] * 4
