import type {
  Llama,
  LlamaContext,
  LlamaContextSequence,
  LlamaModel as Weights,
  Token,
} from 'node-llama-cpp'
import { KvxError, isKvxError, silentLog, type Memory } from '@kvx/contract'
import { allocate } from '@kvx/native'
import { llamaCpp } from './binding.ts'
import { cacheOf, type ModelCache } from './cache.ts'
import { Turns } from './turns.ts'
import { refused } from './models/gguf.ts'
import { identityOf } from './models/identity.ts'
import { readModel, type ModelPart } from './models/parts.ts'
import { checkUnchanged } from './models/remember.ts'
import { cacheSettings, cellsFor } from './models/settings.ts'
import { tryModel } from './models/trial.ts'
import type { LoadOptions } from './options.ts'
import { Slots } from './queue.ts'
import { Sampler } from './sampler.ts'
import type { ResolvedSampling } from './sampling.ts'
import { checkState, describeState, type Place } from './state/blob.ts'
import {
  geometryOf,
  hasWindow,
  knowsState,
  unsupported,
  withKeyDtype,
  type Geometry,
} from './state/geometry.ts'
import { saveState, StateMemory } from './state/scratch.ts'
import { Aside } from './text/aside.ts'
import { ChatTemplate } from './text/chat.ts'
import { StreamingDetokenizer } from './text/detokenizer.ts'
import { Vocabulary } from './text/vocabulary.ts'

/** A text of so many bytes is tokenized within a few milliseconds, whatever it says. */
const shortBytes = 4096

/** One sequence of the context: what a request holds while it computes. */
export interface Slot {
  readonly sequence: LlamaContextSequence
  /** What evaluates in this sequence. */
  readonly sampler: Sampler
  readonly place: Place
}

/**
 * A model in memory, with the sequences of one llama.cpp context and a pool of pages outside it.
 *
 * Flash attention is off: with it, the bits of a cache depend on how the prompt was cut into chunks. llama.cpp keeps the
 * whole of a sliding window's cache, for the same reason: cells that are used again would change the order of sums.
 */
export class LlamaModel {
  /** Identifies the weights: a digest over all content of the file, or of all parts of a split one. */
  readonly id: string
  /** As the model's file names it, such as `llama`. */
  readonly architecture: string
  readonly geometry: Geometry
  /** What it keeps of a prompt, and where its pool keeps that. */
  readonly cache: ModelCache
  readonly contextLength: number
  readonly chunkTokens: number
  readonly vocabulary: Vocabulary
  /** For `prefill`, `decode` and `generate`. */
  readonly slots: Slots<Slot>
  readonly turns = new Turns()
  /** Held by the one request that is being prefilled. */
  readonly prefillTurn = new Slots<true>([true])
  /** What the states of one prompt are saved through, and those of others loaded. */
  readonly saving = new Slots([new StateMemory()])
  readonly loading = new Slots([new StateMemory()])
  readonly #llama: Llama
  readonly #weights: Weights
  readonly #pool: (Memory & { free(): void }) | undefined
  readonly #samplers: readonly Sampler[]
  readonly #aside: Aside
  #chatTemplate: ChatTemplate | undefined
  #disposed: Promise<void> | undefined

  /**
   * @throws KvxError `ERR_KVX_MODEL` (missing, damaged or unsupported file), `ERR_KVX_MEMORY`,
   *   `ERR_KVX_INVALID_OPTION`
   */
  static async load(options: LoadOptions): Promise<LlamaModel> {
    const parts = await readModel(options.path)
    const id = await identityOf(parts, options.onProgress)
    const { path, contextLength, sequences, chunkTokens, threads, kvCacheDtype } = options
    await tryModel(parts, { path, contextLength, sequences, chunkTokens, threads, kvCacheDtype })
    return LlamaModel.open(options, parts, id)
  }

