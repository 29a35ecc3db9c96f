"""A full context in every wording that is known, told in one that agents know."""

import re

import orjson
import pytest

from proxy.core.ark.context_length import Overflow, read_overflow
from proxy.core.ark.refusal import Refusal, read_refusal
from proxy.core.ark.text import ArkError
from proxy.core.settlement import Outcome

CONTEXT = 262_144

# (the upstream's words, the limit and the prompt that they tell)
WORDINGS = [
    # Ark: error codes (1299023), and messages of its models
    ("Total tokens of image and text exceed max message tokens. Request id: 0217aa", None, None),
    ("Messages exceed max message tokens: 64000", 64_000, None),
    ("Input length 265330 exceeds the maximum length 229376. Request id: 0217aa", 229_376, 265_330),
    (
        ("The parameter `messages` specified in the request is not valid: input length 265330 exceeds the maximum length 262144."),
        262_144,
        265_330,
    ),
    # OpenAI
    (
        (
            "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens. "
            "Please reduce the length of the messages."
        ),
        8192,
        None,
    ),
    (
        (
            "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens (8000 in the "
            "messages, 1000 in the completion). Please reduce the length of the messages or completion."
        ),
        8192,
        8000,
    ),
    ("Your input exceeds the context window of this model. Please adjust your input and try again.", None, None),
    ("Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300000 tokens.", 272_000, None),
    # DeepSeek
    (
        (
            "This model's maximum context length is 131072 tokens. However, you requested 140000 tokens (135904 in the"
            " messages, 4096 in the completion)."
        ),
        131_072,
        135_904,
    ),
    # vLLM, of several ages
    (
        (
            "You passed 5000 input tokens and requested 100 output tokens. However, the model's context length is only"
            " 4096 tokens, resulting in a maximum input length of 3996 tokens. Please reduce the length of the input "
            "prompt."
        ),
        4096,
        5000,
    ),
    (
        (
            "'max_tokens' or 'max_completion_tokens' is too large: 2000. This model's maximum context length is 4096 "
            "tokens and your request has 2104 input tokens (2000 > 4096 - 2104)."
        ),
        4096,
        2104,
    ),
    (
        (
            "This model's maximum context length is 262144 tokens. However, you requested 0 output tokens and your "
            "prompt contains at least 262145 input tokens, for a total of at least 262145 tokens."
        ),
        262_144,
        262_145,
    ),
    ("The decoder prompt (length 5951) is longer than the maximum model length of 4096.", 4096, 5951),
    ("The prompt (total length 25938) is too long to fit into the model (context length 4096).", 4096, 25_938),
    # SGLang
    ("The input (300000 tokens) is longer than the model's context length (131072 tokens).", 131_072, 300_000),
    ("Requested token count exceeds the model's maximum context length of 131072 tokens.", 131_072, None),
    # llama.cpp, and LM Studio on top of it
    ("the request exceeds the available context size, try increasing it", None, None),
    ("request (144055 tokens) exceeds the available context size (131072 tokens), try increasing it", 131_072, 144_055),
    ("Context size has been exceeded.", None, None),
    ("tokens to keep from the initial prompt is greater than the context length", None, None),
    # Moonshot, Zhipu, DashScope, MiniMax, SiliconFlow
    ("Invalid request: Your request exceeded model token limit: 128000 (requested: 130000)", 128_000, None),
    ("Prompt exceeds max length", None, None),
    ("Prompt 超长", None, None),
    ("<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 258048]", 258_048, None),
    ("invalid params, context window exceeds limit", None, None),
    ("length of prompt_tokens (38011) must be less than max_seq_len (32768).", 32_768, 38_011),
    # TGI
    ("Input validation error: `inputs` must have less than 4096 tokens. Given: 5000", 4096, 5000),
    (
        (
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 16384. Given: 17000 `inputs` tokens"
            " and 10 `max_new_tokens`"
        ),
        16_384,
        17_000,
    ),
    # ollama
    ("the input length exceeds the context length", None, None),
    ("prompt too long; exceeded max context length by 12 tokens", None, None),
    # Anthropic, Bedrock, Gemini, xAI, Groq, Mistral, OpenRouter, Copilot
    ("prompt is too long: 213462 tokens > 200000 maximum", 200_000, 213_462),
    ("The prompt is too long: 267657, model maximum context length: 262143", 262_143, 267_657),
    ("Input is too long for requested model.", None, None),
    ("The input token count (1196265) exceeds the maximum number of tokens allowed (1048575).", 1_048_575, 1_196_265),
    ("This model's maximum prompt length is 131072 but the request contains 537812 tokens.", 131_072, 537_812),
    ("Please reduce the length of the messages or completion.", None, None),
    ("Prompt contains 40000 tokens, too large for model with 32768 maximum context length", 32_768, None),
    ("Input length 300000 exceeds the maximum allowed input length of 262,144 tokens.", 262_144, 300_000),
    ("This endpoint's maximum context length is 1048576 tokens. However, you requested about 1293741 tokens", 1_048_576, None),
    ("prompt token count of 5000 exceeds the limit of 4096", 4096, 5000),
    # what people run themselves
    ("Prompt length (5000) exceeds maximum input length (4096). Set log level to info", 4096, 5000),
    ("The sum of prompt length (5000.0), query length (0) should not exceed max_num_tokens (4096)", None, None),
    ("Prompt length 5000 is greater than max_seq_len 4096", 4096, 5000),
    ("Context length 5000 is greater than max_seq_len 4096", 4096, 5000),
    ("input length 5000 exceeds session_len 4096", 4096, 5000),
    ("Input length (300000 tokens) exceeds the maximum allowed length (131072 tokens).", 131_072, 300_000),
    ("input is larger than the max context size. skipped", None, None),
    ("Requested tokens (5000) exceed context window of 4096", 4096, 5000),
    ("max_tokens must be at least 1, got -1234.", None, None),
    ("However, the model is loaded with context length of only 4096 tokens, which is not enough.", 4096, None),
    # what they rent
    ("total tokens 300000 exceed max context tokens 262144", 262_144, 300_000),
    ("input tokens (300000) exceeds the maximum input tokens (229376)", 229_376, 300_000),
    ("<400> InternalError.Algo.InvalidParameter: Total message token length exceed model limit.", None, None),
    ("The input token length exceeds the model's maximum.", None, None),
    ("Input tokens exceed limit", None, None),
    ("too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 4292.", 4081, None),
    ("too many tokens: size limit exceeded by 1000 tokens.", None, None),
    ("Current length is 8500 while limit is 8192", 8192, 8500),
    ("The estimated number of input and maximum output tokens exceeded this model context window limit (24000).", 24_000, None),
    ("Your input is too long. Max input length is 4096 tokens, but you supplied 5441 tokens.", 4096, None),
    ("Prompt has 1234 too many tokens.", None, None),
    ("Invalid 'messages[0].content': string too long. Expected a string with maximum length 1048576", None, None),
    ("input length and `max_tokens` exceed context limit: 199000 + 20000 > 200000", 200_000, 199_000),
    ("Input too long: 250000 input tokens, limit is 200000", 200_000, 250_000),
    ("Too many input tokens. Max input tokens: 8192, request input token count: 9000", 8192, 9000),
    ("the input token count is 40000 but model only supports up to 32768.", 32_768, 40_000),
    ("prompt tokens too long", None, None),
    ("the max input characters is 20000", None, None),
    ("token数量超过上限", None, None),
    ("输入token超过模型最大长度限制", None, None),
    ("输入内容长度超过限制", None, None),
    # Chinese, of several
    ("输入超出模型的上下文长度", None, None),
    ("上下文长度超过限制", None, None),
    ("输入长度超过上限", None, None),
]


