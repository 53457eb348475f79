"""LlamaGen's objective for the image tokenizer: losses, gradients, starts and restarts of the codebook."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from demo.vq_objective import Restarts, VQLosses, start_from_features, start_official, vq_losses

from llamagen_tokenizer.config import VQConfig
from llamagen_tokenizer.model import VQModel

CONFIG = VQConfig(codebook_size=16, codebook_embed_dim=4, encoder_ch_mult=(1, 1), decoder_ch_mult=(2, 2),
                  z_channels=32, ch=32, num_res_blocks=1)  # fmt: skip


def model(l2_norm: bool = True) -> VQModel:
    torch.manual_seed(0)
    made = VQModel(replace(CONFIG, codebook_l2_norm=l2_norm))
    start_official(made)
    return made


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("l2_norm", [True, False])
def test_losses_are_those_of_the_definition(l2_norm: bool) -> None:
    vq, x = model(l2_norm), images()
    losses = vq_losses(vq, x)
    z = vq.quant_conv(vq.encoder(x)).permute(0, 2, 3, 1).reshape(-1, 4)
    e = vq.quantize.embedding.weight
    if l2_norm:
        z, e = F.normalize(z, dim=-1), F.normalize(e, dim=-1)
    codes = torch.cdist(z, e).argmin(1)
    assert torch.equal(losses.codes, codes)
    assert torch.equal(losses.codes, vq.encode(x).flatten())
    distance = (e[codes] - z).square().mean()
    torch.testing.assert_close(losses.codebook, distance)
    torch.testing.assert_close(losses.commitment, distance)
    difference = vq.decode(codes.view(3, 4, 4)) - x
    torch.testing.assert_close(losses.reconstruction, difference.abs().mean() + 0.5 * difference.square().mean())
    torch.testing.assert_close(losses.total, losses.reconstruction + 1.25 * distance)


def test_gradients_pass_straight_through_the_codebook() -> None:
    vq = model()
    losses = vq_losses(vq, images())
    losses.reconstruction.backward(retain_graph=True)
    assert vq.quantize.embedding.weight.grad is None
    assert vq.encoder.conv_in.weight.grad.abs().sum() > 0
    vq.zero_grad()
    losses.codebook.backward()
    assert vq.encoder.conv_in.weight.grad is None
    used = losses.codes.unique()
    moved = vq.quantize.embedding.weight.grad.abs().sum(1) > 0
    assert torch.equal(moved.nonzero()[:, 0], used)


def test_weights_of_pixels() -> None:
    vq, x = model(), images(1)
    weights = torch.zeros(1, 1, 8, 8)
    weights[..., :4, :] = 2.0
    losses, plain = vq_losses(vq, x, weights), vq_losses(vq, x)
    difference = (vq.decode(plain.codes.view(1, 4, 4)) - x)[..., :4, :]
    torch.testing.assert_close(losses.reconstruction, 3 * (difference.abs() + 0.5 * difference.square()).mean() / 3)


def test_a_codebook_from_features_is_used() -> None:
    vq, x = model(), images(8)
    start_from_features(vq, x)
    assert len(vq.encode(x).unique()) > 8
    with pytest.raises(ValueError, match="16 features for 17 vectors"):
        start_from_features(VQModel(replace(CONFIG, codebook_size=17)), images(1))


def test_dead_codes_are_replaced_by_features_that_fit_badly() -> None:
    table = torch.nn.Parameter(F.normalize(torch.eye(4), dim=-1))
    optimizer = torch.optim.Adam([table])
    far = F.normalize(torch.tensor([-1.0, -1.0, -1.0, -1.0]), dim=0)
    features = torch.stack([table[0].detach()] * 7 + [far])
    losses = VQLosses(*[torch.tensor(0.0)] * 3, torch.zeros(8, dtype=torch.long), features, 0.0)
    restarts = Restarts(4, patience=2, every=4)
    torch.manual_seed(0)
    replaced = [restarts.after_step(step, table, losses, optimizer).tolist() for step in range(1, 5)]
    assert replaced[:3] == [[], [], []]
    assert replaced[3] == [1, 2]  # at most a quarter of the batch
    assert torch.equal(table[0], torch.eye(4)[0])
    assert any(torch.equal(table[code], far) for code in replaced[3])
    assert restarts.age.tolist() == [0, 0, 0, 4]
