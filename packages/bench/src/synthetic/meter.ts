/** What writes cost a rank: it stands before the engine, and counts. */
import type { Backend } from '@kvx/contract'
import { instead } from '../instead.ts'

export interface Cost {
  /** Contiguous pieces that were handed to the engine. */
  readonly operations: number
  /** Calls of `write` at the engine. */
  readonly writes: number
  /** Milliseconds for which these calls held up the thread of JavaScript. */
  readonly postMs: number
  /** Milliseconds of processor time, of all threads of the process. */
  readonly cpuMs: number
}

export class Meter {
  #operations = 0
  #writes = 0
  #postMs = 0

  /** The same backend, whose writes are counted. */
  over(backend: Backend): Backend {
    return instead(backend, 'open', async (...given: Parameters<Backend['open']>) => {
      const engine = await backend.open(...given)
      return instead(engine, 'connect', async (...peer: Parameters<typeof engine.connect>) => {
        const link = await engine.connect(...peer)
        return instead(link, 'write', (...write: Parameters<typeof link.write>) => {
          const began = performance.now()
          const transfer = link.write(...write)
          this.#postMs += performance.now() - began
          this.#writes++
          transfer.done.then(
            ({ segments }) => {
              this.#operations += segments
            },
            () => undefined,
          )
          return transfer
        })
      })
    })
  }

  /** Since it was made. */
  read(): Cost {
    const { user, system } = process.cpuUsage()
    const [operations, writes, postMs] = [this.#operations, this.#writes, this.#postMs]
    return { operations, writes, postMs, cpuMs: (user + system) / 1_000 }
  }
}

/** Of several ranks, or between two readings of one. */
export function costOf(more: readonly Cost[], less: readonly Cost[] = []): Cost {
  const total = (of: (cost: Cost) => number): number =>
    more.reduce((sum, cost) => sum + of(cost), 0) - less.reduce((sum, cost) => sum + of(cost), 0)
  return {
    operations: total(({ operations }) => operations),
    writes: total(({ writes }) => writes),
    postMs: total(({ postMs }) => postMs),
    cpuMs: total(({ cpuMs }) => cpuMs),
  }
}
