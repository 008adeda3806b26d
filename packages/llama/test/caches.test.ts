/**
 * The cache of every architecture through pages: computed by one model, moved by a plan for the two pools, loaded by
 * another. Compared with one process that did both are not only the tokens but the state of llama.cpp, byte for byte, before
 * the first and after the last token; and without one component of the cache both must differ.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { checkPlace, checkShape, type ComponentShape } from '@kvx/core/bytes'
import { loadPages } from '../src/decode.ts'
import { evaluatePrompt } from '../src/evaluate.ts'
import { History } from '../src/history.ts'
import {
  decode,
  generate,
  LlamaModel,
  resolveSampling,
  type Generation,
  type LoadOptions,
} from '../src/index.ts'
import type { Slot } from '../src/model.ts'
import { saveState, StateMemory } from '../src/state/scratch.ts'
import { architectures, tinyArchitecture, unknown, window } from './support/architectures.ts'
import { writeGguf } from './support/gguf.ts'
import { move } from './support/move.ts'

let folder: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kvx-caches-'))
  vi.stubEnv('KVX_CACHE', join(folder, 'cache'))
})

afterAll(async () => {
  vi.unstubAllEnvs()
  await rm(folder, { recursive: true, force: true })
})

const answerTokens = 12
const greedy = { ignoreEos: true }

/** Every token depends on its place, so that no two parts of a prompt are alike. */
function promptOf(length: number, seed: number): number[] {
  return Array.from({ length }, (_, i) => 3 + ((i * i * 31 + i * 17 + seed * 101) % 350))
}

interface Answer {
  /** Of llama.cpp, when the sequence holds the prompt. */
  readonly before: Buffer
  readonly tokens: readonly number[]
  /** When it also holds the answer but for its last token. */
  readonly after: Buffer
}

/** Fills a sequence with a prompt, and answers greedily. */
async function answer(
  model: LlamaModel,
  prompt: readonly number[],
  fill: (slot: Slot) => Promise<number>,
): Promise<Answer> {
  const slot = await model.slots.acquire()
  try {
    const first = await fill(slot)
    const before = await saveState(slot.sequence, new StateMemory(), 2 ** 24)
    const sampling = resolveSampling(greedy, model.vocabularySize)
    const history = new History(prompt, answerTokens)
    const tokens = [first]
    history.push(first)
    while (tokens.length < answerTokens) {
      const { chosen } = await slot.sampler.next(tokens.slice(-1), [sampling], history)
      const [{ token }] = chosen
      history.push(token)
      tokens.push(token)
    }
    return { before, tokens, after: await saveState(slot.sequence, new StateMemory(), 2 ** 24) }
  } finally {
    await slot.sequence.clearHistory()
    model.slots.release(slot)
  }
}

/** In one process: the whole prompt in one piece. */
function alone(model: LlamaModel, prompt: readonly number[]): Promise<Answer> {
  const sampling = resolveSampling(greedy, model.vocabularySize)
  const { chunkTokens } = model
  const work = { tokens: prompt, chunkTokens, samplings: [sampling], signal: undefined } as const
  return answer(model, prompt, async (slot) => {
    const { first } = await evaluatePrompt(model, slot, work)
    return first[0].token
  })
}

/** Parts with their units and bytes per unit, which all layers have, and the layers. */
function described({ name, addressed, window, tensors }: ComponentShape): string {
  const layers = [...new Set(tensors.map(({ layer }) => layer))]
  const of = (layer: number) =>
    tensors
      .filter((tensor) => tensor.layer === layer)
      .map(({ part, units, unitBytes }) => `${part} ${String(units)}·${String(unitBytes)}`)
      .join(', ')
  const [parts, ...others] = new Set(layers.map(of))
  expect(others).toEqual([])
  const size = window === undefined ? '' : ` (${String(window)} tokens)`
  return `${name} by ${addressed}${size}: ${parts ?? ''}; layers ${layers.join(' ')}`
}

