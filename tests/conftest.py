"""What tests of several parts share: a real encoder that is tiny, and quiet threads."""

import os

# Read when torch is first imported. Spinning threads would slow down every process that a test starts beside its own.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from tests.encoder import make_encoder
from tests.kafka import Cluster, UnavailableError


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def start_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Cluster]]:
    """Starts a `Cluster` of its own, with the arguments given; it runs until it is stopped, or the tests have ended."""
    with ExitStack() as running:

        def start(nodes: int = 1, **options: object) -> Cluster:
            try:
                cluster = Cluster(tmp_path_factory.mktemp("kafka"), nodes, **options)
            except UnavailableError as error:
                if os.environ.get("CI") == "true":
                    pytest.fail(str(error))
                pytest.skip(str(error))
            return running.enter_context(cluster)

        yield start


@pytest.fixture(scope="session")
def kafka(start_kafka: Callable[..., Cluster]) -> Cluster:
    """One node that many tests share: name topics and groups so that they meet no other test's, and do not kill it."""
    return start_kafka()
