"""An atlas built by the worker processes of a Dask cluster, of which one is killed."""

import os
import signal

import numpy as np
import pytest
from test_atlas import same

import gemma4_mlx as g4
from gemma4_mlx.errors import StudyError
from gemma4_mlx.studies.building import build, cluster
from gemma4_mlx.studies.data.counts import AXES

distributed = pytest.importorskip("distributed")

CORPORA = {
    "count": [f"Count from {i} to {i + 4}: {i}, {i + 1}, {i + 2}" for i in range(12)],
    "talk": [[{"role": "user", "content": f"Hello {i}"}] for i in range(12)] + [" "],
}


def another():
    loaded = g4.load()
    loaded.fingerprint = "another"
    return loaded


@pytest.fixture(scope="module")
def model():
    return g4.load()


def test_tasks_on_threads_of_this_process_merge_to_one_pass(model, monkeypatch, tmp_path):
    """All but the other processes: shipping, merging out of order, resuming."""
    monkeypatch.setattr(cluster, "TASK", 60)
    monkeypatch.setattr(build, "MOST", 2)
    options = {"progress": False, "tokens": 10**5}
    whole = g4.atlas(model, CORPORA, **options)
    with distributed.Client(
        processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None
    ) as client:
        built = g4.atlas(model, CORPORA, cluster=client, load=g4.load, **options)
        assert same(built, whole) and built.texts == whole.texts
        assert (built.read, built.marks) == (whole.read, whole.marks)
        assert built.remarks == whole.remarks
        np.testing.assert_array_equal(built.promoted, whole.promoted)
        few = {**options, "tokens": 300, "folder": tmp_path}
        part = g4.atlas(model, CORPORA, cluster=client, load=g4.load, **few)
        assert same(part, g4.atlas(model, CORPORA, **{**few, "folder": None}))
        more = {**options, "folder": tmp_path}
        assert same(g4.atlas(model, CORPORA, cluster=client, load=g4.load, **more), whole)
        with (
            model.intervene(g4.Ablate(layer=1, experts=[2])),
            pytest.raises(StudyError, match=r"Ablate.*without cluster="),
        ):
            g4.atlas(model, CORPORA, cluster=client, **options)
        cluster._loaded.clear()
        with pytest.raises(StudyError, match="load another model"):
            g4.atlas(model, CORPORA, cluster=client, load=another, **options)
    cluster._loaded.clear()


def test_a_killed_worker_loses_nothing_but_time(model, monkeypatch):
    """Two real processes; one is killed once the first documents are counted."""
    monkeypatch.setattr(cluster, "TASK", 60)
    monkeypatch.setattr(build, "MOST", 2)
    whole = g4.atlas(model, CORPORA, progress=False)
    killed = []
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as local,
        distributed.Client(local) as client,
    ):

        def kill(progress):
            if not killed:
                victim = next(iter(client.run(os.getpid).values()))
                os.kill(victim, signal.SIGKILL)
                killed.append(progress.documents)

        built = g4.atlas(model, CORPORA, cluster=client, progress=kill)
    assert killed and killed[0] < 24
    assert built.read == whole.read
    # Workers compute with one thread, which may round otherwise than two.
    for name in AXES:
        if name in ("norms", "weighted_norms", "largest_norm", "written"):
            np.testing.assert_allclose(built.counts[name], whole.counts[name], rtol=1e-4, atol=64)
        else:
            assert np.array_equal(built.counts[name], whole.counts[name]), name


def test_a_cluster_without_workers_is_said(model):
    with (
        distributed.Client(
            processes=False, n_workers=0, dashboard_address=None, set_as_default=False
        ) as client,
        pytest.raises(StudyError, match="has no workers"),
    ):
        g4.atlas(model, CORPORA, cluster=client, progress=False)
