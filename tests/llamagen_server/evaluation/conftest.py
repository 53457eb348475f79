"""An Inception network that is not trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llamagen_server.evaluation.features import FeatureExtractor
from llamagen_server.evaluation.inception import Inception, load_inception


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state dict of an untrained network of the real shape; its features differ from image to image."""
    file = tmp_path_factory.mktemp("inception") / "inception.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Inception()
        for weight in model.parameters():
            if weight.ndim == 4:
                torch.nn.init.kaiming_normal_(weight)  # features of a size as after training
        torch.save(model.state_dict(), file)
    return file


@pytest.fixture(scope="session")
def extractor(inception_file: Path) -> FeatureExtractor:
    return FeatureExtractor(load_inception(inception_file), torch.device("cpu"))
