"""A prompt that does not fit into the model's context, in whatever words the upstream says it; the answer is always the same words.

Agents shorten their conversation only if they recognise the refusal, and ask again without end if they do not. litellm 1.110 raises
``ContextWindowExceededError`` for a text with "this model's maximum context length is" (`is_error_str_context_window_exceeded`); pi and
others look for "reduce the length of the messages", or for ``context_length_exceeded``, which is the error's type. openai-agents 0.24
reads no words: it obeys ``x-should-retry``, so the error carries it.
"""

import re
from dataclasses import dataclass

from proxy.core.ark.text import ArkError
from proxy.core.errors import ContextLengthError

_TOKENS_MIN, _TOKENS_MAX = 128, 100_000_000
"""A context outside of these is not believed."""

_CODES = frozenset(
    {
        "context_length_exceeded",  # OpenAI, and most that speak its API
        "context_window_exceeded",
        "model_context_window_exceeded",  # Zhipu (z.ai)
        "exceed_context_size_error",  # llama.cpp's type: tools/server, "exceed_context_size_error"
        "1261",  # Zhipu, error codes: "Prompt exceeds max length"
    }
)
_ARKS_CODE = "OutofContextError"
"""Ark, error codes (1299023): "Total tokens of image and text exceed max message tokens."."""

