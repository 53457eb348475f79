"""LlamaGen on vLLM's layers. One request carries both guidance branches of an image.

The conditional and the unconditional sequence have the same length, the same positions and the same image tokens. Only
the condition prefix differs. So a token's hidden state holds both branches side by side, ``[n, branches * dim]``.
Linear layers and norms see ``n * branches`` rows. Attention sees ``n`` tokens with ``branches`` times the heads,
conditional heads first, and vLLM's paged KV cache holds both branches under one block table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vllm_llamagen.checks import check_engine
from vllm_llamagen.config import LlamaGenConfig
from vllm_llamagen.rotary import rotary_table, rotate
from vllm_llamagen.vllm_compat import (
    Attention,
    IntermediateTensors,
    LogitsProcessor,
    MergedColumnParallelLinear,
    MultiModalFeatureSpec,
    ParallelLMHead,
    QKVParallelLinear,
    RowParallelLinear,
    SiluAndMul,
    SupportsMRoPE,
    VllmConfig,
    VocabParallelEmbedding,
    current_platform,
    get_tensor_model_parallel_world_size,
    support_torch_compile,
)
from vllm_llamagen.weights import check_shapes, engine_weights

if TYPE_CHECKING:
    from vllm_llamagen.runner_v2 import GuidanceV2, LlamaGenModelState


class RMSNorm(nn.Module):
    """Normalises in float32, casts, then multiplies by the weight: the order of the official code."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).type_as(x) * self.weight


