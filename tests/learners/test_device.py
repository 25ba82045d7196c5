import random

import numpy as np
import pytest
import torch

from learners.device import DeviceError, resolve, seed_everything


@pytest.mark.parametrize(("native", "chosen"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_cpu_computes_in_bfloat16_where_it_has_instructions_for_it(native, chosen, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert resolve("cpu").precision == chosen
    assert resolve("cpu", "float32").precision == torch.float32
    assert resolve("cpu", "bfloat16").precision == torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_auto_without_a_gpu_is_the_cpu():
    assert resolve("auto").device == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_asking_for_a_gpu_where_there_is_none_says_so():
    with pytest.raises(DeviceError, match="sees no GPU here; set `auto` or `cpu`"):
        resolve("cuda:1")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_that_is_not_there_is_refused_by_number():
    assert resolve("auto").device.type == "cuda"
    with pytest.raises(DeviceError, match="GPUs here"):
        resolve("cuda:99")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "", "mps"])
def test_a_device_of_no_known_name_is_refused(name):
    with pytest.raises(DeviceError, match="set `auto`, `cpu`, `cuda` or `cuda:N`"):
        resolve(name)


def test_autocast_lowers_precision_only_where_asked():
    matrix = torch.ones(2, 2)
    with resolve("cpu", "bfloat16").autocast():
        assert (matrix @ matrix).dtype == torch.bfloat16
    with resolve("cpu", "float32").autocast():
        assert (matrix @ matrix).dtype == torch.float32


def test_a_seed_repeats_every_generator():
    def draw():
        seed_everything(2**40 + 7)
        return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002 - the global one is meant

    assert draw() == draw()