def of_litellm(text: str) -> bool:
    """The phrases of litellm 1.110's `is_error_str_context_window_exceeded` that our words could hold, after its check for a rate.

    Checked against the package itself: its `exception_type` made a `ContextWindowExceededError` of our 400.
    """
    lower = text.lower()
    if re.search(r"rate[\s_\-]*limit", lower) or "service tier capacity exceeded" in lower:
        return False
    return any(
        phrase in lower for phrase in ("this model's maximum context length is", "model's maximum context limit", "prompt is too long")
    )


def of_pi(text: str) -> bool:
    """Two of the patterns that pi looks for (packages/ai/src/utils/overflow.ts)."""
    return re.search(r"maximum context length is \d+ tokens|reduce the length of the messages", text, re.IGNORECASE) is not None


def refused(status: int, error: object, context_tokens: int = CONTEXT) -> Refusal:
    return read_refusal(status, orjson.dumps(error), upstream_model="ep-x", context_tokens=context_tokens)


@pytest.mark.parametrize(("said", "limit", "prompt"), WORDINGS)
@pytest.mark.parametrize("status", [200, 400, 413, 422, 500])
def test_each_wording_is_told_in_words_that_agents_know(status: int, said: str, limit: int | None, prompt: int | None) -> None:
    code = "InvalidParameter" if status != 500 else ""

    refusal = refused(status, {"error": {"code": code, "message": said, "param": "", "type": "BadRequest"}})

    error = refusal.error
    assert (error.status, error.code, error.type) == (400, "CONTEXT_LENGTH_EXCEEDED", "context_length_exceeded")
    assert (error.param, error.should_retry, refusal.outcome) == ("messages", False, Outcome.REFUSED)
    assert error.message.startswith(f"This model's maximum context length is {limit or CONTEXT} tokens.")
    assert (str(prompt) in error.message) == (prompt is not None)
    assert of_litellm(error.message)
    assert of_pi(error.message)


