"""Units on a real Ray cluster of several nodes on this machine, one of which is killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from engine_jobs import Record, runs

from ddkit.engine.ray_cluster import RayCluster
from ddkit.errors import DiskError, EnvironmentFailure

pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", "/tmp")  # paths of sockets are limited to 107 bytes
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        patch.setenv("RAY_ADDRESS", nodes.address)
        yield nodes
        ray.shutdown()
        nodes.shutdown()


def test_units_run_on_all_nodes_and_move_on_when_one_dies(cluster, tmp_path):
    lost = cluster.add_node(num_cpus=1)
    engine = RayCluster(tmp_path, on_gpu=False)
    jobs = [Record(str(tmp_path), str(i), seconds=0.5) for i in range(6)]
    jobs.append(Record(str(tmp_path), "after", frozenset({"0", "5"})))
    finished = []
    for job in engine.run(jobs, cpu_threads=2):  # no node has two CPUs; the units run all the same
        finished.append(job)
        if len(finished) == 2:
            cluster.remove_node(lost, allow_graceful=False)
    assert sorted(job.id for job in finished) == sorted(job.id for job in jobs)
    assert set(runs(tmp_path)) == {job.id for job in jobs}
    assert jobs[-1].file.read_json()["before"] == ["0", "5"]
    assert list(engine.run([])) == [] and not list(tmp_path.glob("*.tmp"))


HIDDEN = """
mount -t tmpfs none $0
exec $1 -m ray.scripts.scripts start --address=$2 --num-cpus=1 --resources='{"blind": 1}' --block
"""


def hides_folders():
    """Whether this machine lets a process mount a file system that only it sees."""
    try:
        return (
            subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode
            == 0
        )
    except OSError:
        return False


@pytest.fixture
def blind(cluster, tmp_path):
    """A node that does not see tmp_path; units that take no other node's CPU run there."""
    import ray

    there = ["unshare", "-rm", "bash", "-c", HIDDEN, tmp_path, sys.executable, cluster.address]
    process = subprocess.Popen(there, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ray.is_initialized() or ray.init(log_to_driver=False)
    while not any("blind" in node["Resources"] for node in ray.nodes() if node["Alive"]):
        assert process.poll() is None
        time.sleep(0.2)
    yield
    process.terminate()
    process.wait()


@pytest.mark.skipif(not hides_folders(), reason="needs the right to mount a file system for one process")
def test_files_travel_to_a_node_that_does_not_see_the_folder(cluster, blind, tmp_path, capsys):
    (tmp_path / "input.txt").write_text("from afar")
    jobs = [Record(str(tmp_path), str(i), reads=str(tmp_path / "input.txt"), seconds=0.3) for i in range(6)]
    jobs.append(Record(str(tmp_path), "after", frozenset(map(str, range(6)))))
    list(RayCluster(tmp_path, on_gpu=False).run(jobs))
    assert "do not see" in capsys.readouterr().err
    assert {job.file.read_json()["text"] for job in jobs[:-1]} == {"from afar"}
    assert jobs[-1].file.read_json()["before"] == list(map(str, range(6)))
    here = runs(tmp_path)  # the log of the blind node stays there
    assert 0 < len(here) < len(jobs)
    assert not list(Path("/tmp").glob("ddkit-????????????????"))


def test_an_error_of_a_unit_is_the_callers_and_ends_the_others(cluster, tmp_path):
    jobs = [Record(str(tmp_path), "a", reads=str(tmp_path / "missing"))]
    jobs += [Record(str(tmp_path), name, seconds=1.0) for name in "bcd"]
    with pytest.raises(FileNotFoundError):
        list(RayCluster(tmp_path, on_gpu=False).run(jobs))
    done = sorted(path.name for path in tmp_path.iterdir())
    time.sleep(3)
    assert sorted(path.name for path in tmp_path.iterdir()) == done and "d.unit" not in done


def test_a_folder_that_cannot_be_written_is_one_line(cluster, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((DiskError, EnvironmentFailure), match="cannot write"):
        list(RayCluster(tmp_path / "file" / "below", on_gpu=False).run([Record(str(tmp_path), "a")]))