  /**
   * `load` without the trial: llama.cpp may end the process.
   *
   * @internal
   */
  static async open(
    options: LoadOptions,
    parts: readonly ModelPart[],
    id: string,
  ): Promise<LlamaModel> {
    const log = options.log ?? silentLog
    const { path } = options
    const sequences = whole('sequences', options.sequences ?? 1, 1)
    const chunkTokens = whole('chunkTokens', options.chunkTokens ?? 512, 2)
    const pageTokens = whole('pageTokens', options.pageTokens ?? 16, 1)
    const threads = whole('threads', options.threads ?? 1, 1)
    const { kvCacheDtype = 'f16' } = options

    const complaints: string[] = []
    const { getLlama, LlamaLogLevel } = await llamaCpp()
    const llama = await getLlama({
      gpu: false,
      build: 'never',
      skipDownload: true,
      progressLogs: false,
      maxThreads: threads,
      logLevel: LlamaLogLevel.warn,
      logger(level, message) {
        const isError = level === LlamaLogLevel.error || level === LlamaLogLevel.fatal
        if (isError && complaints.length < 20) complaints.push(message.trim())
        log[isError ? 'error' : 'debug']({ source: 'llama.cpp' }, message.trim())
      },
    }).catch((cause: unknown) => {
      throw new KvxError(
        'ERR_KVX_MODEL',
        `llama.cpp could not be started: ${String(cause)}. It comes with the npm packages @node-llama-cpp/*, of which the one for this processor must be there.`,
        { cause, phase: 'open' },
      )
    })
    try {
      const weights = await llama.loadModel({
        modelPath: path,
        gpuLayers: 0,
        useMmap: true,
        defaultContextFlashAttention: false,
      })
      await checkUnchanged(parts)
      const geometry = withKeyDtype(supportedGeometry(weights), kvCacheDtype)
      const contextLength = contextOf(weights, options.contextLength)
      const wanted = options.pages ?? 0
      const pages = whole('pages', typeof wanted === 'number' ? wanted : wanted(contextLength), 0)
      const stateSlots = whole('stateSlots', options.stateSlots ?? (pages > 0 ? sequences : 0), 0)
      const context = await weights.createContext({
        contextSize: cellsFor(contextLength),
        sequences,
        // A chunk, and a token of every sequence: nothing is ever cut.
        batchSize: Math.min(chunkTokens, contextLength) + 1 + sequences,
        flashAttention: false,
        swaFullCache: true,
        experimentalKvCacheKeyType: kvCacheDtype === 'f16' ? 'F16' : 'Q8_0',
        experimentalKvCacheValueType: 'F16',
        threads,
        failedCreationRemedy: false,
      })
      const slots = takeSequences(weights, context, sequences)
      await verifyStates(weights, geometry, slots)
      const settings = cacheSettings(
        parts,
        contextLength,
        weights.trainContextSize,
        llama.llamaCppRelease.release,
      )
      const cache = cacheOf(geometry, id, settings, { pageTokens, pages, slots: stateSlots })
      const pool = cache.bytes > 0 ? allocate(cache.bytes) : undefined
      return new LlamaModel(llama, weights, {
        path,
        id,
        geometry,
        cache,
        contextLength,
        chunkTokens,
        slots,
        pool,
      })
    } catch (cause) {
      await llama.dispose()
      if (isKvxError(cause)) throw cause
      const reason = [cause instanceof Error ? cause.message : String(cause), ...complaints].join(
        '; ',
      )
      throw refused(path, `could not be loaded: ${reason}.`, cause)
    }
  }

  private constructor(
    llama: Llama,
    weights: Weights,
    parts: {
      path: string
      id: string
      geometry: Geometry
      cache: ModelCache
      contextLength: number
      chunkTokens: number
      slots: readonly Slot[]
      pool: (Memory & { free(): void }) | undefined
    },
  ) {
    this.#llama = llama
    this.#weights = weights
    this.id = parts.id
    this.architecture = weights.architecture
    this.geometry = parts.geometry
    this.cache = parts.cache
    this.contextLength = parts.contextLength
    this.chunkTokens = parts.chunkTokens
    this.vocabulary = new Vocabulary(weights)
    this.#aside = new Aside(parts.path, this.vocabulary.size)
    this.slots = new Slots(parts.slots)
    this.#samplers = parts.slots.map(({ sampler }) => sampler)
    this.#pool = parts.pool
  }

  get vocabularySize(): number {
    return this.vocabulary.size
  }

  /**
   * The memory of the pool, the only region of `cache.place`.
   *
   * @throws KvxError `ERR_KVX_INVALID_STATE` when the model was loaded without pages
   */
  get memory(): Memory {
    if (!this.#pool) {
      throw new KvxError('ERR_KVX_INVALID_STATE', 'The model was loaded without pages.')
    }
    return this.#pool
  }

  /** Special tokens in the text are recognised; begins with the BOS token when the model wants one. */
  tokenize(text: string): number[] {
    return this.#withBos(this.#weights.tokenize(text, true))
  }