@pytest.mark.parametrize(
    "code", ["OutofContextError", "OutofContextError.Text", "context_length_exceeded", "model_context_window_exceeded"]
)
@pytest.mark.parametrize(("context_tokens", "begins"), [(32_768, "is 32768 tokens."), (0, "is exceeded by the input.")])
def test_a_code_suffices_and_the_models_own_context_is_told(code: str, context_tokens: int, begins: str) -> None:
    error = refused(400, {"error": {"code": code, "message": "of account 2100987654"}}, context_tokens).error

    assert error.message == f"This model's maximum context length {begins} Please reduce the length of the messages."
    assert of_litellm(error.message)


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": 400, "message": "the request is too large", "type": "exceed_context_size_error"}},  # llama.cpp
        {"code": 400, "message": "no", "type": "exceed_context_size_error"},  # the same, unwrapped: the error of a stream's event
        {"object": "error", "message": WORDINGS[14][0], "type": "BadRequestError", "param": None, "code": 400},  # SGLang
        {"error": {"message": WORDINGS[0][0], "type": "invalid_request_error", "param": None, "code": None}},
        {"message": WORDINGS[0][0], "type": "invalid_request_error", "param": None, "code": None},
        {"error": "the input length exceeds the context length"},  # ollama
        {"error": {"code": "1261", "message": "too much"}},  # Zhipu
    ],
)
@pytest.mark.parametrize("status", [200, 400])
def test_other_servers_shapes_are_read(status: int, body: object) -> None:
    assert refused(status, body).error.code == "CONTEXT_LENGTH_EXCEEDED"


def test_a_prompt_that_fits_without_its_answer_is_told_to_ask_for_less() -> None:
    said = "This model's maximum context length is 4096 tokens and your request has 2104 input tokens (2000 > 4096 - 2104)."

    assert refused(400, {"error": {"code": "", "message": said}}).error.message == (
        "This model's maximum context length is 4096 tokens. However, the prompt has 2104 tokens, and the completion asked for does "
        "not fit beside it. Please lower max_tokens, or reduce the length of the messages."
    )


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (400, "InvalidParameter", "The parameter `max_tokens` specified …: integer above maximum value, expected a value <= 32768"),
        (400, "InvalidParameter", "Range of max_tokens should be [1, 8192]"),
        (400, "InvalidParameter", "Invalid 'user': string too long. Expected a string with maximum length 64."),
        (400, "InvalidParameter", "The image url exceeds the maximum length 2048"),
        (400, "InvalidParameter", "图片尺寸超过限制"),
        (400, "InvalidParameter", "输入图片数量超过限制"),
        (400, "InvalidParameter", "max_tokens 超过最大值"),
        (400, "InvalidParameter", "input length 70 exceeds the maximum length 64"),  # a name's
        (400, "InvalidParameter", "The input audio length 4000 exceeds the maximum length 3600"),
        (400, "", "Invalid 'tools[0].function.description': string too long. Expected a string with maximum length 1024"),
        (400, "", "Invalid 'messages[0].name': string too long. Expected a string with maximum length 64"),
        (400, "", "max_tokens must be at least 1, got 0."),
        (400, "", "max_tokens is too large: 100000. This model supports at most 16384 completion tokens"),
        (400, "ThrottlingException", "Too many tokens, please wait before trying again."),
        (429, "RateLimitExceeded", "Request too large: this model's maximum context length is 8192 tokens"),
        (400, "", "Too many tokens per minute: prompt token count of 5000 exceeds the limit of 4096"),
        (403, "AccessDenied", "the input length exceeds the context length"),
        (500, "InternalServiceError", "no context"),
    ],
)
def test_any_other_fault_is_not_taken_for_a_full_context(status: int, code: str, said: str) -> None:
    assert refused(status, {"error": {"code": code, "message": said}}).error.code != "CONTEXT_LENGTH_EXCEEDED"


@pytest.mark.parametrize("figure", ["7", "2100987654", "999999999999"])
def test_a_figure_that_can_be_no_context_is_not_shown(figure: str) -> None:
    said = f"This model's maximum context length is {figure} tokens"

    assert read_overflow(ArkError(400, "", said)) == Overflow()
    assert refused(400, {"error": {"code": "", "message": said}}).error.message.startswith(
        "This model's maximum context length is 262144 tokens."
    )


def test_pictures_and_videos_have_no_context_to_shorten() -> None:
    body = orjson.dumps({"error": {"code": "OutofContextError", "message": "prompt is too long"}})

    assert read_refusal(400, body, upstream_model="ep-x", messages=False).error.code == "INVALID_PARAMETER"
