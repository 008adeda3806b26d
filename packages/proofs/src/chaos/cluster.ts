/** A prefill worker, a decode worker and a router as processes, at addresses that outlive them. */
import { spawnSync } from 'node:child_process'
import { createServer } from 'node:net'
import { join } from 'node:path'
import type { Random } from '@kvx/simulator'
import { read } from './client.ts'
import type { Machine } from './namespaces.ts'
import type { LoggedEvent } from './phases.ts'
import { command, KvxProcess } from './process.ts'
import { patientWorkerArgs, recoveryMs, routerArgs, workerArgs } from './settings.ts'

export const roles = ['prefill', 'decode', 'router'] as const
export type Role = (typeof roles)[number]

type Watcher = (role: Role, event: LoggedEvent) => void

export class Cluster {
  readonly backend: string
  readonly prefillUrl: string
  readonly decodeUrl: string
  readonly routerUrl: string
  readonly bootstrapPort: number
  /** Every process that was ever started. */
  readonly started: KvxProcess[] = []
  readonly #args: Readonly<Record<Role, readonly string[]>>
  readonly #env: Readonly<Record<string, string>>
  readonly #folder: string
  /** Where prefill and decode are; undefined for this machine. */
  readonly #machines: readonly [Machine, Machine] | undefined
  readonly #now = new Map<Role, KvxProcess>()
  readonly #watchers = new Set<Watcher>()
  #closed = false

  private constructor(
    backend: string,
    [prefill, bootstrap, decode, router]: readonly [number, number, number, number],
    env: Readonly<Record<string, string>>,
    folder: string,
    machines: readonly [Machine, Machine] | undefined,
  ) {
    this.backend = backend
    this.#machines = machines
    this.#env = env
    this.#folder = folder
    this.bootstrapPort = bootstrap
    const hosts = machines?.map(({ address }) => address) ?? []
    const url = (port: number, host = '127.0.0.1') => `http://${host}:${String(port)}`
    this.prefillUrl = url(prefill, hosts[0])
    this.decodeUrl = url(decode, hosts[1])
    this.routerUrl = url(router)
    const worker = (role: 'prefill' | 'decode', port: number, host: string | undefined) =>
      host === undefined
        ? workerArgs(role, backend, port, bootstrap)
        : [...patientWorkerArgs(role, backend, port, bootstrap), '--host', host]
    this.#args = {
      prefill: worker('prefill', prefill, hosts[0]),
      decode: worker('decode', decode, hosts[1]),
      router: [
        ...['router', '--port', String(router), '--decode', this.decodeUrl],
        ...['--prefill', `${this.prefillUrl},${String(bootstrap)}`],
        ...routerArgs,
      ],
    }
  }

  /**
   * @param folder gets the log of every process
   * @param machines for prefill and decode, which keep the deadlines of kvx itself there. Default: this machine
   */
  static async open(
    random: Random,
    backend: string,
    env: Readonly<Record<string, string>>,
    folder: string,
    machines?: readonly [Machine, Machine],
  ): Promise<Cluster> {
    const ports: number[] = []
    while (ports.length < 4) {
      // Below the ports that systems choose for connections: no stranger takes one between two lives.
      const port = random.between(18_000, 31_000)
      if (!ports.includes(port) && (await isFree(port))) ports.push(port)
    }
    const four = ports as [number, number, number, number]
    const cluster = new Cluster(backend, four, env, folder, machines)
    await Promise.all(roles.map((role) => cluster.start(role).ready))
    return cluster
  }

  /** The present process of a role. */
  process(role: Role): KvxProcess {
    return this.#now.get(role)!
  }

  /**
   * Starts a role at its addresses; its predecessor must be gone.
   * @throws Error after `close`
   */
  start(role: Role): KvxProcess {
    if (this.#closed) throw new Error('the deployment was ended')
    const life = this.started.filter(({ name }) => name.startsWith(role)).length + 1
    const name = `${role}-${String(life)}`
    const machine = role === 'router' ? undefined : this.#machines?.[role === 'prefill' ? 0 : 1]
    const started = new KvxProcess({
      name,
      ...(machine && { networkOf: machine.pid }),
      args: this.#args[role],
      env: this.#env,
      logFile: join(this.#folder, `${name}.log`),
      onEvent: (event) => {
        for (const watcher of [...this.#watchers]) watcher(role, event)
      },
    })
    this.started.push(started)
    this.#now.set(role, started)
    return started
  }

  /** Calls `watcher` at each event of a worker until the function that it returns is called. */
  watch(watcher: Watcher): () => void {
    this.#watchers.add(watcher)
    return () => this.#watchers.delete(watcher)
  }

  /**
   * Resolves when a request that comes to decode from now on has its cache from prefill. An answer alone does not show that both
   * are there again: while no prefill lives, the router lets decode compute the prompts.
   * @throws Error when there is none for too long
   */
  crossed(): Promise<void> {
    return new Promise((resolve, reject) => {
      const opened = new Set<string>()
      const late = setTimeout(() => {
        unwatch()
        reject(new Error(`no cache came from prefill within ${String(recoveryMs)} ms`))
      }, recoveryMs)
      const unwatch = this.watch((role, { name, room }) => {
        if (role !== 'decode' || room === undefined) return
        if (name === 'room.opened') opened.add(room)
        if (name !== 'transfer.complete' || !opened.has(room)) return
        unwatch()
        clearTimeout(late)
        resolve()
      })
    })
  }

  /** How many pages of a worker are in which state. */
  async pages(role: 'prefill' | 'decode'): Promise<Record<string, number>> {
    const url = role === 'prefill' ? this.prefillUrl : this.decodeUrl
    const metrics = await read(`${url}/metrics`, 5_000)
    const rows = metrics.matchAll(/^(?:kvx_pages\{state="(\w+)"\}|kvx_(requests_live)) (\d+)$/gm)
    return Object.fromEntries(
      [...rows].map(([, state, live, value]) => [state ?? live, Number(value)]),
    ) as Record<string, number>
  }

  async close(): Promise<void> {
    this.#closed = true
    await Promise.all(
      this.started.map(async (one) => {
        if (one.running) one.signal('SIGKILL')
        await one.gone
      }),
    )
  }
}

/**
 * Gets the library of an engine, if it needs one that is not there.
 * @throws Error with what the command said
 */
export function install(backend: string): void {
  const { status, stderr } = spawnSync(process.execPath, [command, 'backend', 'install', backend], {
    encoding: 'utf8',
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  if (status !== 0) throw new Error(`kvx backend install ${backend} failed: ${stderr.trim()}`)
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer()
      .once('error', () => {
        resolve(false)
      })
      .listen(port, '127.0.0.1', () => {
        server.close(() => {
          resolve(true)
        })
      })
  })
}
