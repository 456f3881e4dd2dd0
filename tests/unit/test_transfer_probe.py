"""Heads on frozen embeddings: solved to the end, and chosen on validation data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import WIDTHS, spec_of

from umedpt_lightning.tasks import DEFAULT_TASKS, Classification, MultilabelClassification, Segmentation, Task
from umedpt_lightning.tasks.answers import metrics_of as score
from umedpt_lightning.transfer import probe as module
from umedpt_lightning.transfer.embeddings import Embeddings
from umedpt_lightning.transfer.linear import binary_path, logistic_path, ridge_path, votes
from umedpt_lightning.transfer.probe import NEIGHBOURS, STRENGTHS, linear_probe, neighbour_probe

D = 12
KINDS = ("class", "multilabel", "regression")
PROBES = (linear_probe, neighbour_probe)


def blobs(samples: int, classes: int, seed: int, apart: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes of unequal size and scale, `apart` standard deviations from each other."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, samples, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    labels[:classes] = np.arange(classes)
    centres = np.random.default_rng(99).normal(size=(classes, D)) * apart
    return centres[labels] + rng.normal(size=(samples, D)), labels


def data(kind: str, samples: int, seed: int) -> Embeddings:
    """Embeddings that say something of their targets, on very unequal scales."""
    x, labels = blobs(samples, 3, seed)
    rng = np.random.default_rng(seed)
    features = (x * np.logspace(-2, 2, D) + 5).astype(np.float32)
    match kind:
        case "class":
            return Embeddings(features, labels)
        case "multilabel":
            targets = np.where(rng.random((samples, 3)) < 0.2, np.nan, np.eye(3)[labels])
        case "regression":
            means, stds = [10, 20, 30], [2, 3, 4]
            targets = np.where(rng.random((samples, 3)) < 0.2, np.nan, x[:, :3] / x[:, :3].std(0) * stds + means)
    return Embeddings(features, targets.astype(np.float32))


def task_of(kind: str) -> Task:
    return DEFAULT_TASKS[type(spec_of(kind))](spec_of(kind), WIDTHS)


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in arrays]


@pytest.mark.parametrize("strength", [10.0, 0.1, 1e-3, 1e-5])
@pytest.mark.parametrize("classes", [2, 4])
def test_the_gradient_of_logistic_regression_vanishes(classes: int, strength: float) -> None:
    x, labels = blobs(80, classes, 0)
    given = np.arange(1.0, classes + 1)
    (model,) = logistic_path(x, labels, [strength], given)
    weights, bias = tensors(model.weights, model.bias)
    logits = torch.from_numpy(x) @ weights + bias
    loss = F.cross_entropy(logits, torch.from_numpy(labels), weight=torch.from_numpy(given))
    (loss + strength / 2 * weights.square().sum()).backward()
    assert model.converged
    free = slice(1, None) if classes == 2 else slice(None)  # two classes share one vector
    assert float(weights.grad[:, free].abs().max()) < 2e-5
    assert float(bias.grad[free].abs().max()) < 2e-5


def test_the_start_does_not_matter() -> None:
    x, labels = blobs(80, 3, 1)
    *_, warm = logistic_path(x, labels, STRENGTHS, np.ones(3))
    (cold,) = logistic_path(x, labels, STRENGTHS[-1:], np.ones(3))
    softmax = [torch.from_numpy(model(x)).softmax(1).numpy() for model in (warm, cold)]
    np.testing.assert_allclose(*softmax, atol=1e-3)


def test_labels_are_fitted_each_by_itself_without_the_unknown() -> None:
    x, labels = blobs(100, 3, 0)
    many = np.eye(3)[labels]
    many[::5, 1] = np.nan
    (joint,) = binary_path(x, many, [0.01], np.array([1.0, 3.0, 1.0]))
    known = ~np.isnan(many[:, 1])
    (alone,) = logistic_path(x[known], many[known, 1].astype(int), [0.01], np.array([1.0, 3.0]))
    np.testing.assert_allclose(joint.weights[:, 1], alone.weights[:, 1], atol=1e-4)


@pytest.mark.parametrize("samples", [5, 100])
def test_ridge_solves_its_normal_equations(samples: int) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(samples, D)), rng.normal(size=(samples, 2))
    y[0, 1] = np.nan
    for strength, model in zip(STRENGTHS, ridge_path(x, y, STRENGTHS), strict=True):
        for quantity in range(2):
            known = ~np.isnan(y[:, quantity])
            errors = model(x[known])[:, quantity] - y[known, quantity]
            gradient = x[known].T @ errors / known.sum() + strength * model.weights[:, quantity]
            assert np.abs(gradient).max() < 1e-10
            assert abs(errors.mean()) < 1e-10


def test_neighbours_go_by_angle_and_leave_the_unknown_out() -> None:
    features = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    values = np.array([[1.0, np.nan], [0.0, 5.0], [0.5, 7.0]])
    nearest = next(votes(features, values, np.array([[300.0, 1.0], [0.001, 0.1]]), [1]))
    np.testing.assert_allclose(nearest, [[1.0, 6.0], [0.0, 5.0]])  # 6: no neighbour known, so the mean of all
    both = next(votes(features, values, np.array([[1.0, 1.0]]), [2]))
    np.testing.assert_allclose(both, [[0.5, 5.0]])


def test_nearer_neighbours_count_for_more() -> None:
    rng = np.random.default_rng(0)
    ours, values, asked = rng.normal(size=(40, D)), rng.normal(size=(40, 2)), rng.normal(size=(7, D))
    for k in (1, 4, 40, 50):
        found = next(votes(ours, values, asked, [k]))
        for row, vector in enumerate(asked):
            cosines = ours @ vector / np.linalg.norm(ours, axis=1) / np.linalg.norm(vector)
            nearest = np.argsort(-cosines)[:k]
            weights = np.exp(cosines[nearest] / 0.07)
            np.testing.assert_allclose(found[row], weights @ values[nearest] / weights.sum(), rtol=1e-9)
    several = votes(ours, values, asked, [1, 4, 40])
    for k, shared in zip((1, 4, 40), several, strict=True):
        np.testing.assert_allclose(shared, next(votes(ours, values, asked, [k])))


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_probe_learns_and_its_val_metrics_are_those_of_its_outputs(kind: str, probe: object) -> None:
    task, val, test = task_of(kind), data(kind, 150, 1), data(kind, 400, 2)
    fitted = probe(task, data(kind, 300, 0), val)
    again = score(task, fitted(val.features), torch.from_numpy(val.targets))
    assert again == pytest.approx(fitted.val, nan_ok=True)
    metrics = score(task, fitted(test.features), torch.from_numpy(test.targets))
    baseline = score(task, task.baseline(torch.from_numpy(test.targets)), torch.from_numpy(test.targets))
    assert metrics[task.main_metric] > baseline[task.main_metric] + 0.15


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("kind", KINDS)
def test_scale_and_place_of_features_do_not_matter(kind: str, probe: object) -> None:
    train, val = data(kind, 60, 0), data(kind, 60, 1)
    moved = [Embeddings((part.features * 8 + 2).astype(np.float32), part.targets) for part in (train, val)]
    first, second = probe(task_of(kind), train, val), probe(task_of(kind), *moved)
    assert first.options == second.options
    torch.testing.assert_close(first(val.features), second(moved[1].features), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_the_penalty_is_that_with_the_least_loss_on_val(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task, train, val = task_of(kind), data(kind, 40, 0), data(kind, 60, 1)
    chosen = linear_probe(task, train, val).options["strength"]
    losses = {}
    for strength in STRENGTHS:
        monkeypatch.setattr(module, "STRENGTHS", (strength,))
        outputs = linear_probe(task, train, val)(val.features)
        losses[strength] = float(task.loss(outputs, torch.from_numpy(val.targets)))
    assert losses[chosen] == pytest.approx(min(losses.values()), abs=1e-4)
    assert max(losses.values()) > min(losses.values()) + 0.02


def test_the_number_of_neighbours_is_that_with_the_best_metric_on_val(monkeypatch: pytest.MonkeyPatch) -> None:
    task, train, val = task_of("class"), data("class", 60, 0), data("class", 60, 1)
    chosen = neighbour_probe(task, train, val).options["k"]
    found = {}
    for k in NEIGHBOURS:
        monkeypatch.setattr(module, "NEIGHBOURS", (k,))
        found[k] = neighbour_probe(task, train, val).val["auroc"]
    assert found[chosen] == max(found.values()) > min(found.values())


def test_the_choice_is_that_of_the_val_part() -> None:
    train, val = data("class", 40, 0), data("class", 60, 1)
    fitted = linear_probe(task_of("class"), train, val)
    noise = np.random.default_rng(0).normal(size=val.features.shape).astype(np.float32)
    other = linear_probe(task_of("class"), train, Embeddings(noise, val.targets))
    assert fitted.options["strength"] in STRENGTHS
    assert fitted.options != other.options


def test_a_choice_whose_worth_is_undefined_is_never_taken() -> None:
    val = data("class", 60, 1)
    outputs = np.random.default_rng(0).normal(size=(60, 3))
    for worths, right in (([np.nan, 0.2, np.nan, 0.3, 0.1], 3), ([np.nan, np.nan, 0.1], 2), ([0.2, np.nan], 0)):
        candidates = [({"k": float(k)}, lambda features: features, outputs) for k in range(len(worths))]
        found = iter(worths)
        chosen, _, _ = module._best(task_of("class"), candidates, val.targets, lambda *_, found=found: next(found))
        assert chosen == {"k": right}


def test_labelled_samples_of_one_class_answer_with_it_and_say_so() -> None:
    train = data("class", 30, 0)
    one = train[np.flatnonzero(train.targets == 2)]
    for probe in PROBES:
        fitted = probe(task_of("class"), one, data("class", 60, 1))
        assert "of class 'n2': it is always the answer" in fitted.notes[0]
        assert set(fitted(train.features).argmax(1).tolist()) == {2}
    two = train[np.flatnonzero(train.targets != 1)]
    fitted = linear_probe(task_of("class"), two, data("class", 60, 1))
    assert "No labelled sample is of class n1" in fitted.notes[0]
    assert 1 not in fitted(train.features).argmax(1)
    assert fitted(train.features).softmax(1).isfinite().all()


@pytest.mark.parametrize("probe", PROBES)
def test_a_class_that_cannot_be_makes_no_other_answer_wrong(probe: object) -> None:
    train, val = data("class", 90, 0), data("class", 60, 1)
    fitted = probe(task_of("class"), train[np.flatnonzero(train.targets != 1)], val)
    right = (fitted(val.features).argmax(1).numpy() == val.targets).mean()
    assert fitted.val["accuracy"] == pytest.approx(right)
    assert fitted.val["auroc"] > 0.5 < right


def test_a_label_known_one_way_is_said() -> None:
    train = data("multilabel", 30, 0)
    train.targets[:, 1] = np.where(np.isnan(train.targets[:, 1]), np.nan, 0)
    fitted = linear_probe(task_of("multilabel"), train, data("multilabel", 60, 1))
    assert "show n1 one way only" in fitted.notes[0]
    probabilities = fitted(train.features).sigmoid()[:, 1]
    assert len(set(probabilities.tolist())) == 1
    assert 0 < float(probabilities[0]) < 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("probe", PROBES)
def test_one_labelled_sample_is_enough_to_run(kind: str, probe: object) -> None:
    train = data(kind, 20, 0)
    whole = np.flatnonzero(~np.isnan(train.targets.astype(float)).reshape(20, -1).any(1))[:1]
    fitted = probe(task_of(kind), train[whole], data(kind, 60, 1))
    assert fitted(train.features).isfinite().any(1).all()


def test_weights_of_classes_are_those_of_the_task() -> None:
    train, val = data("class", 200, 0), data("class", 100, 1)
    rare = train.targets == 0
    probabilities = []
    for weights in (None, [5.0, 1.0, 1.0]):
        task = Classification(spec_of("class"), WIDTHS, class_weights=weights)
        probabilities.append(float(linear_probe(task, train, val)(train.features[~rare]).softmax(1)[:, 0].mean()))
    assert probabilities[1] > probabilities[0]


def test_what_cannot_be_is_told() -> None:
    val = data("class", 40, 1)
    same = Embeddings(val.features, np.zeros_like(val.targets))
    with pytest.raises(ValueError, match="The val part has no defined auroc"):
        linear_probe(task_of("class"), val, same)
    with pytest.raises(ValueError, match="Segmentation has no linear model on embeddings"):
        linear_probe(Segmentation(spec_of("mask"), WIDTHS), val, val)
    with pytest.raises(ValueError, match="None of the labelled samples has a label"):
        linear_probe(task_of("class"), Embeddings(val.features, np.full_like(val.targets, 255)), val)
    assert isinstance(task_of("multilabel"), MultilabelClassification)
