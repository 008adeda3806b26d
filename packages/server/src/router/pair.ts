/** A request on its way through workers: two legs with one fate, or one leg that does both halves. */
import { writeFields } from '../http/json.ts'
import { randomRoom } from '../http/room.ts'
import { drain, legFailure, openLeg, type Answer } from './leg.ts'
import { wantsScores, withScores } from './scores.ts'
import type { PrefillWorker, Worker } from './workers.ts'

export interface Forwarded {
  readonly path: string
  /** Its fields as they were written. */
  readonly body: ReadonlyMap<string, string>
  readonly headers: Record<string, string>
  /** Aborted when nobody wants the answer any more. */
  readonly gone: AbortSignal
}

/** Passes an answer on; what it throws ends the request. */
type Deliver = (answer: Answer) => Promise<void>

/** The scores of the longest prompt have no more. */
const maxScoresBytes = 64 * 1024 * 1024

const bootstrapFields = ['bootstrap_host', 'bootstrap_port', 'bootstrap_room']

/**
 * Sends both legs at once and delivers decode's answer. Whatever fails first ends both.
 * @throws LegFailure; something else once the answer is being delivered
 */
export function throughPair(
  { path, body, headers, gone }: Forwarded,
  prefill: PrefillWorker,
  decode: Worker,
  deliver: Deliver,
): Promise<void> {
  return decode.during(async (decodeLost) => {
    const scored = wantsScores(path, body)
    const over = new AbortController()
    const either = AbortSignal.any([gone, over.signal])
    try {
      const port = await prefill.port(either).catch((cause: unknown) => {
        throw legFailure(prefill, cause)
      })
      // The bytes of both legs are the same ones.
      const bytes = Buffer.from(
        writeFields(
          new Map([
            ...body,
            ['bootstrap_host', JSON.stringify(prefill.host)],
            ['bootstrap_port', String(port)],
            ['bootstrap_room', String(randomRoom())],
          ]),
        ),
      )
      const prefilled = prefill.during(async (lost) => {
        const signal = AbortSignal.any([either, lost])
        const sent = await openLeg(prefill, path, bytes, headers, signal)
        return drain(prefill, sent, scored ? maxScoresBytes : undefined)
      })
      const signal = AbortSignal.any([either, decodeLost])
      const answer = openLeg(decode, path, bytes, headers, signal)
      // Each may fail after the other has decided the race; that failure is then nobody's news.
      prefilled.catch(() => undefined)
      answer.catch(() => undefined)
      // Decode's first byte means that the cache has arrived: prefill cannot spoil anything after it.
      await Promise.race([answer, prefilled.then(() => answer)])
      const received = await answer
      await deliver(scored ? withScores(received, prefilled) : received)
    } catch (cause) {
      over.abort(cause)
      throw cause
    }
  })
}

/** Has decode compute the prompt itself. Throws as `throughPair`. */
export function throughDecode(
  { path, body, headers, gone }: Forwarded,
  decode: Worker,
  deliver: Deliver,
): Promise<void> {
  const own = [...body].filter(([name]) => !bootstrapFields.includes(name))
  const bytes = Buffer.from(writeFields(new Map(own)))
  return decode.during(async (lost) => {
    const over = new AbortController()
    const signal = AbortSignal.any([gone, lost, over.signal])
    try {
      await deliver(await openLeg(decode, path, bytes, headers, signal))
    } catch (cause) {
      over.abort(cause)
      throw cause
    }
  })
}