  /**
   * As `tokenize`, for a text of any length: what has more tokens than the context is refused, before it is
   * tokenized where its length alone tells, and a long text is tokenized in another process.
   *
   * @throws KvxError `ERR_KVX_INVALID_ARGUMENT` when the text is too long, `ERR_KVX_OVER_LIMIT` when too many
   *   wait, `ERR_KVX_TIMEOUT`, `ERR_KVX_MODEL`, `ERR_KVX_ABORTED`, `ERR_KVX_CLOSED`
   */
  async tokenizePrompt(text: string, signal?: AbortSignal): Promise<number[]> {
    const bytes = Buffer.byteLength(text)
    const refuse = (what: string): never => {
      throw new KvxError(
        'ERR_KVX_INVALID_ARGUMENT',
        `The prompt has ${what}; the context length is ${String(this.contextLength)}. Shorten the prompt.`,
      )
    }
    if (this.vocabulary.tellsMoreThan(this.contextLength, text)) {
      refuse(`${String(bytes)} bytes, and therefore more than ${String(this.contextLength)} tokens`)
    }
    if (bytes <= shortBytes) return this.tokenize(text)
    const enough = this.contextLength + 1
    const tokens = await this.#aside.tokenize(text, enough, signal)
    if (tokens.length >= enough) refuse(`${String(enough)} tokens or more`)
    return this.#withBos(Array.from(tokens))
  }

  #withBos(tokens: number[]): number[] {
    const { bos, shouldPrependBosToken } = this.#weights.tokens
    return shouldPrependBosToken && bos !== null && tokens[0] !== bos ? [bos, ...tokens] : tokens
  }

  /** Special tokens have no text. A blank that the tokenizer puts before every text is not given back. */
  detokenize(tokens: readonly number[]): string {
    const detokenizer = this.detokenizer()
    return tokens.map((token) => detokenizer.push(token)).join('') + detokenizer.flush()
  }

  /** For what follows these tokens: the text of both together is that of these tokens and what it gives. */
  detokenizer(before: readonly number[] = []): StreamingDetokenizer {
    const bytesOf = (token: number) => this.vocabulary.bytes(token)
    const first = !before.some((token) => bytesOf(token).length > 0)
    return new StreamingDetokenizer(bytesOf, first && this.vocabulary.addsBlank)
  }

  /**
   * The template that the model brings for conversations.
   *
   * @throws KvxError `ERR_KVX_INVALID_ARGUMENT` when it brings none, `ERR_KVX_MODEL` when that cannot be read
   */
  get chatTemplate(): ChatTemplate {
    this.#chatTemplate ??= this.#readChatTemplate()
    return this.#chatTemplate
  }

  #readChatTemplate(): ChatTemplate {
    const { tokenizer } = this.#weights.fileInfo.metadata
    const source = tokenizer.chat_template
    if (source === undefined) {
      throw new KvxError(
        'ERR_KVX_INVALID_ARGUMENT',
        'This model has no chat template: send a prompt to /v1/completions instead.',
        { phase: 'open' },
      )
    }
    const { bosString, eosString } = this.#weights.tokens
    return new ChatTemplate(source, { bos: bosString ?? '', eos: eosString ?? '' })
  }

  /** Whether the model ends its answers with this token. */
  isEog(token: number): boolean {
    return this.#weights.isEogToken(token as Token)
  }

  /** Whether the token ends the answer to a request. */
  endsAnswer(
    token: number,
    { stopTokenIds, ignoreEos }: Pick<ResolvedSampling, 'stopTokenIds' | 'ignoreEos'>,
  ): boolean {
    return stopTokenIds.has(token) || (!ignoreEos && this.isEog(token))
  }

  /**
   * Refuses a request that could not be computed.
   *
   * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`
   */
  checkRequest(tokens: readonly number[], maxTokens: number): void {
    const refuse = (why: string): never => {
      throw new KvxError('ERR_KVX_INVALID_ARGUMENT', why)
    }
    if (tokens.length === 0) refuse('The prompt is empty. It needs at least one token.')
    const foreign = tokens.find(
      (id) => !Number.isInteger(id) || id < 0 || id >= this.vocabularySize,
    )
    if (foreign !== undefined) {
      refuse(
        `The prompt has the token id ${String(foreign)}; this model knows 0 to ${String(this.vocabularySize - 1)}.`,
      )
    }
    if (!Number.isSafeInteger(maxTokens) || maxTokens < 1) {
      refuse(`max_tokens is ${String(maxTokens)}, but must be a whole number of at least 1.`)
    }
    if (tokens.length >= this.contextLength) {
      refuse(
        `The prompt has ${String(tokens.length)} tokens, and the context length is ${String(this.contextLength)}: there is no room for an answer. Shorten the prompt.`,
      )
    }
    if (tokens.length + maxTokens > this.contextLength) {
      refuse(
        `The prompt has ${String(tokens.length)} tokens, and max_tokens is ${String(maxTokens)}: together more than the context length of ${String(this.contextLength)}. Shorten the prompt or lower max_tokens.`,
      )
    }
  }

  /**
   * Fails what runs, waits for llama.cpp to come to rest, and frees everything, the pool included: the
   * transfer engine must be closed before. Idempotent.
   */
  dispose(): Promise<void> {
    this.#disposed ??= (async () => {
      this.slots.close()
      this.prefillTurn.close()
      // The turns at once: what runs must not get another turn while the other process ends.
      await Promise.all([this.turns.close(), this.#aside.close()])
      for (const scratch of [this.saving, this.loading]) {
        const memory = await scratch.acquire()
        scratch.close()
        memory.free()
      }
      for (const sampler of this.#samplers) sampler.dispose()
      await this.#llama.dispose()
      this.#pool?.free()
    })()
    return this.#disposed
  }
}