/** From the sizes of the models: heads of 16 elements, or of 8, of two bytes; states of four. */
const wide = 'k 2·32, v 2·32'
const narrow = 'k 2·16, v 2·16'
const channels = 'mamba by request: conv.x 64·12, ssm 64·64'
const headed = 'mamba by request: conv.x 4·192, conv.b 2·192, conv.c 2·192, ssm 4·1024'
const expectedComponents: Record<keyof typeof architectures, string[]> = {
  gemma2: [`kv by tokens: ${wide}; layers 1 3`, `swa by tokens (24 tokens): ${wide}; layers 0 2`],
  gemma3: [
    `kv by tokens: ${wide}; layers 5`,
    `swa by tokens (24 tokens): ${wide}; layers 0 1 2 3 4 6`,
  ],
  cohere2: [
    `kv by tokens: ${narrow}; layers 3`,
    `swa by tokens (24 tokens): ${narrow}; layers 0 1 2`,
  ],
  olmo2: [
    `kv by tokens: ${narrow}; layers 3`,
    `swa by tokens (24 tokens): ${narrow}; layers 0 1 2`,
  ],
  'gpt-oss': [
    `kv by tokens: ${wide}; layers 1 3`,
    `swa by tokens (24 tokens): ${wide}; layers 0 2`,
  ],
  phi3: [`kv by tokens: ${narrow}; layers 0 1`],
  deepseek2: ['kv by tokens: latent 1·80; layers 0 1'],
  mamba: [`${channels}; layers 0 1`],
  mamba2: [`${headed}; layers 0 1`],
  jamba: [`kv by tokens: ${narrow}; layers 2`, `${channels}; layers 0 1 3`],
  granitehybrid: [`kv by tokens: ${wide}; layers 1`, `${headed}; layers 0 2`],
  'falcon-h1': [`kv by tokens: ${wide}; layers 0 1`, `${headed}; layers 0 1`],
  nemotron_h: [`kv by tokens: ${wide}; layers 2`, `${headed}; layers 0 3`],
}

async function collect(generation: Generation): Promise<number[]> {
  const tokens: number[] = []
  for await (const token of generation) tokens.push(token)
  return tokens
}

const names = Object.keys(architectures) as (keyof typeof architectures)[]