_N = r"[0-9][0-9,]{0,11}"
_LIMIT = rf"(?P<limit>{_N})"
_PROMPT = rf"(?P<prompt>{_N})"
_LARGE_LIMIT = r"(?P<limit>[0-9][0-9,]{2,11})"
"""Of three digits at least: a name's or a list's limit is shorter."""
_EXCEEDS = r"(?:exceeds?|is (?:greater|longer) than)"
_OF_THE_MODEL = r"(?:the |this |your )?(?:model'?s? )?(?:max(?:imum)? |configured |available )?"
_A_LENGTH = (
    rf"{_OF_THE_MODEL}(?:allowed )?(?:input |context )?(?:length|tokens|limit|max_seq_len|session_len)(?: of)? \(?{_LARGE_LIMIT}"
)
_WORDINGS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # Ark, error codes, also under InvalidParameter: "Total tokens of image and text exceed max message tokens."
        rf"exceeds? (?:the )?max(?:imum)? message tokens(?:: ?{_LIMIT})?",
        # Ark says "Input length 265330 exceeds the maximum length 229376.", OpenRouter "… the maximum allowed input length of N
        # tokens", SGLang "Input length (N tokens) exceeds the maximum allowed length (M tokens).", TensorRT-LLM "Prompt length (N)
        # exceeds maximum input length (M).", ExLlama "Prompt length N is greater than max_seq_len M", LMDeploy "… session_len M"
        rf"(?:prompt|input|context|total)(?: tokens?)?(?: length| count)? ?\(?{_PROMPT}(?: tokens)?\)? {_EXCEEDS} {_A_LENGTH}",
        # Baichuan and others: "Input tokens exceed limit"; DashScope: "Total message token length exceed model limit."
        rf"(?:input|prompt|message) tokens?(?: length| count)? {_EXCEEDS} {_OF_THE_MODEL}(?:input |context )?(?:maximum|limit|length)",
        # OpenAI, DeepSeek, OpenRouter and vLLM: "This model's maximum context length is N tokens. However, …"; SGLang: "Requested token
        # count exceeds the model's maximum context length of N tokens."
        rf"maximum context length(?: is| of|:) {_LIMIT}",
        # OpenAI, of its newer models: "Input tokens exceed the configured limit of N tokens."
        rf"input tokens exceed the configured limit of {_LIMIT}",
        # OpenAI: "Your input exceeds the context window of this model."; ollama: "the input length exceeds the context length",
        # "prompt too long; exceeded max context length by N tokens"; many others
        rf"exceed(?:s|ed|ing)? (?:{_OF_THE_MODEL})?context (?:length|window|size|limit)",
        r"context[ _](?:length|window|size|limit) (?:has been |was |is )?exceeded",  # llama.cpp: "Context size has been exceeded."
        # vLLM, renderers/params.py: "You passed N input tokens … the model's context length is only M tokens"
        # LM Studio: "the model is loaded with context length of only 4096 tokens"
        rf"context length (?:is|of) only {_LIMIT}",
        # vLLM, where the client asks for no limit: what is left of the context, which is less than nothing
        r"max_tokens must be at least 1, got -[0-9]",
        # vLLM, engine: "The decoder prompt (length N) is longer than the maximum model length of M.", and an older sentence
        rf"prompt \(length {_PROMPT}\) is longer than the maximum model length of {_LIMIT}",
        rf"prompt \(total length {_PROMPT}\) is too long to fit into the model \(context length {_LIMIT}",
        # SGLang, tokenizer_manager.py, and Together: "The input (N tokens) is longer than the model's context length (M tokens)."
        rf"input \({_PROMPT} tokens\) is longer than the model'?s context length \({_LIMIT}",
        # llama.cpp, tools/server: "request (N tokens) exceeds the available context size (M tokens), try increasing it"
        rf"request(?: \({_PROMPT} tokens\))? exceeds the available context size(?: \({_LIMIT})?",
        r"input is larger than the max context size",  # llama.cpp, of old
        rf"requested tokens \({_PROMPT}\) exceed context window of {_LIMIT}",  # llama-cpp-python
        r"sum of prompt length .{0,64}should not exceed max_num_tokens",  # TensorRT-LLM
        r"greater than the context length",  # LM Studio
        rf"exceeded model token limit(?:: ?{_LIMIT})?",  # Moonshot: "Your request exceeded model token limit: N (requested: M)"
        r"prompt exceeds (?:the )?max(?:imum)? length|prompt ?超长",  # Zhipu, with its code 1261
        # TGI, validation.rs, with a budget for the answer and without
        rf"`inputs` tokens \+ `max_new_tokens` must be <= {_LIMIT}(?:\. given: {_PROMPT})?",
        rf"`inputs` must have less than {_LIMIT} tokens(?:\. given: {_PROMPT})?",
        rf"range of input length should be \[[0-9]{{1,3}}, ?{_LIMIT}\]",  # DashScope (Qwen), error codes
        r"context window exceeds limit",  # MiniMax
        r"prompt tokens? too long|the max input characters is",  # Qianfan
        r"token ?数量超过上限",  # Spark, 10907
        rf"too many tokens: (?:total number of tokens in the prompt cannot exceed {_LIMIT}|size limit exceeded by)",  # Cohere
        rf"current length is {_PROMPT} while limit is {_LIMIT}",  # Cerebras
        rf"context window limit \({_LIMIT}\)",  # Cloudflare
        rf"max input length is {_LIMIT} tokens",  # Replicate
        r"prompt has [0-9]{1,9} too many tokens",  # AI21
        # OpenAI, of a text beyond what it looks at at all; the figures are characters
        r"invalid 'messages\[[0-9]{1,6}\]\.content(?:\[[0-9]{1,6}\]\.text)?': string too long",
        rf"prompt is too long(?:: {_PROMPT}(?: tokens > {_LIMIT})?)?",  # Anthropic
        rf"exceed context limit: {_PROMPT} \+ [0-9,]{{1,12}} > {_LIMIT}",  # Anthropic, with a budget for the answer
        r"input is too long for (?:the |this )?(?:requested )?model",  # Bedrock
        rf"input too long: {_PROMPT} input tokens, limit is {_LIMIT}",
        rf"too many input tokens(?:\. max input tokens: {_LIMIT}(?:,? request input token count: {_PROMPT})?)?",  # Titan
        rf"input token count(?: \({_PROMPT}\))? exceeds the maximum number of tokens allowed(?: \({_LIMIT}\))?",  # Gemini
        rf"input token count is {_PROMPT} but (?:the )?model only supports up to {_LIMIT}",  # Vertex
        rf"maximum prompt length is {_LIMIT}(?: but the request contains {_PROMPT})?",  # xAI
        r"reduce the length of the messages",  # Groq, and the end of OpenAI's own sentence
        rf"too large for model with {_LIMIT} maximum context length",  # Mistral
        rf"prompt token count of {_PROMPT} exceeds the limit of {_LIMIT}",  # GitHub Copilot
        rf"prompt_tokens ?\({_PROMPT}\) must be less than max_seq_len ?\({_LIMIT}\)",  # SiliconFlow
        # Chinese, of several: "输入超出模型上下文长度", "上下文超长", "输入长度超过限制"
        r"(?:超出|超过|大于)[^，。；]{0,16}上下文",
        r"上下文(?:长度|窗口|大小)?[^，。；]{0,4}(?:超长|过长|超限|超出|超过)",
        r"输入(?:内容|文本|消息)?的?长度[^，。；]{0,6}(?:超出|超过)",
        r"输入 ?tokens? ?(?:数|总数)?(?:超出|超过)",
    )
)
_PROMPT_ELSEWHERE = re.compile(rf"{_PROMPT} (?:input tokens|tokens from the input messages|in the messages)", re.IGNORECASE)
"""vLLM: "your request has N input tokens"; OpenAI: "you requested 9000 tokens (8000 in the messages, 1000 in the completion)"."""
_OF_A_RATE = re.compile(r"rate.?limit|per (?:minute|day)|\b[tr]pm\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Overflow:
    """What the upstream says of a prompt that is too long. None: it does not say."""

    limit_tokens: int | None = None
    prompt_tokens: int | None = None


def read_overflow(error: ArkError) -> Overflow | None:
    """Return what an error says of a context that is full; None if it is about anything else, a limit on tokens a minute included."""
    if _OF_A_RATE.search(error.message):
        return None
    said = [found.groupdict() for pattern in _WORDINGS if (found := pattern.search(error.message))]
    if not said and not (error.code.lower() in _CODES or error.code.startswith(_ARKS_CODE)):
        return None
    if elsewhere := _PROMPT_ELSEWHERE.search(error.message):
        said.append(elsewhere.groupdict())
    return Overflow(_figure(said, "limit"), _figure(said, "prompt"))


def overflow_error(overflow: Overflow, context_tokens: int) -> ContextLengthError:
    """Return the customer's error. The upstream's own figure counts: it may allow less of the context to the prompt.

    Args: context_tokens: the model's context as configured; 0: not known.
    """
    limit, prompt = overflow.limit_tokens or context_tokens, overflow.prompt_tokens
    sentence = f"This model's maximum context length is {limit or 'exceeded by the input'}{' tokens' if limit else ''}."
    if not limit or prompt is None:
        advice = "Please reduce the length of the messages."
    elif prompt <= limit:
        advice = (
            f"However, the prompt has {prompt} tokens, and the completion asked for does not fit beside it. "
            "Please lower max_tokens, or reduce the length of the messages."
        )
    else:
        advice = f"However, the prompt has {prompt} tokens. Please reduce the length of the messages."
    return ContextLengthError(f"{sentence} {advice}", param="messages", should_retry=False)


def _figure(said: list[dict[str, str | None]], name: str) -> int | None:
    """Return the first figure of that name that can be believed."""
    tokens = (int(figure.replace(",", "")) for words in said if (figure := words.get(name)))
    return next((number for number in tokens if _TOKENS_MIN <= number <= _TOKENS_MAX), None)
