/**
 * Whether this worker could serve a request now: it computes a prompt of one token, and moves its cache through its own engine to or
 * from a partner of its own, the other side of a transfer in the same process with room for that prompt alone.
 */
import {
  BootstrapServer,
  KVManager,
  neededPages,
  promptDigest,
  type DecodeManager,
  type DecodeOptions,
  type PrefillManager,
} from '@kvx/core'
import { silentLog } from '@kvx/contract'
import { resized, resolveSampling, type LlamaModel } from '@kvx/llama'
import { allocate } from '@kvx/native'
import type { Transferred } from '../answers/rendering.ts'
import { randomRoom } from '../http/room.ts'
import { auxOf } from './beginning.ts'
import type { Call } from './call.ts'
import { Cleanup } from './cleanup.ts'
import type { CachePools } from './cache-pools.ts'
import { exhaust } from './compute.ts'
import { receivePrompt } from './decode.ts'
import { byAddress } from './pages.ts'
import { sendPrompt } from './prefill.ts'
import type { Strangers } from './strangers.ts'

/** Nothing of a check is counted. */
const nobody = { transferFailed: () => undefined }

/** Milliseconds in which it has to be done. */
const checkMs = 20_000

/** What a partner is opened with: what the worker's own manager is, but for memory, place and role. */
export type PartnerOptions = Omit<
  DecodeOptions,
  'role' | 'memory' | 'place' | 'deadlines' | 'limits' | 'verifyKV'
>

interface Side<Manager> {
  readonly model: LlamaModel
  readonly manager: Manager
  readonly pools: CachePools
}

type Check = (call: Call) => Promise<Transferred | undefined>

export class SelfCheck {
  readonly #open: (cleanup: Cleanup) => Promise<Check>
  readonly #model: LlamaModel
  readonly #cleanup = new Cleanup()
  #check: Promise<Check> | undefined
  #running: Promise<Transferred | undefined> | undefined

  private constructor(model: LlamaModel, open: (cleanup: Cleanup) => Promise<Check>) {
    this.#model = model
    this.#open = open
  }

  /** Of a worker that does both halves without a transfer. */
  static alone(model: LlamaModel, generate: (call: Call) => Promise<void>): SelfCheck {
    return new SelfCheck(model, () =>
      Promise.resolve(async (call) => {
        await generate(call)
        return undefined
      }),
    )
  }

  /** @param bootstrap the worker's own bootstrap service */
  static prefill(
    side: Side<PrefillManager>,
    bootstrap: string,
    options: PartnerOptions,
  ): SelfCheck {
    const { model } = side
    return new SelfCheck(model, async (cleanup) => {
      const { place, memory } = pool(model, cleanup)
      const partner = await KVManager.open({ ...options, place, memory, role: 'decode' })
      cleanup.add(() => partner.close())
      return async (call) => {
        const { room = 0n } = call.bootstrap
        const { tokens, digest } = prompt(call)
        const receiver = partner.receive(room, { from: bootstrap, tokens, digest })
        try {
          await receiver.reserve(pagesOf(model, tokens), { signal: call.signal })
          const uncounted = { ...side, metrics: nobody, queueMs: checkMs }
          const [{ transfer }] = await Promise.all([
            sendPrompt(uncounted, call, room),
            receiver.done,
          ])
          return transfer
        } finally {
          receiver.abort() // does nothing after the end
          await receiver.settled
        }
      }
    })
  }

  static decode(
    side: Side<DecodeManager> & { readonly strangers: Strangers },
    options: PartnerOptions,
  ): SelfCheck {
    const { model } = side
    return new SelfCheck(model, async (cleanup) => {
      const { place, memory } = pool(model, cleanup)
      const { token, log = silentLog } = options
      const service = await BootstrapServer.open({ host: '127.0.0.1', port: 0, token, log })
      cleanup.add(() => service.close())
      const bootstrap = service.address
      const partner = await KVManager.open({
        ...options,
        place,
        memory,
        role: 'prefill',
        bootstrap,
      })
      cleanup.add(() => partner.close())
      return async (call) => {
        const { room = 0n } = call.bootstrap
        const sent = send(partner, model, call, room)
        sent.catch(() => undefined)
        const uncounted = { ...side, metrics: nobody, queueMs: checkMs }
        let transfer: Transferred | undefined
        await receivePrompt(
          uncounted,
          call,
          room,
          () => Promise.resolve(bootstrap),
          async (given) => {
            await exhaust(given)
            ;({ transfer } = given)
          },
        )
        await sent
        return transfer
      }
    })
  }

  /**
   * Callers at the same time share one check.
   * @returns what moved; undefined where nothing does
   * @throws KvxError with what a request would have failed with
   */
  run(): Promise<Transferred | undefined> {
    this.#running ??= this.#run().finally(() => {
      this.#running = undefined
    })
    return this.#running
  }

  async #run(): Promise<Transferred | undefined> {
    // What could not be opened is tried anew with the next check.
    this.#check ??= this.#open(this.#cleanup).catch(async (cause: unknown) => {
      this.#check = undefined
      await this.#cleanup.run()
      throw cause
    })
    const check = await this.#check
    const tokens = this.#model.tokenize('a').slice(0, 1)
    return check({
      ...{ tokens, samples: 1, maxTokens: 2, sampling: resolveSampling({ ignoreEos: true }) },
      scoredFrom: undefined,
      bootstrap: { host: undefined, port: undefined, room: randomRoom() },
      signal: AbortSignal.timeout(checkMs),
      events: () => undefined,
    })
  }

  close(): Promise<void> {
    return this.#cleanup.run()
  }
}

/** Memory for one short prompt, and where what lies in it. */
function pool(model: LlamaModel, cleanup: Cleanup) {
  const { place, bytes } = resized(model.cache, { pages: 1, slots: 1 })
  const memory = allocate(bytes)
  cleanup.add(() => {
    memory.free()
    return Promise.resolve()
  })
  return { place, memory: [memory] }
}

const prompt = ({ tokens }: Call) => ({ tokens: tokens.length, digest: promptDigest(tokens) })

/** All that there is: one page, or slot, of each component. */
function pagesOf(model: LlamaModel, tokens: number) {
  const counts = Object.entries(neededPages(model.cache, { tokens }))
  const lists = counts.map(([name, count]) => [
    name,
    Int32Array.from({ length: count }, (_, i) => i),
  ])
  return byAddress(model, Object.fromEntries(lists) as Record<string, Int32Array>)
}

/** A cache of zeros, which nobody computed: what is checked is its way. */
async function send(
  partner: PrefillManager,
  model: LlamaModel,
  call: Call,
  room: bigint,
): Promise<void> {
  const { signal, tokens } = call
  const sender = partner.send(room, prompt(call))
  try {
    await sender.reserved({ signal })
    const { pages, state } = pagesOf(model, tokens.length)
    if (Object.keys(pages).length > 0) {
      await sender.write({ tokens: [0, tokens.length], pages }, { signal })
    }
    await sender.finish(
      {
        state,
        aux: auxOf({
          firstTokens: [tokens[0] ?? 0],
          firstLogprobs: [],
          cachedTokens: 0,
          queueMs: 0,
        }),
      },
      { signal },
    )
  } finally {
    sender.abort() // does nothing after the end
    await sender.settled
  }
}
