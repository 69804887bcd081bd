"""The papers' recipes, written plainly from their specification, on whole matrices."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fits.synthetic import RULE, SITE, Synthetic, contrasts_of, further, states
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA, DictionaryLearning, TruncatedSVD
from sklearn.metrics import calinski_harabasz_score, log_loss
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from steersman.core.types import Read
from steersman.methods.alphasteer import AlphaSteer
from steersman.methods.mose import MixtureTraining
from steersman.methods.net_training import NetTraining
from steersman.methods.prober import ProberFit
from steersman.methods.scs import SCSFit, deal
from steersman.selectors.layers import Layers

Fields = Mapping[str, Any]


def l2s_reference(model: Synthetic, n: int, plan: NetTraining, search: Any) -> Fields:
    """The training of L2S with whole standardised copies, from a start by scikit-learn."""
    h, z = states(model, range(n)), contrasts_of(model, n)
    x = (h - h.mean(0)) / h.std(0)
    z = z / (z.norm(dim=1).mean() / z.shape[1] ** 0.5)
    torch.manual_seed(plan.seed)
    first, last = nn.Linear(x.shape[1], plan.hidden), nn.Linear(plan.hidden, x.shape[1], bias=False)
    order = torch.randperm(n)
    held, rows = order[: n // 10], order[n // 10 :]
    centred = z[rows] - z[rows].mean(0) if isinstance(search, TruncatedSVD) else z[rows]
    columns = torch.tensor(search.fit(centred.numpy()).components_, dtype=torch.float32)
    last.weight.data[:, : len(columns)] = columns.T
    weights = [*first.parameters(), *last.parameters()]
    optimiser = torch.optim.Adam(weights, lr=plan.learning_rate, weight_decay=plan.weight_decay)

    def loss(chosen: Tensor) -> Tensor:
        made, wanted = last(torch.tanh(first(x[chosen]))), z[chosen]
        error = (made - wanted).pow(2).mean(1)
        return (error - plan.cosine * F.cosine_similarity(made, wanted)).mean()

    validation = []
    for epoch in range(plan.epochs):
        for group in optimiser.param_groups:
            group["lr"] = plan.learning_rate * (1 - epoch / plan.epochs)
        for chosen in rows[torch.randperm(len(rows))].split(plan.batch_size):
            value = loss(chosen)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        with torch.no_grad():
            validation.append(float(loss(held)))
    return {"loss": min(validation)}


def mose_reference(model: Synthetic, n: int, plan: MixtureTraining) -> Fields:
    """Clusters and full-batch training of the mixture on whole matrices."""
    h, z = states(model, range(n)), contrasts_of(model, n)
    directions = F.normalize(z).double().numpy()
    width = min(256, *directions.shape)
    reduced = PCA(width, svd_solver="full").fit_transform(directions)
    found = [KMeans(k, n_init=20, max_iter=500, random_state=0).fit(reduced) for k in plan.ks]
    best = max(found, key=lambda one: calinski_harabasz_score(reduced, one.labels_)).labels_
    unit = torch.from_numpy(directions).float()
    groups = [torch.from_numpy(best == k) for k in range(best.max() + 1)]
    means = torch.stack([unit[mine].mean(0) for mine in groups])
    experts = means * torch.stack([z[mine].norm(dim=1).mean() for mine in groups])[:, None]
    residual = torch.from_numpy(
        PCA(plan.residual_dim, svd_solver="full").fit(z).components_
    ).float()
    length = z.norm(dim=1).mean() / z.shape[1] ** 0.5
    x, z = (h - h.mean(0)) / h.std(0), z / length
    d, k = x.shape[1], plan.attention_dim
    torch.manual_seed(0)
    query, key = nn.Linear(d, k), nn.Linear(d, k, bias=False)
    beta = nn.Sequential(
        nn.Linear(d, plan.hidden), nn.ReLU(), nn.Linear(plan.hidden, len(residual))
    )
    net = nn.ModuleList([query, key, beta])
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    held, rows = order[: n // 10], order[n // 10 :]
    optimiser = torch.optim.AdamW(
        net.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay
    )

    def loss(chosen: Tensor) -> Tensor:
        weights = (query(x[chosen]) @ key(means).T / k**0.5).softmax(-1)
        return F.mse_loss(weights @ experts / length + beta(x[chosen]) @ residual, z[chosen])

    validation: list[float] = []
    for epoch in range(plan.epochs):
        value = loss(rows)
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            validation.append(float(loss(held)))
        if epoch - int(np.argmin(validation)) >= plan.patience:
            break
    return {"loss": min(validation)}


def prober_reference(model: Synthetic, n: int, epochs: int) -> Fields:
    x, y = states(model, range(n)).numpy(), np.arange(n) % 2 == 0
    scale = StandardScaler().fit(x)
    net = MLPClassifier(
        (64,), alpha=0.01, batch_size=min(64, n), learning_rate_init=2e-3, max_iter=epochs,
        n_iter_no_change=epochs + 1, tol=0, random_state=0,
    )  # fmt: skip
    net.fit(scale.transform(x), y)
    new, positive = further(model, n)
    return {
        "loss": float(log_loss(positive, net.predict_proba(scale.transform(new.numpy()))[:, 1]))
    }


def scs_reference(model: Synthetic, n: int, method: SCSFit, own: Sequence[int]) -> Fields:
    """On the rows that ours learns the subspace from."""
    h = states(model, range(n)).numpy()
    mean = h[own].mean(0)
    basis = np.linalg.svd(h[own] - mean, full_matrices=False)[2][: method.k]
    z = h - mean
    ratio = ((z @ basis.T) ** 2).sum(1) / (z**2).sum(1)
    return {"same": ratio[:64].tolist()}


def sas_reference(model: Synthetic, n: int) -> Fields:
    h = states(model, range(n))
    cosines = cosine_similarity((h[::2] - h[1::2]).double().numpy())
    num = len(cosines)
    return {"same": [float((cosines.sum() - np.trace(cosines)) / (num * (num - 1)))]}


def repe_reference(model: Synthetic, n: int) -> Fields:
    z = contrasts_of(model, n)
    signs = 2 * torch.randint(0, 2, (n, 1), generator=torch.Generator().manual_seed(0)) - 1
    pairs = (signs * F.normalize(z)).double().numpy()
    found = torch.from_numpy(PCA(1, svd_solver="full").fit(pairs).components_[0]).float()
    found = found * (z @ found).mean().sign()
    return {"same": (found * z.norm(dim=1).mean()).tolist()}


def alphasteer_reference(model: Synthetic, n: int, method: AlphaSteer) -> Fields:
    h = states(model, range(n)).double().numpy()
    harmful, benign = h[::2], h[1::2]
    d = h.shape[1]
    vectors = np.linalg.eigh(benign.T @ benign)[1]
    # The null space takes all that no benign row uses, as ours does.
    null = vectors[:, : max(int(method.null_space * d), d - len(benign))]
    projection = null @ null.T
    x = harmful @ projection
    inverse = np.linalg.pinv(x.T @ x + method.regularisation * projection, hermitian=True)
    return {"same": (projection @ inverse @ x.T @ np.ones(len(x))).tolist()}


def mean_reference(model: Synthetic, n: int) -> Fields:
    return {"same": contrasts_of(model, n).mean(0).tolist()}


def references(n: int, d: int, epochs: int | None) -> dict[str, Callable[[Synthetic], Fields]]:
    """By name, the recipe of the paper."""
    short: dict[str, Any] = {} if epochs is None else {"epochs": epochs}
    net = NetTraining(**{"epochs": 30, **short})
    mixture = MixtureTraining(**{"epochs": 20, **short})
    prober, scs = ProberFit(read=Read(SITE), **short), SCSFit(read=Read(SITE), k=min(128, d // 2))
    steered = torch.arange(n) % 2 == 0
    own = deal([i // 2 for i in range(n)], steered, [1 - scs.held_out, scs.held_out], scs.seed)[0]
    dictionary = DictionaryLearning(
        min(net.hidden, d, n - n // 10), positive_code=True, fit_algorithm="cd",
        transform_algorithm="lasso_cd", max_iter=50, random_state=0,
    )  # fmt: skip
    svd = TruncatedSVD(min(net.hidden, d, n - n // 10), random_state=0)
    alphasteer = AlphaSteer(layers=Layers(layers=(0,)), contrasts=RULE)
    return {
        "l2s": lambda model: l2s_reference(model, n, net, dictionary),
        "l2s_svd": lambda model: l2s_reference(model, n, net, svd),
        "mose": lambda model: mose_reference(model, n, mixture),
        "prober": lambda model: prober_reference(model, n, prober.epochs),
        "scs": lambda model: scs_reference(model, n, scs, [i for i in own if i % 2 == 0]),
        "sas": lambda model: sas_reference(model, n),
        "repe": lambda model: repe_reference(model, n),
        "alphasteer": lambda model: alphasteer_reference(model, n, alphasteer),
        "mean": lambda model: mean_reference(model, n),
    }
