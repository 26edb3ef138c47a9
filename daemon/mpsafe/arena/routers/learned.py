# SPDX-License-Identifier: Apache-2.0
"""Routers that learn from outcomes of other queries: each says how likely every model is right, and one rule decides.

The rule: the cheapest of the models within MARGIN of the likeliest; of equally cheap ones the first. So equal
predictions always give the same pick, which robustness depends on. Prompts are seen as TF-IDF of words, brought to 64
dimensions.

Sources: kNN and a linear model after RouterBench (arXiv 2403.12031); low-rank prompt-model products after RouteLLM's
matrix factorisation (arXiv 2406.18665), fitted in closed form; two-parameter item response theory after IRT-Router
(arXiv 2506.01048), item parameters regressed on the prompt; the cascade after FrugalGPT (arXiv 2305.05176), by what is
predicted of an answer instead of by the answer.
"""

import importlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from typing_extensions import override

from mpsafe.arena.matrix import Floats, Matrix
from mpsafe.arena.routers.base import Query, Router

__all__ = ["PREDICTORS", "Embedding", "Learned", "Predictor", "learn"]

MARGIN: Final = 0.02
DIMENSIONS: Final = 64
WORDS_MAX: Final = 4096
WORD: Final = re.compile(r"\w+")
NEIGHBOURS: Final = 20
RIDGE: Final = 1.0
RANK: Final = 4
SURE: Final = 0.7


@dataclass(frozen=True, slots=True)
class Embedding:
    """A prompt's vector [D]: `place` of each known word in `basis` [W, D]."""

    place: dict[str, int]
    basis: Floats

    def __call__(self, prompt: str) -> Floats:
        """As the vectorizer does it, without its checks, which take longer than a decision may."""
        counts = Counter(self.place[word] for word in WORD.findall(prompt.lower()) if word in self.place)
        seen = np.fromiter(counts, np.intp, len(counts))
        often = 1 + np.log(np.fromiter(counts.values(), np.float64, len(counts)))
        vector: Floats = _unit((often @ self.basis[seen])[None])[0]
        return vector


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The mean scores of the nearest prompts. `vectors` [Q, D], `score` [Q, M]."""

    vectors: Floats
    score: Floats

    def __call__(self, vector: Floats) -> Floats:
        """How likely each model is right [M]."""
        near = min(NEIGHBOURS, len(self.vectors))
        distance = -(self.vectors @ vector)
        likely: Floats = self.score[np.argpartition(distance, near - 1)[:near]].mean(axis=0)
        return likely


@dataclass(frozen=True, slots=True)
class Linear:
    """A logistic model for each. `weights` [M, D + 1]."""

    weights: Floats

    def __call__(self, vector: Floats) -> Floats:
        """How likely each model is right [M]."""
        return _sigmoid(self.weights[:, :-1] @ vector + self.weights[:, -1])


@dataclass(frozen=True, slots=True)
class Factors:
    """Scores as products of a prompt's and a model's vector. `of_prompt` [D, R], `of_model` [R, M], `mean` [M]."""

    of_prompt: Floats
    of_model: Floats
    mean: Floats

    def __call__(self, vector: Floats) -> Floats:
        """How likely each model is right [M]."""
        likely: Floats = (vector @ self.of_prompt) @ self.of_model + self.mean
        return likely


@dataclass(frozen=True, slots=True)
class Response:
    """P = sigmoid(a (theta_model - b)), log a and b of a prompt by `weights` [D, 2] and `middle` [2]; `theta` [M]."""

    weights: Floats
    middle: Floats
    theta: Floats

    def __call__(self, vector: Floats) -> Floats:
        """How likely each model is right [M]."""
        log_a, b = vector @ self.weights + self.middle
        return _sigmoid(np.exp(log_a) * (self.theta - b))


Predictor: TypeAlias = Neighbours | Linear | Factors | Response

PREDICTORS: Final[dict[str, type[Neighbours] | type[Linear] | type[Factors] | type[Response]]] = {
    "cascade": Linear,
    "irt": Response,
    "knn": Neighbours,
    "logistic": Linear,
    "mf": Factors,
}


class Learned(Router):
    """`predictor`: from one prompt's vector how likely each model is right. `cost` [M]: the mean, 0 where not known."""

    def __init__(
        self, name: str, models: Sequence[str], cost: Floats, embedding: Embedding, predictor: Predictor
    ) -> None:
        self.name = name
        self.models = models
        self.cost = cost
        self.embedding = embedding
        self.predictor = predictor
        self._order = np.argsort(cost, kind="stable")

    def predict(self, query: Query) -> Floats:
        """How likely each model is right [M], 0 to 1."""
        return np.clip(self.predictor(self.embedding(query.prompt)), 0.0, 1.0)

    @override
    def route(self, query: Query) -> str:
        likely = self.predict(query)
        top = float(likely.max())
        enough = likely >= (min(SURE, top) if self.name == "cascade" else top - MARGIN)
        return self.models[next(int(one) for one in self._order if enough[one])]


