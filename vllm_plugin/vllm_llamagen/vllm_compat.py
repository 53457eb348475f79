"""Every import of vLLM from below its top-level package: the list to check when vLLM moves to its next version.

``from vllm import LLM, ModelRegistry, SamplingParams`` is vLLM's public API and may be imported in any module. Everything else
comes from here; a test fails when another module imports from ``vllm.*``. Nothing is patched or copied. "Since" is the
first vLLM release that has the name at this place.

| name | since | purpose |
|---|---|---|
| Attention | 0.16 | paged attention; heads of both branches share one block table |
| LinearBase, QKVParallelLinear, RowParallelLinear, MergedColumnParallelLinear | 0.4 | tensor-parallel, quantizable layers |
| VocabParallelEmbedding, ParallelLMHead | 0.2 | embedding and head |
| LogitsProcessor | 0.4 | the head's product, gathered over tensor-parallel workers |
| SiluAndMul | 0.1 | activation of the feed-forward layers |
| SupportsMRoPE, MultiModalFeatureSpec | 0.11, 0.10 | the model's own positions for text prompts, and the hook's signature |
| IntermediateTensors | 0.5 | signature of the model's ``forward`` |
| support_torch_compile | 0.6 | compiles the model's ``forward`` |
| get_tensor_model_parallel_world_size | 0.4 | heads per worker |
| MODELS_CONFIG_MAP, VerifyAndUpdateConfig | 0.10 | vLLM's table of hooks by architecture; ours completes an engine's settings |
| VllmConfig | 0.6 | argument of the model and of the logits processors |
| LogitsProcessorV1, BatchUpdate, MoveDirectionality | 0.9 | custom logits processors of the V1 model runner |
| process_dict_updates | 0.10 | follows requests through the V1 runner's batch |
| LogitsProcessorV2, LogitsContext, LogitsProcRequestState | 0.31 | custom logits processors of the V2 model runner |
| EngineClient | 0.6 | the interface of AsyncLLM; under ``vllm serve`` the engine that it started |
| AsyncLLM | 0.6 | the engine: one request per image, output as it grows |
| AsyncEngineArgs, FlexibleArgumentParser | 0.1, 0.11 | vLLM's flags under their own names, and their parser |
| make_arg_parser | 0.32 | the flags of vLLM's own server; a test compares them with ours |
| RequestOutputKind | 0.6 | deltas, or the final output only |
| UniProcExecutor | 0.11 | engine and model in one process on few cores |
| EngineDeadError, EngineGenerateError | 0.8 | the engine ended, or failed on a request |
| VLLMClientError, VLLMValidationError | 0.27, 0.14 | vLLM refuses a request |
| current_platform | 0.5 | CPU or CUDA |
| get_allowed_cpu_list | 0.20 | cores and memory nodes that this process may use |
| CPUWorker | 0.9 | a worker whose KV cache is not compared with a container's free memory, and with our sampler |
| SamplerV1, SamplingMetadata, SamplerOutputV1, LogprobsTensors, Logprob | 0.9 | the V1 runner's sampler, and its output |
| SamplerV2, SamplerOutput, get_num_sampled_and_rejected | 0.19 | the V2 runner's sampler, which decode windows wrap |
| async_tensor_h2d | 0.32 | a copy to the GPU that waits for nothing |
| DefaultModelState, InputBatch, RequestState, NewRequestData | 0.19 | a model's own state in the V2 model runner, and what its hooks get |
"""  # noqa: E501

from typing import TYPE_CHECKING, Any

from vllm.compilation.decorators import support_torch_compile
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.engine.protocol import EngineClient
from vllm.exceptions import VLLMClientError, VLLMValidationError
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.linear import (
    LinearBase,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
)
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig
from vllm.model_executor.models.interfaces import SupportsMRoPE
from vllm.multimodal.inputs import MultiModalFeatureSpec
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.sequence import IntermediateTensors
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.utils.cpu_resource_utils import get_allowed_cpu_list
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.executor.uniproc_executor import UniProcExecutor
from vllm.v1.outputs import LogprobsTensors
from vllm.v1.outputs import SamplerOutput as SamplerOutputV1
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality
from vllm.v1.sample.logits_processor import LogitsProcessor as LogitsProcessorV1
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler as SamplerV1
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as LogitsProcessorV2

if TYPE_CHECKING:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.logprobs import Logprob
    from vllm.v1.core.sched.output import NewRequestData
    from vllm.v1.worker.cpu_worker import CPUWorker
    from vllm.v1.worker.gpu.input_batch import InputBatch, get_num_sampled_and_rejected
    from vllm.v1.worker.gpu.model_states.default import DefaultModelState
    from vllm.v1.worker.gpu.sample.output import SamplerOutput
    from vllm.v1.worker.gpu.sample.sampler import Sampler as SamplerV2
    from vllm.v1.worker.gpu.states import RequestState

__all__ = [
    "MODELS_CONFIG_MAP",
    "AsyncEngineArgs",
    "AsyncLLM",
    "Attention",
    "BatchUpdate",
    "CPUWorker",
    "DefaultModelState",
    "EngineClient",
    "EngineDeadError",
    "EngineGenerateError",
    "FlexibleArgumentParser",
    "InputBatch",
    "IntermediateTensors",
    "LinearBase",
    "LogitsContext",
    "LogitsProcRequestState",
    "LogitsProcessor",
    "LogitsProcessorV1",
    "LogitsProcessorV2",
    "Logprob",
    "LogprobsTensors",
    "MergedColumnParallelLinear",
    "MoveDirectionality",
    "MultiModalFeatureSpec",
    "NewRequestData",
    "ParallelLMHead",
    "QKVParallelLinear",
    "RequestOutputKind",
    "RequestState",
    "RowParallelLinear",
    "SamplerOutput",
    "SamplerOutputV1",
    "SamplerV1",
    "SamplerV2",
    "SamplingMetadata",
    "SiluAndMul",
    "SupportsMRoPE",
    "UniProcExecutor",
    "VLLMClientError",
    "VLLMValidationError",
    "VerifyAndUpdateConfig",
    "VllmConfig",
    "VocabParallelEmbedding",
    "async_tensor_h2d",
    "current_platform",
    "get_allowed_cpu_list",
    "get_num_sampled_and_rejected",
    "get_tensor_model_parallel_world_size",
    "make_arg_parser",
    "process_dict_updates",
    "support_torch_compile",
]


def __getattr__(name: str) -> Any:
    """Imports a name when it is first asked for: that takes a while, and few processes need it."""
    if name == "CPUWorker":
        from vllm.v1.worker.cpu_worker import CPUWorker

        return CPUWorker
    if name == "DefaultModelState":
        from vllm.v1.worker.gpu.model_states.default import DefaultModelState

        return DefaultModelState
    if name == "make_arg_parser":
        from vllm.entrypoints.launchers.cli_args import make_arg_parser

        return make_arg_parser
    if name == "get_num_sampled_and_rejected":
        from vllm.v1.worker.gpu.input_batch import get_num_sampled_and_rejected

        return get_num_sampled_and_rejected
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
