/** A process with a model: one that does everything, or prefill or decode with an engine between them. */
import { BootstrapServer, KVManager, neededPages, promptDigest } from '@kvx/core'
import { KvxError, silentLog } from '@kvx/contract'
import { decode, generate, LlamaModel, prefill, type Sampling } from '@kvx/llama'
import { answerAsked } from '../asked.ts'
import { randomOf, shuffle } from '../synthetic/random.ts'
import { digestsOf } from './digest.ts'

export interface HostOptions {
  readonly role: 'standalone' | 'prefill' | 'decode'
  /** A GGUF file. */
  readonly model: string
  readonly contextLength: number
  readonly chunkTokens: number
  readonly token: string
  readonly backend: string
  readonly backendOptions: Readonly<Record<string, unknown>>
  readonly from: string
}

export interface Prompt {
  readonly tokens: readonly number[]
  readonly maxTokens: number
  readonly sampling: Sampling
}

export interface Computed {
  readonly tokens: readonly number[]
  readonly text: string
  /** One of each tensor. */
  readonly digests: Readonly<Record<string, string>>
}

export type HostWord =
  | { readonly do: 'open'; readonly options: HostOptions }
  | { readonly do: 'tokenize'; readonly texts: readonly string[] }
  | { readonly do: 'compute'; readonly prompt: Prompt }
  | { readonly do: 'send'; readonly prompt: Prompt; readonly room: number }
  | {
      readonly do: 'receive'
      readonly prompt: Prompt
      readonly room: number
      readonly from: string
    }

const pageTokens = 16
/** Pages beside those of one prompt, so that its pages need not follow one another. */
const sparePages = 5

let model: LlamaModel
let manager: KVManager | undefined

/** @returns where prefill publishes itself */
async function open(options: HostOptions): Promise<{ bootstrap?: string }> {
  const { role, contextLength, chunkTokens, token, backend, backendOptions, from } = options
  model = await LlamaModel.load({
    ...{ path: options.model, contextLength, chunkTokens, pageTokens },
    pages: (length) => Math.ceil(length / pageTokens) + sparePages,
  })
  if (role === 'standalone') return {}
  const { shape, place } = model.cache
  const common = { backend, backendOptions, from, token, shape, place, memory: [model.memory] }
  if (role === 'decode') {
    manager = await KVManager.open({ ...common, role })
    return {}
  }
  const service = await BootstrapServer.open({ host: '127.0.0.1', port: 0, token, log: silentLog })
  manager = await KVManager.open({ ...common, role, bootstrap: service.address })
  return { bootstrap: service.address }
}

/** So many pages of each component, in an order that follows from `seed`; of what is kept by request a slot. */
function pagesFor(
  counts: Readonly<Record<string, number>>,
  seed: number,
): Record<string, Int32Array> {
  const random = randomOf(seed)
  return Object.fromEntries(
    Object.entries(counts).map(([name, count]) => {
      const { pages = 1 } = model.cache.place.components[name] ?? {}
      const all = shuffle(
        Int32Array.from({ length: pages }, (_, i) => i),
        random,
      )
      return [name, all.subarray(0, count)]
    }),
  )
}

function split(pages: Readonly<Record<string, Int32Array>>) {
  const isSlot = (name: string): boolean =>
    model.cache.shape.components.some((one) => one.name === name && one.addressed === 'request')
  const entries = Object.entries(pages)
  return {
    pages: Object.fromEntries(entries.filter(([name]) => !isSlot(name))),
    state: Object.fromEntries(entries.filter(([name]) => isSlot(name))),
  }
}

/** Pages for every token, also where decode needs only the last ones. */
function wholePages(tokens: number, seed: number): Record<string, Int32Array> {
  const counts = Object.entries(model.cache.place.components).map(([name, component]) => {
    return [name, component.pageTokens === undefined ? 1 : Math.ceil(tokens / component.pageTokens)]
  })
  return pagesFor(Object.fromEntries(counts) as Record<string, number>, seed)
}