function supportedGeometry(weights: Weights): Geometry {
  const { architecture, fileInsights, fileInfo } = weights
  if (fileInsights.hasEncoder) throw unsupported(architecture, 'it has an encoder')
  const hasState = fileInsights.isRecurrent || fileInsights.isHybrid
  if (hasState && !knowsState(architecture)) {
    throw unsupported(architecture, 'it keeps a recurrent state of a kind that kvx does not know')
  }
  return geometryOf(architecture, fileInfo.architectureMetadata)
}

function contextOf(weights: Weights, wanted: number | undefined): number {
  const trained = weights.trainContextSize
  if (trained < 4) {
    throw unsupported(
      weights.architecture,
      `it was trained on ${String(trained)} tokens of context`,
    )
  }
  if (wanted === undefined) return Math.min(trained, 2048)
  const length = whole('contextLength', wanted, 4)
  if (length > trained) {
    throw new KvxError(
      'ERR_KVX_INVALID_OPTION',
      `contextLength is ${String(length)}, but the model was trained on ${String(trained)} tokens at most.`,
      { phase: 'open' },
    )
  }
  return length
}

function takeSequences(weights: Weights, context: LlamaContext, sequences: number): Slot[] {
  const ids = Array.from({ length: vocabularySize(weights) }, (_, id) => id)
  const endIds = ids.filter((id) => weights.isEogToken(id as Token))
  // A context hands out its sequences in the order of their numbers, and each has a stream of its own.
  return Array.from({ length: sequences }, (_, index) => {
    const sequence = context.getSequence()
    return {
      sequence,
      sampler: new Sampler(weights, sequence, endIds),
      place: { streams: sequences, stream: index, sequence: index },
    }
  })
}

/** Two tokens are computed and saved, to see that states really are as this package reads and writes them. */
async function verifyStates(
  weights: Weights,
  geometry: Geometry,
  slots: readonly Slot[],
): Promise<void> {
  const slot = slots.at(-1)
  if (!slot) return
  const tokens = [0, 0]
  await slot.sampler.evaluate(tokens)
  const described = describeState(geometry, tokens, slot.place, 'saved')
  const memory = new StateMemory()
  try {
    const blob = await saveState(slot.sequence, memory, described.bytes)
    checkState(blob, described)
  } catch (cause) {
    const found = cause instanceof Error ? cause.message : String(cause)
    const windows = weights.fileInfo.architectureMetadata.attention?.sliding_window
    const isForeign = (windows ?? 0) > 0 && !hasWindow(geometry)
    const why = isForeign
      ? 'it has sliding-window attention of a kind that kvx does not know'
      : 'its cache is not laid out as expected'
    throw unsupported(weights.architecture, `${why} (${found})`)
  } finally {
    memory.free()
  }
  await slot.sequence.clearHistory()
}

function vocabularySize(weights: Weights): number {
  const { tokens } = weights.fileInfo.metadata.tokenizer.ggml
  return tokens.length
}

function whole(name: string, value: number, least: number): number {
  if (Number.isSafeInteger(value) && value >= least) return value
  throw new KvxError(
    'ERR_KVX_INVALID_OPTION',
    `${name} is ${String(value)}, but must be a whole number of at least ${String(least)}.`,
    { phase: 'open' },
  )
}
