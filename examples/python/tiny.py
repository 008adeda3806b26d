"""Prefill and decode in two Python processes, with the standard library alone: `python tiny.py`.

The model is attention in plain Python: two layers with two heads of four numbers, random weights, a paged cache of 32-bit floats in
memory that the Node process beside it maps too. It says nothing, but every token depends on every byte of the cache before it.
"""

from __future__ import annotations

import array
import hashlib
import math
import random

import disaggregate
import kvx_host as kvx

LAYERS, HEADS, DIM, VOCABULARY = 2, 2, 4, 251
WIDTH = HEADS * DIM
PAGES, PAGE_TOKENS = 24, 8
PAGE_FLOATS = PAGE_TOKENS * WIDTH


class Model:
    page_tokens = PAGE_TOKENS
    paged = disaggregate.paged("tiny", LAYERS, HEADS, 4 * DIM, "f32", PAGES, PAGE_TOKENS)

    def __init__(self, device: str):
        self.memory, pool = self._pool(device, 4 * PAGE_FLOATS * PAGES * 2 * LAYERS)
        self._kv = memoryview(pool).cast("B").cast("f")
        weights = random.Random(1)

        def matrix(rows: int, columns: int) -> list[list[float]]:
            return [[weights.gauss(0, rows**-0.5) for _ in range(rows)] for _ in range(columns)]

        self._tokens = [[weights.gauss(0, 1) for _ in range(WIDTH)] for _ in range(VOCABULARY)]
        self._layers = [[matrix(WIDTH, WIDTH) for _ in range(4)] for _ in range(LAYERS)]
        self._head = matrix(WIDTH, VOCABULARY)

    def _pool(self, device: str, size: int) -> tuple:
        """The cache, as kvx and as this module see it."""
        if device != "cpu":
            raise ValueError(f"the device must be cpu, got {device}")
        shared = kvx.HostMemory(size)
        return [shared], shared.map

    def spoil(self) -> None:
        for at in range(len(self._kv)):
            self._kv[at] = math.nan

    def step(self, ids: list[int], start: int, pages: list[int]) -> int:
        for position, token in enumerate(ids, start):
            x = [a + math.sin((position + 1) * (i + 1) / 7) for i, a in enumerate(self._tokens[token])]
            for layer, (q, k, v, o) in enumerate(self._layers):
                y = _normal(x)
                self._row(layer, 0, position, pages)[:] = _floats(_times(y, k))
                self._row(layer, 1, position, pages)[:] = _floats(_times(y, v))
                rows = range(position + 1)
                keys = [self._row(layer, 0, row, pages).tolist() for row in rows]
                values = [self._row(layer, 1, row, pages).tolist() for row in rows]
                query, mixed = _times(y, q), []
                for head in range(0, WIDTH, DIM):
                    part = slice(head, head + DIM)
                    scores = [math.exp(sum(a * b for a, b in zip(query[part], key[part]))) for key in keys]
                    for i in range(head, head + DIM):
                        mixed.append(sum(s * value[i] for s, value in zip(scores, values)) / sum(scores))
                x = [a + b for a, b in zip(x, _times(mixed, o))]
        scores = _times(_normal(x), self._head)
        return max(range(VOCABULARY), key=scores.__getitem__)

    def synchronize(self) -> None:
        """Nothing to wait for: `step` computes on this thread."""

    def cache(self, tokens: int, pages: list[int]) -> str:
        digest = hashlib.sha256()
        for layer in range(LAYERS):
            for which in range(2):
                for position in range(tokens):
                    digest.update(self._row(layer, which, position, pages))
        return digest.hexdigest()

    def _row(self, layer: int, which: int, position: int, pages: list[int]) -> memoryview:
        page = (2 * layer + which) * PAGES + pages[position // PAGE_TOKENS]
        at = page * PAGE_FLOATS + position % PAGE_TOKENS * WIDTH
        return self._kv[at : at + WIDTH]


def _times(x: list[float], columns: list[list[float]]) -> list[float]:
    return [sum(a * b for a, b in zip(x, column)) for column in columns]


def _normal(x: list[float]) -> list[float]:
    size = math.sqrt(sum(a * a for a in x) / len(x) + 1e-6)
    return [a / size for a in x]


def _floats(x: list[float]) -> memoryview:
    return memoryview(array.array("f", x))


def job(**given: object) -> disaggregate.Job:
    # A prompt of 100 tokens in chunks of 20: these end within pages.
    return disaggregate.Job(
        make=Model,
        prompt=[(i * 37 + 11) % VOCABULARY for i in range(100)],
        chunk=20,
        answer=32,
        prefill_pages=random.Random(2).sample(range(PAGES), 17),
        decode_pages=random.Random(3).sample(range(PAGES), 17),
        **given,
    )


if __name__ == "__main__":
    disaggregate.main(job, devices="cpu,cpu")
