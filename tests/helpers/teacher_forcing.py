"""Both branches of a model by one dense pass over a whole image: no cache, no vLLM, none of the engine's code."""

from __future__ import annotations

from pathlib import Path

import torch
from demo.model import GPT, GPTConfig
from safetensors.torch import load_file
from torch import Tensor, nn

from llamagen_server.model_dir import ModelDir
from llamagen_server.stages.text_encoder import TextEncoder


class Reference:
    """The language model of a directory in plain PyTorch, float32."""

    def __init__(self, model: ModelDir, weights: Path | None = None) -> None:
        """``weights``: a file in place of the directory's."""
        self.model, config = model, model.config
        tensors = {name: t.float() for name, t in load_file(weights or model.path / "model.safetensors").items()}
        self.gpt = GPT(
            GPTConfig(
                dim=config.dim,
                n_layer=config.n_layer,
                n_head=config.n_head,
                n_kv_head=config.n_kv_head,
                rope_base=config.rope_base,
                norm_eps=config.norm_eps,
                caption_dim=config.caption_dim,
                vocab_size=config.codebook_size,
                model_type="t2i" if model.text_encoder else "c2i",
                num_classes=config.num_classes,
                cls_token_num=config.cls_token_num,
                block_size=config.num_image_tokens,
            )
        )
        for layer in self.gpt.layers:  # the hidden width may not follow from the others
            layer.feed_forward.w1 = nn.Linear(config.dim, config.ffn_hidden_dim, bias=False)
            layer.feed_forward.w3 = nn.Linear(config.dim, config.ffn_hidden_dim, bias=False)
            layer.feed_forward.w2 = nn.Linear(config.ffn_hidden_dim, config.dim, bias=False)
        self.gpt.load_state_dict(tensors)
        self.encoder = None
        if model.text_encoder:
            self.encoder = TextEncoder(model.text_encoder, max_tokens=config.cls_token_num, clean=config.clean_caption)

    @torch.inference_mode()
    def branch_logits(self, condition: int | str, codes: Tensor) -> Tensor:
        """Logits of each of the ``codes`` [tokens] after those before it: [2, tokens, codebook], conditional first."""
        drop = torch.tensor([False, True])
        if isinstance(condition, int):
            return self.gpt(torch.tensor([condition] * 2), None, codes[:-1].expand(2, -1), drop)
        assert self.encoder is not None
        [text] = self.encoder.encode_text([self.encoder.tokenize(condition)])
        return self.gpt(text.expand(2, -1, -1), None, codes[:-1].expand(2, -1), drop)