class SelfAttention(nn.Module):
    def __init__(self, config: LlamaGenConfig, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        tp_size = get_tensor_model_parallel_world_size()
        self.branches = config.cfg_branches
        self.head_dim = config.branch_head_dim
        self.padding = config.head_dim - config.branch_head_dim
        self.wqkv = QKVParallelLinear(
            config.dim,
            self.head_dim,
            config.n_head,
            config.n_kv_head,
            bias=False,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.wqkv",
        )
        self.wo = RowParallelLinear(
            config.dim, config.dim, bias=False, quant_config=vllm_config.quant_config, prefix=f"{prefix}.wo"
        )
        self.num_heads = config.n_head // tp_size
        self.num_kv_heads = config.n_kv_head // tp_size
        self.joined = current_platform.is_cpu() and config.can_join_heads
        """Whether the cache holds a head of both branches as one head of twice the size."""
        joined = config.cfg_branches if self.joined else 1
        self.attn = Attention(
            self.branches * self.num_heads,
            joined * config.head_dim,
            self.head_dim**-0.5,
            num_kv_heads=self.branches * self.num_kv_heads // joined,
            cache_config=vllm_config.cache_config,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.attn",
        )

    def forward(self, x: Tensor, cos_sin: Tensor) -> Tensor:
        """``x`` [n * branches, dim], ``cos_sin`` [n, 1, 1, head_dim // 2, 2] -> [n * branches, dim]."""
        qkv, _ = self.wqkv(x)
        heads = qkv.view(-1, self.branches, self.num_heads + 2 * self.num_kv_heads, self.head_dim)
        q, k, v = heads.split([self.num_heads, self.num_kv_heads, self.num_kv_heads], dim=2)
        q, k, v = (F.pad(t, (0, self.padding)) for t in (rotate(q, cos_sin), rotate(k, cos_sin), v))
        out = self._attend_joined(q, k, v) if self.joined else self.attn(q.flatten(1), k.flatten(1), v.flatten(1))
        out = out.reshape(-1, self.num_heads, self.head_dim + self.padding)
        out, _ = self.wo(out[..., : self.head_dim].reshape(-1, self.num_heads * self.head_dim))
        return out

    def _attend_joined(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Three times [n, 2, heads, size] -> [n, 2, heads, size].

        A joined head is read once for both branches, in chunks of twice the length: a CPU's memory is slow at short
        ones. A query is zero where the other branch's key is, and its output is what it takes from its own values.
        """
        size = q.shape[-1]
        conditional, unconditional = q.unbind(1)
        q = torch.stack([F.pad(conditional, (0, size)), F.pad(unconditional, (size, 0))], dim=2)
        out = self.attn(q.flatten(1), k.transpose(1, 2).flatten(1), v.transpose(1, 2).flatten(1))
        out = out.view(-1, self.num_heads, 2, 2, size)
        return torch.stack([out[:, :, 0, 0], out[:, :, 1, 1]], dim=1)


class FeedForward(nn.Module):
    def __init__(self, config: LlamaGenConfig, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        quant_config = vllm_config.quant_config
        self.w13 = MergedColumnParallelLinear(
            config.dim, [config.ffn_hidden_dim] * 2, bias=False, quant_config=quant_config, prefix=f"{prefix}.w13"
        )
        self.w2 = RowParallelLinear(
            config.ffn_hidden_dim, config.dim, bias=False, quant_config=quant_config, prefix=f"{prefix}.w2"
        )
        self.act = SiluAndMul()

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.w13(x)
        x, _ = self.w2(self.act(x))
        return x


class TransformerBlock(nn.Module):
    def __init__(self, config: LlamaGenConfig, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = SelfAttention(config, vllm_config, f"{prefix}.attention")
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.feed_forward = FeedForward(config, vllm_config, f"{prefix}.feed_forward")

    def forward(self, x: Tensor, cos_sin: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos_sin)
        return x + self.feed_forward(self.ffn_norm(x))


@support_torch_compile(
    dynamic_arg_dims={"input_ids": 0, "positions": -1, "intermediate_tensors": 0, "inputs_embeds": 0}
)
class LlamaGenModel(nn.Module):
    cos_sin: Tensor

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config: LlamaGenConfig = vllm_config.model_config.hf_config
        self.config = config
        self.embeddings = VocabParallelEmbedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(
            TransformerBlock(config, vllm_config, f"{prefix}.layers.{i}") for i in range(config.n_layer)
        )
        self.norm = RMSNorm(config.dim, config.norm_eps)
        table = rotary_table(config.grid_size, config.branch_head_dim, config.rope_base)
        self.register_buffer("cos_sin", table, persistent=False)

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """Ids [n] -> [n, branches * dim]. Codes are equal in both branches; a class is "no class" in the second."""
        if self.config.cfg_branches == 1:
            return self.embeddings(input_ids)
        no_condition = self.config.vocab_size - 1
        unconditional = torch.where(input_ids < self.config.codebook_size, input_ids, no_condition)
        return self.embeddings(torch.stack([input_ids, unconditional], dim=1)).flatten(1)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self.embed_input_ids(input_ids)
        if positions.ndim == 2:  # M-RoPE: three equal rows
            positions = positions[0]
        # A request for more codes than an image has must not read past the end of the table.
        cos_sin = self.cos_sin[positions.clamp(max=len(self.cos_sin) - 1)][:, None, None]
        x = inputs_embeds.view(-1, self.config.dim)
        for layer in self.layers:
            x = layer(x, cos_sin)
        return self.norm(x).view(inputs_embeds.shape)


class LlamaGenForCausalLM(nn.Module, SupportsMRoPE):
    """Predicts the codes of an image in raster order.

    In vLLM's V1 model runner, `compute_logits` returns the logits of all branches side by side, which the logits
    processors of `runner_v1` mix with each request's scale. In the V2 runner, `runner_v2` mixes before the head.
    """

    packed_modules_mapping: ClassVar[dict[str, list[str]]] = {"w13": ["w1", "w3"]}

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        check_engine(vllm_config)
        self.config: LlamaGenConfig = vllm_config.model_config.hf_config
        self.model = LlamaGenModel(vllm_config=vllm_config, prefix="model")
        self.output = ParallelLMHead(
            self.config.codebook_size,
            self.config.dim,
            params_dtype=vllm_config.model_config.head_dtype,
            quant_config=vllm_config.quant_config,
            prefix="output",
        )
        self.logits_processor = LogitsProcessor(self.config.codebook_size)
        self.is_unquantized = vllm_config.quant_config is None
        self.guidance: GuidanceV2 | None = None
        """In the V2 model runner only."""

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        return self.model.embed_input_ids(input_ids)

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[MultiModalFeatureSpec]
    ) -> tuple[Tensor, int]:
        """Returns the positions of a text model's prompt [3, n] and the delta from index to position in later steps.

        Every text token has position 0, image token ``i`` has ``i + 1``. ``input_tokens`` are the ids of the prompt, or
        a plain range if the prompt has embeddings only; then all of it is text.
        """
        text = self.config.codebook_size
        num_text = input_tokens.count(text) if input_tokens[0] == text else len(input_tokens)
        positions = torch.arange(len(input_tokens)).sub_(num_text - 1).clamp_(min=0)
        return positions.expand(3, -1), 1 - num_text

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        return self.model(input_ids, positions, intermediate_tensors, inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Hidden states [n, branches * dim] -> logits [n, vocab_size], or in V1 [n, branches * codebook_size]."""
        if self.guidance is not None:
            return self.guidance.logits(hidden_states, self._head)
        logits = self._head(hidden_states.view(-1, self.config.dim))
        return None if logits is None else logits.reshape(hidden_states.shape[0], -1)

    def _head(self, hidden_states: Tensor) -> Tensor | None:
        """[n, dim] -> [n, codebook_size]"""
        return self.logits_processor(self.output, hidden_states.to(self.logits_processor.head_dtype))

    @staticmethod
    def get_model_state_cls() -> type[LlamaGenModelState]:
        """Returns what the V2 model runner keeps for this model, besides its own state."""
        from vllm_llamagen.runner_v2 import LlamaGenModelState

        return LlamaGenModelState

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Loads the official tensors.

        A quantized checkpoint has tensors of its own kinds; vLLM's layers check those.

        Raises:
            ValueError: a tensor is missing, unexpected or has another shape.
        """
        parameters = dict(self.named_parameters())
        shapes: dict[str, torch.Size] = {}
        loaded = set()

        def seen() -> Iterator[tuple[str, Tensor]]:
            for name, tensor in weights:
                shapes[name] = tensor.shape
                yield name, tensor

        for name, shard, tensor in engine_weights(seen(), self.config):
            if name not in parameters:
                raise ValueError(f"unexpected tensor {name}")
            parameter = parameters[name]
            loader = getattr(parameter, "weight_loader", None)
            if loader is None:
                parameter.data.copy_(tensor)
            elif shard is None:
                loader(parameter, tensor)
            else:
                loader(parameter, tensor, shard)
            loaded.add(name)
        if self.is_unquantized:
            check_shapes(shapes, self.config, "checkpoint")
        return loaded
