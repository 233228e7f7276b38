"""Libraries that take an executor, a pool or their `map`, and so take the cluster."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest

from distcomp import Client, Executor, Pool

if TYPE_CHECKING:
    from collections.abc import Iterator

np = pytest.importorskip("numpy")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTCOMP_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("DISTCOMP_ADDRESS", raising=False)
        with Client(slots=2) as made:
            yield made


def bowl(point: Any) -> float:
    return float(((np.asarray(point) - [1.0, 2.0]) ** 2).sum())


def log_of_normal(point: Any) -> float:
    return -0.5 * float((np.asarray(point) ** 2).sum())


@pytest.mark.parametrize("face", [Executor, Pool])
def test_scipy_takes_a_map_as_workers(client: Client, face: Any) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    with face(client=client) as workers:
        found = optimize.differential_evolution(
            bowl, [(-5, 5), (-5, 5)], workers=workers.map, updating="deferred", rng=1, maxiter=30, popsize=8
        )
    assert np.allclose(found.x, [1.0, 2.0], atol=1e-3)


def test_emcee_takes_a_pool(client: Client) -> None:
    emcee = pytest.importorskip("emcee")
    begin = np.random.default_rng(1).normal(size=(8, 2))

    def run(pool: Any) -> Any:
        sampler = emcee.EnsembleSampler(8, 2, log_of_normal, pool=pool)
        sampler._random.seed(7)
        sampler.run_mcmc(begin, 20)
        return sampler.get_chain()

    alone = run(None)
    with Pool(client=client) as pool:
        assert np.array_equal(run(pool), alone)
    with Executor(client=client) as executor:
        assert np.array_equal(run(executor), alone)


def test_tqdm_counts_what_comes(client: Client) -> None:
    tqdm = pytest.importorskip("tqdm").tqdm
    shown = io.StringIO()
    with Executor(client=client) as executor:
        bar = tqdm(executor.map(abs, range(-50, 0), chunksize=5), total=50, file=shown, mininterval=0)
        assert list(bar) == list(range(50, 0, -1))
    with Pool(client=client) as pool:
        bar = tqdm(pool.imap_unordered(abs, range(-50, 0)), total=50, file=shown, mininterval=0)
        assert sorted(bar) == list(range(1, 51))
    assert shown.getvalue().count("50/50") >= 2


def test_tqdms_own_map_takes_an_executor(client: Client) -> None:
    concurrent = pytest.importorskip("tqdm.contrib.concurrent")

    class Workers(Executor):
        def __init__(self, max_workers: int, **_: Any) -> None:  # its lock is for bars inside of tasks
            super().__init__(max_workers, client=client)

    result = concurrent._executor_map(Workers, abs, range(-9, 0), file=io.StringIO(), max_workers=2)
    assert result == list(range(9, 0, -1))
