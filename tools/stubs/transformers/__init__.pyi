# SPDX-License-Identifier: Apache-2.0
# What mpsafe and its tests use of transformers 5.

from typing import Any

AsyncTextIteratorStreamer: Any
AutoConfig: Any
AutoModelForCausalLM: Any
AutoTokenizer: Any
LlamaConfig: Any
LlamaForCausalLM: Any
OlmoeConfig: Any
OlmoeForCausalLM: Any
PreTrainedTokenizerFast: Any
Qwen2Config: Any
Qwen2ForCausalLM: Any
Qwen3MoeConfig: Any
Qwen3MoeForCausalLM: Any
StoppingCriteriaList: Any

class StoppingCriteria: ...
