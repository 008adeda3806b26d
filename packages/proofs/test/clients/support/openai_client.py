"""Asks a server by the OpenAI client for Python: plainly, as a stream, and with its stream helper; prints what came as JSON.

Usage: openai_client.py URL
"""

import json
import sys

from openai import APIStatusError, OpenAI

client = OpenAI(base_url=sys.argv[1] + "/v1", api_key="none", max_retries=0, timeout=60)
ask = {"model": "smollm2", "temperature": 0, "max_tokens": 12}
messages = [{"role": "user", "content": "Name a colour."}]
prompt = "The capital of France is"
usage = {"include_usage": True}


def fields(value):
    return None if value is None else [value.prompt_tokens, value.completion_tokens]


def chat_stream():
    text, counts = "", None
    for chunk in client.chat.completions.create(
        **ask, messages=messages, stream=True, stream_options=usage
    ):
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        counts = fields(chunk.usage) or counts
    return {"text": text, "usage": counts}


def chat_helper():
    # It raises when an answer ends for its length: a stop string comes sooner.
    with client.chat.completions.stream(**ask, messages=messages, stop=[" "]) as stream:
        return {"text": stream.get_final_completion().choices[0].message.content}


def completion_stream():
    text = ""
    for chunk in client.completions.create(**ask, prompt=prompt, stream=True):
        text += "".join(choice.text for choice in chunk.choices)
    return {"text": text}


def refused():
    try:
        client.completions.create(**{**ask, "temperature": 1.5}, prompt=prompt, echo=True)
    except APIStatusError as error:
        return {"status": error.status_code}


chat = client.chat.completions.create(**ask, messages=messages)
completion = client.completions.create(**ask, prompt=prompt)
print(
    json.dumps(
        {
            "chat": {"text": chat.choices[0].message.content, "usage": fields(chat.usage)},
            "chatStream": chat_stream(),
            "chatHelper": chat_helper(),
            "completion": {"text": completion.choices[0].text},
            "completionStream": completion_stream(),
            "refused": refused(),
        }
    )
)
