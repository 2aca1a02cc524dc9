"""Ways in which the service fails, and the line each ends in."""

from __future__ import annotations

from tests.helpers.claude_server import (
    Play,
    cut_midway,
    ends_midway,
    fails,
    overloaded_midway,
    rows,
    says,
    sends,
)
from tests.helpers.unlike import RIGHT

NOW = {"retry_after": "0.01"}
WHOLE = rows(("they are named so", RIGHT))
LINES: dict[str, tuple[Play, str]] = {
    "401": (
        fails(401, "authentication_error", "invalid x-api-key"),
        "Anthropic does not accept the key from the environment's ANTHROPIC_API_KEY.",
    ),
    "403": (
        fails(403, "permission_error", "not for you"),
        "The key may not use claude-haiku-5-5 (not for you).",
    ),
    "404": (fails(404, "not_found_error", "model: x"), "There is no model claude-haiku-5-5"),
    "400": (
        fails(400, "invalid_request_error", "bad\nschema"),
        "Anthropic refused the request with status 400 (bad schema).",
    ),
    "413": (fails(413, "request_too_large"), "Anthropic refuses the request as too large."),
    "429": (
        fails(429, "rate_limit_error", "slow down", retry_after="95"),
        "Anthropic's rate limit is reached (slow down). Ask again after 95 s, as it says.",
    ),
    "429 for ever": (
        fails(429, "rate_limit_error", "", **NOW),
        "Anthropic's rate limit is reached, 3 times in a row.",
    ),
    "500": (fails(500, "api_error", "oops", **NOW), "failed with status 500 (oops), 3 times"),
    "529": (fails(529, "overloaded_error", **NOW), "Claude is overloaded, 3 times in a row."),
    "overloaded midway": (overloaded_midway('{"gro'), "Claude is overloaded. Ask again"),
    "refusal": (
        says("", "refusal", stop_details={"type": "refusal", "explanation": "I would rather not"}),
        "Claude refuses to answer: I would rather not.",
    ),
    "max_tokens": (says(WHOLE[:50], "max_tokens"), "was cut off after 16,000 tokens."),
    "window": (says("", "model_context_window_exceeded"), "too large for this model"),
    "no text": (says(""), "Claude's answer is empty."),
    "prose": (says("I cannot do that."), "cannot be read, twice in a row: it holds no JSON"),
    "truncated": (says(WHOLE[:-20]), "twice in a row: its JSON breaks off"),
    "other JSON": (says('{"rows": 3}'), "it is not of the form asked for: expected a list"),
    "page": (sends(b"<html>hello</html>", "text/html"), "answers, but not as Claude's API does."),
    "empty 200": (sends(b"", "text/event-stream"), "broke off in the middle of Claude's answer."),
    "empty JSON": (sends(b"", "application/json"), "answers, but not as Claude's API does."),
    "bad events": (
        sends(b"event: message_start\ndata: {oops\n\n", "text/event-stream"),
        "answers, but not as Claude's API does.",
    ),
    "cut": (cut_midway('{"groups": ['), "broke off in the middle of Claude's answer."),
    "ended": (ends_midway(WHOLE), "broke off in the middle of Claude's answer."),
}