def learn(name: str, known: Matrix, *, seed: int) -> Learned:
    """A router of that name that has seen the outcomes of `known`."""
    embedding, vectors = _embedding(known, seed)
    makers: dict[str, Callable[[Floats, Floats, int], Predictor]] = {
        "cascade": _logistic,
        "irt": _irt,
        "knn": lambda vectors, score, _: Neighbours(vectors, score),
        "logistic": _logistic,
        "mf": _factors,
    }
    cost = np.nan_to_num(known.cost.mean(axis=0))
    return Learned(name, known.models, cost, embedding, makers[name](vectors, known.score, seed))


def _embedding(known: Matrix, seed: int) -> tuple[Embedding, Floats]:
    text: Any = importlib.import_module("sklearn.feature_extraction.text")
    decomposition: Any = importlib.import_module("sklearn.decomposition")
    words = text.TfidfVectorizer(max_features=WORDS_MAX, sublinear_tf=True, token_pattern=WORD.pattern)
    blind = Embedding({}, np.zeros((0, 1))), np.zeros((len(known), 1))
    try:
        sparse = words.fit_transform(known.prompts)
    except ValueError:  # no word in any prompt
        return blind
    size = min(DIMENSIONS, sparse.shape[0] - 1, sparse.shape[1] - 1)
    if size < 1:
        return blind
    fewer = decomposition.TruncatedSVD(size, n_iter=2, random_state=seed)
    vectors = _unit(fewer.fit_transform(sparse))
    place = {str(word): int(at) for word, at in words.vocabulary_.items()}
    return Embedding(place, words.idf_[:, None] * fewer.components_.T), vectors


def _unit(vectors: Floats) -> Floats:
    unit: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


def _logistic(vectors: Floats, score: Floats, seed: int) -> Linear:
    linear: Any = importlib.import_module("sklearn.linear_model")
    weights = np.zeros((score.shape[1], vectors.shape[1] + 1))
    for model in range(score.shape[1]):
        right = score[:, model] >= 0.5
        if right.all() or not right.any():
            weights[model, -1] = 10.0 if right.all() else -10.0
            continue
        fitted = linear.LogisticRegression(max_iter=1000, random_state=seed).fit(vectors, right)
        weights[model] = np.append(fitted.coef_[0], fitted.intercept_)
    return Linear(weights)


def _factors(vectors: Floats, score: Floats, _: int) -> Factors:
    """Ridge regression, cut to a low rank."""
    mean = score.mean(axis=0)
    left, sizes, right = np.linalg.svd(_ridge(vectors, score - mean), full_matrices=False)
    rank = min(RANK, len(sizes))
    return Factors(left[:, :rank] * sizes[:rank], right[:rank], mean)


def _irt(vectors: Floats, score: Floats, _: int) -> Response:
    """Abilities, discriminations, difficulties by the likelihood of the scores; then the latter two by the prompt."""
    optimize: Any = importlib.import_module("scipy.optimize")
    queries, models = score.shape

    def loss(values: Floats) -> tuple[float, Floats]:
        theta, log_a, b = values[:models], values[models : models + queries], values[models + queries :]
        a = np.exp(log_a)
        off = theta[None] - b[:, None]
        likely = np.clip(_sigmoid(a[:, None] * off), 1e-9, 1 - 1e-9)
        prior = 0.5 * (float(theta @ theta) + float(b @ b) + 4 * float(log_a @ log_a))
        total = -float((score * np.log(likely) + (1 - score) * np.log(1 - likely)).sum()) + prior
        slope = (likely - score) * a[:, None]
        ends = (slope.sum(axis=0) + theta, (slope * off).sum(axis=1) + 4 * log_a, -slope.sum(axis=1) + b)
        return total, np.concatenate(ends)

    fitted: Floats = optimize.minimize(loss, np.zeros(models + 2 * queries), jac=True, method="L-BFGS-B").x
    theta, items = fitted[:models], fitted[models:].reshape(2, queries).T
    middle = items.mean(axis=0)
    return Response(_ridge(vectors, items - middle), middle, theta)


def _ridge(vectors: Floats, wanted: Floats) -> Floats:
    solved = np.linalg.solve(vectors.T @ vectors + RIDGE * np.eye(vectors.shape[1]), vectors.T @ wanted)
    return solved.astype(np.float64)


def _sigmoid(values: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(values, -500, 500)))
