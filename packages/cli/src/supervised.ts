/** A process of `kvx up` that is started again when it dies, behind the same address. */
import { setTimeout as delay } from 'node:timers/promises'
import type { Child } from './children.ts'
import type { Ready } from './lifetime.ts'

/** Before it is started again: grows with every death that follows soon after a start. */
const pauseMs = { least: 250, most: 10_000 }
/** A process that was ready for so long had not died of its start. */
const soundMs = 10_000

export class Supervised {
  readonly name: string
  /** Resolves when it is ready for the first time; rejects when it ends before, and then it stays ended. */
  readonly ready: Promise<Ready>
  readonly #launch: (last: Ready | undefined) => Child
  readonly #tell: (text: string) => void
  readonly #stopping = new AbortController()
  readonly #running: Promise<void>
  #child: Child | undefined

  /**
   * @param launch starts it, at any free address, or at the one that it published last
   * @param tell is told what a person wants to know, in whole sentences
   */
  constructor(
    name: string,
    launch: (last: Ready | undefined) => Child,
    tell: (text: string) => void,
  ) {
    this.name = name
    this.#launch = launch
    this.#tell = tell
    let resolve: (ready: Ready) => void = () => undefined
    let reject: (cause: unknown) => void = () => undefined
    this.ready = new Promise((yes, no) => {
      resolve = yes
      reject = no
    })
    this.ready.catch(() => undefined)
    this.#running = this.#run(resolve, reject)
  }

  /** Lets what runs end, for at most `ms`; it is not started again. */
  async drain(ms: number): Promise<void> {
    this.#stopping.abort()
    const child = this.#child
    if (child === undefined) return
    const late = new AbortController()
    await Promise.race([
      child.ask('drain'),
      delay(ms, undefined, { signal: late.signal }).catch(() => undefined),
    ])
    late.abort()
  }

  /** Ends it; it is not started again. */
  async stop(): Promise<void> {
    this.#stopping.abort()
    await this.#child?.stop()
    await this.#running
  }

  #isEnding(): boolean {
    return this.#stopping.signal.aborted
  }

  async #run(resolve: (ready: Ready) => void, reject: (cause: unknown) => void): Promise<void> {
    const { signal } = this.#stopping
    let last: Ready | undefined
    let deaths = 0
    for (;;) {
      const child = this.#launch(last)
      this.#child = child
      let readyAt = Infinity
      try {
        const ready = await child.ready
        readyAt = performance.now()
        if (last === undefined) resolve(ready)
        else this.#tell(`${this.name} is ready again at ${ready.url}.`)
        last = ready
      } catch (cause) {
        if (last === undefined) {
          reject(cause)
          return
        }
      }
      const how = await child.gone
      if (this.#isEnding()) return
      deaths = performance.now() - readyAt >= soundMs ? 1 : deaths + 1
      const pause = Math.min(pauseMs.most, pauseMs.least * 2 ** (deaths - 1))
      this.#tell(
        `${this.name} ended by itself (${how}) and is started again in ${String(pause / 1_000)} s.`,
      )
      await delay(pause, undefined, { signal }).catch(() => undefined)
      if (this.#isEnding()) return
    }
  }
}
