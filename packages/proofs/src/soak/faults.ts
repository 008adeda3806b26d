/** What is done to a deployment under load. */
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { connect, createServer, type AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import type { Random } from '@kvx/simulator'
import type { Worker } from './life.ts'
import type { SoakDeadlines } from './settings.ts'

export const kinds = ['kill', 'freeze, short', 'freeze, long', 'cut'] as const
export type Kind = (typeof kinds)[number]

/** Nobody may notice it. */
export const isHarmless = (kind: Kind): boolean => kind === 'freeze, short'

/** The time in which a fault may affect requests: until the deployment works as before. */
export interface Window {
  readonly kind: Kind
  readonly victim: string
  readonly from: number
  /** Infinity while it is open. */
  until: number
}

/** Milliseconds that a short freeze lasts. */
const shortMs = 600

/** Draws a kind and whom it hits; workers that are kept are not killed. */
export function drawFault(
  random: Random,
  workers: readonly Worker[],
  possible: readonly Kind[],
): { kind: Kind; victim: Worker } {
  const kind = random.one(possible)
  const victims = kind === 'kill' ? workers.filter(({ isKept }) => !isKept) : workers
  return { kind, victim: random.one(victims) }
}

/** Resolves when the process runs again. */
export async function strike(kind: Kind, victim: Worker, deadlines: SoakDeadlines): Promise<void> {
  switch (kind) {
    case 'kill':
      await victim.kill()
      await victim.start()
      return
    case 'freeze, short':
    case 'freeze, long':
      victim.signal('SIGSTOP')
      try {
        await sleep(kind === 'freeze, short' ? shortMs : deadlines.peerSilent * 1.2)
      } finally {
        victim.signal('SIGCONT')
      }
      return
    case 'cut':
      if (victim.pid !== undefined) await cutAll(victim.pid)
  }
}

const run = promisify(execFile)

/** Ends every TCP connection of a process, as a network would that has forgotten them. */
async function cutAll(pid: number): Promise<void> {
  const { stdout } = await run('ss', ['-tnpH', 'state', 'established'])
  const own = stdout.split('\n').filter((line) => line.includes(`pid=${String(pid)},`))
  await Promise.all(
    own.map((line) => {
      const [, , local = '', peer = ''] = line.trim().split(/\s+/)
      return run('ss', ['-K', '-t', 'src', local, 'dst', peer])
    }),
  )
}

/** Why connections cannot be cut here, or nothing. */
export async function cutObjection(): Promise<string | undefined> {
  const server = createServer((socket) => socket.on('error', () => undefined))
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const { port } = server.address() as AddressInfo
  const socket = connect(port, '127.0.0.1').on('error', () => undefined)
  const closed = new Promise<true>((resolve) => {
    socket.once('close', () => {
      resolve(true)
    })
  })
  try {
    await once(socket, 'connect')
    await run('ss', ['-K', '-t', 'dst', `127.0.0.1:${String(port)}`])
    return (await Promise.race([closed, sleep(1_000, false, { ref: false })]))
      ? undefined
      : 'ss -K ends no connection here: it needs CAP_NET_ADMIN and a kernel with INET_DIAG_DESTROY'
  } catch (cause) {
    return `ss -K does not run: ${(cause as Error).message}`
  } finally {
    socket.destroy()
    server.close()
  }
}
