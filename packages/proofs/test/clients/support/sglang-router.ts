/** SGLang's router as its users start it: the one in Rust, or the small one in Python that is called mini-lb. */
import { once } from 'node:events'
import { setTimeout as pause } from 'node:timers/promises'
import type { ChildProcess } from 'node:child_process'
import { lastingPort } from '../../../../core/test/support/port.ts'
import { patience, type Process } from '../../../../cli/test/support/cluster.ts'
import { python } from './python.ts'

export type Kind = 'router' | 'mini-lb'

export class SglangRouter {
  readonly url: string
  readonly #child: ChildProcess
  readonly #said: string[] = []

  private constructor(url: string, child: ChildProcess) {
    this.url = url
    this.#child = child
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on('data', (data: Buffer) => this.#said.push(data.toString()))
    }
  }

  /** Serves when this resolves. */
  static async start(
    kind: Kind,
    prefill: Process,
    decode: Process,
    ...flags: string[]
  ): Promise<SglangRouter> {
    const [port, metrics] = [await lastingPort(), await lastingPort()].map(String) as [
      string,
      string,
    ]
    const child = await python([
      ...['-m', 'sglang_router.launch_router', '--pd-disaggregation'],
      ...(kind === 'mini-lb' ? ['--mini-lb'] : []),
      ...['--prefill', prefill.url, String(prefill.bootstrapPort), '--decode', decode.url],
      ...['--host', '127.0.0.1', '--port', port, '--prometheus-port', metrics],
      // It charges prefill with failures of decode, and would then take neither.
      ...(kind === 'router' ? ['--cb-failure-threshold', '1000'] : []),
      ...flags,
    ])
    const router = new SglangRouter(`http://127.0.0.1:${port}`, child)
    await router.#until(kind === 'mini-lb' ? '/health' : '/readiness', (answer) => answer.ok)
    return router
  }

  /** Of the Rust router: a worker that is to serve from now on. */
  async add(role: 'prefill' | 'decode', worker: Process): Promise<void> {
    const body = {
      ...{ url: worker.url, worker_type: role },
      ...(role === 'prefill' && { bootstrap_port: worker.bootstrapPort }),
    }
    const response = await fetch(`${this.url}/workers`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    })
    if (!response.ok) throw new Error(await response.text())
    await this.#untilWorkers((urls) => urls.includes(worker.url))
  }

  /** Of the Rust router: a worker that is to serve no more. */
  async remove(worker: Process): Promise<void> {
    const known = (await (await fetch(`${this.url}/workers`)).json()) as Workers
    const id = known.workers.find(({ url }) => url === worker.url)?.id
    await fetch(`${this.url}/workers/${String(id)}`, { method: 'DELETE' })
    await this.#untilWorkers((urls) => !urls.includes(worker.url))
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    this.#child.kill('SIGKILL')
    await once(this.#child, 'close')
  }

  #untilWorkers(fits: (urls: readonly string[]) => boolean): Promise<void> {
    return this.#until('/workers', async (answer) => {
      const { workers } = (await answer.json()) as Workers
      return fits(workers.filter((worker) => worker.is_healthy).map(({ url }) => url))
    })
  }

  /** Asked again until the answer fits: it has no other way to tell that it is ready. */
  async #until(
    path: string,
    fits: (answer: Response) => boolean | Promise<boolean>,
  ): Promise<void> {
    const deadline = performance.now() + patience
    for (;;) {
      const answer = await fetch(`${this.url}${path}`).catch(() => undefined)
      if (answer !== undefined && (await fits(answer))) return
      if (this.#child.exitCode !== null || performance.now() > deadline) {
        throw new Error(`SGLang's router does not serve:\n${this.#said.slice(-20).join('')}`)
      }
      await pause(100)
    }
  }
}

interface Workers {
  readonly workers: readonly {
    readonly id: string
    readonly url: string
    readonly is_healthy: boolean
  }[]
}