describe.each(names)('%s', (name) => {
  const opened: LlamaModel[] = []
  const pools = new Map<string, LlamaModel>()
  let one: LlamaModel

  const open = async (options: Partial<LoadOptions>): Promise<LlamaModel> => {
    const model = await LlamaModel.load({
      ...{ path: join(folder, `${name}.gguf`), contextLength: 400 },
      ...options,
    })
    opened.push(model)
    return model
  }

  /**
   * A model with a pool: the same for the same use. Its chunks are so small that a window's cells would be used again, if
   * llama.cpp did not keep them all.
   */
  const pooled = async (use: string, pageTokens: number): Promise<LlamaModel> => {
    const model =
      pools.get(use) ?? (await open({ pages: 120, pageTokens, stateSlots: 2, chunkTokens: 100 }))
    pools.set(use, model)
    return model
  }

  beforeAll(async () => {
    await writeFile(join(folder, `${name}.gguf`), writeGguf(tinyArchitecture(architectures[name])))
    one = await open({})
  })

  afterAll(async () => {
    await Promise.all(opened.map((model) => model.dispose()))
  })

  test('a shape and a place that say what is where', async () => {
    const { shape, rank, place, bytes } = (await pooled('prefill 16', 16)).cache
    checkShape(shape)
    checkPlace(shape, rank, place, [bytes])
    expect(shape.components.map(described)).toEqual(expectedComponents[name])
  })

  describe.each([
    ['equal pages', 16, 16],
    ['larger pages at prefill', 16, 4],
    ['larger pages at decode', 4, 32],
  ])('with %s', (_, prefillTokens, decodeTokens) => {
    let prefiller: LlamaModel
    let decoder: LlamaModel

    beforeAll(async () => {
      prefiller = await pooled(`prefill ${String(prefillTokens)}`, prefillTokens)
      decoder = await pooled(`decode ${String(decodeTokens)}`, decodeTokens)
    })

    test.each([
      ['much shorter than the window', 5, 100],
      ['one shorter than the window', window - 1, 7],
      ['as long as the window', window, 100],
      ['one longer than the window', window + 1, 16],
      ['longer than the window and its page', 63, 10],
      ['of whole pages, far longer than the window', 320, 64],
      ['far longer than the window', 333, 100],
    ])('a prompt %s', async (_, length, chunkTokens) => {
      const prompt = promptOf(length, 1)
      const expected = await alone(one, prompt)
      decoder.memory.view?.(0, decoder.memory.bytes).fill(0x3c)

      const moved = await move(prefiller, decoder, prompt, { chunkTokens })
      for (const { moved: found, expected: wanted } of Object.values(moved.units)) {
        expect(found).toBe(wanted)
      }
      const found = await answer(decoder, prompt, async (slot) => {
        await loadPages(decoder, slot, prompt, moved.pages)
        return moved.firstToken
      })
      expect(found.before.equals(expected.before)).toBe(true)
      expect(found.tokens).toEqual(expected.tokens)
      expect(found.after.equals(expected.after)).toBe(true)

      for (const { name: withheld } of decoder.cache.shape.components) {
        decoder.memory.view?.(0, decoder.memory.bytes).fill(0)
        const { pages, firstToken } = await move(prefiller, decoder, prompt, {
          chunkTokens,
          withheld,
        })
        const other = await answer(decoder, prompt, async (slot) => {
          await loadPages(decoder, slot, prompt, pages)
          return firstToken
        })
        expect(other.before.equals(expected.before)).toBe(false)
        expect(other.tokens).not.toEqual(expected.tokens)
        expect(other.after.equals(expected.after)).toBe(false)
      }
    })
  })

  test('what another prompt left in the same pages is no part of the next one, in any sequence, and requests that run together are as alone', async () => {
    const prefiller = await pooled('prefill 16', 16)
    const decoder = await open({ pages: 60, sequences: 3 })
    await move(prefiller, decoder, promptOf(350, 3))
    for (const seed of [1, 2, 3]) {
      const prompt = promptOf(90, seed)
      const moved = await move(prefiller, decoder, prompt, { chunkTokens: 20 })
      const request = { tokens: prompt, ...moved, maxTokens: answerTokens, sampling: greedy }
      const tokens = await collect(decode(decoder, request))
      expect(tokens).toEqual((await alone(one, prompt)).tokens)
    }

    const prompts = [promptOf(40, 4), promptOf(75, 5), promptOf(9, 6), promptOf(50, 7)]
    const run = (tokens: number[]) =>
      collect(generate(decoder, { tokens, maxTokens: answerTokens, sampling: greedy }))
    const together = await Promise.all(prompts.map(run))
    const each: (readonly number[])[] = []
    for (const prompt of prompts) each.push((await alone(one, prompt)).tokens)
    expect(together).toEqual(each)
  })
})

test.each([
  ['plamo3', 'it has sliding-window attention of a kind that kvx does not know'],
  ['lfm2', 'it keeps a recurrent state of a kind that kvx does not know'],
] as const)('%s is refused: %s', async (name, reason) => {
  const path = join(folder, `${name}.gguf`)
  await writeFile(path, writeGguf(tinyArchitecture(unknown[name])))
  await expect(LlamaModel.load({ path, contextLength: 64 })).rejects.toMatchObject({
    code: 'ERR_KVX_MODEL',
    message: expect.stringContaining(`The model (${name}) cannot be served in pages: ${reason}`),
  })
})