/** What lies in these pages, which are the last ones of a prompt. */
function digests(
  tokens: number,
  pages: Readonly<Record<string, Int32Array>>,
): Record<string, string> {
  const { shape, rank, place } = model.cache
  const { memory } = model
  if (memory.view === undefined)
    throw new KvxError('ERR_KVX_MEMORY', 'The pool cannot be looked at.')
  const lists = Object.entries(pages).map(([name, list]): [string, Int32Array] => {
    const size = place.components[name]?.pageTokens
    if (size === undefined) return [name, list]
    const all = new Int32Array(Math.ceil(tokens / size)).fill(-1)
    all.set(list, all.length - list.length)
    return [name, all]
  })
  const view = memory.view(0, memory.bytes)
  return digestsOf({ shape, rank, place, memory: [view], pages: Object.fromEntries(lists) }, tokens)
}

async function compute({ tokens, maxTokens, sampling }: Prompt): Promise<Computed> {
  const answer: number[] = []
  for await (const token of generate(model, { tokens, maxTokens, sampling })) answer.push(token)
  const pages = wholePages(tokens.length, 1)
  await prefill(model, { tokens, pages, sampling })
  return { tokens: answer, text: model.detokenize(answer), digests: digests(tokens.length, pages) }
}

async function send({ tokens, sampling }: Prompt, room: number): Promise<void> {
  if (manager?.role !== 'prefill') throw new TypeError('only prefill sends')
  const sender = manager.send(BigInt(room), { tokens: tokens.length, digest: promptDigest(tokens) })
  try {
    await sender.reserved()
    const whole = wholePages(tokens.length, room)
    const { pages, state } = split(whole)
    const { firstToken } = await prefill(model, {
      ...{ tokens, sampling, pages: whole },
      onChunk: async ({ tokens: range }) => {
        const part = Object.entries(pages).map(([name, list]) => {
          const { pageTokens: size = 1 } = model.cache.place.components[name] ?? {}
          return [name, list.subarray(Math.floor(range[0] / size), Math.ceil(range[1] / size))]
        })
        await sender.write({
          tokens: range,
          pages: Object.fromEntries(part) as Record<string, Int32Array>,
        })
      },
    })
    await sender.finish({ state, aux: { firstToken } })
  } finally {
    sender.abort() // does nothing after the end
    await sender.settled
  }
}

async function receive(
  { tokens, maxTokens, sampling }: Prompt,
  room: number,
  from: string,
): Promise<Computed> {
  if (manager?.role !== 'decode') throw new TypeError('only decode receives')
  const digest = promptDigest(tokens)
  const receiver = manager.receive(BigInt(room), { from, tokens: tokens.length, digest })
  try {
    const taken = pagesFor(neededPages(model.cache, { tokens: tokens.length }), room + 1)
    await receiver.reserve(split(taken))
    const { aux } = await receiver.done
    await receiver.settled
    const { firstToken } = aux
    if (firstToken === undefined)
      throw new KvxError('ERR_KVX_PROTOCOL', 'Prefill sent no first token.')
    const found = digests(tokens.length, taken)
    const answer: number[] = []
    const request = { tokens, pages: taken, firstToken, maxTokens, sampling }
    for await (const token of decode(model, request)) answer.push(token)
    return { tokens: answer, text: model.detokenize(answer), digests: found }
  } finally {
    receiver.abort() // does nothing after the end
    await receiver.settled
  }
}

answerAsked(async (word: HostWord) => {
  switch (word.do) {
    case 'open':
      return open(word.options)
    case 'tokenize':
      return word.texts.map((text) => model.tokenize(text))
    case 'compute':
      return compute(word.prompt)
    case 'send':
      return send(word.prompt, word.room)
    case 'receive':
      return receive(word.prompt, word.room, word.from)
  }
})
