/** Runs the built command to its end. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { afterAll, afterEach } from 'vitest'

export const command = fileURLToPath(new URL('../../bin/kvx.js', import.meta.url))

export interface Ended {
  readonly code: number | null
  readonly stdout: string
  /** The last line of stderr. */
  readonly lastWords: string
}

const running = new Set<ChildProcess>()

/** The limit of a test or a hook is the only one: what still runs then ends with it. */
function end(): void {
  for (const child of running) child.kill('SIGKILL')
}
afterEach(end)
afterAll(end)

export function kvx(...args: readonly string[]): Promise<Ended> {
  return kvxWith({}, ...args)
}

/** @param env on top of this process's own; undefined ones are left out */
export async function kvxWith(
  { env = {}, cwd }: { env?: Readonly<Record<string, string | undefined>>; cwd?: string },
  ...args: readonly string[]
): Promise<Ended> {
  const child = spawn(process.execPath, [command, ...args], {
    env: { ...process.env, KVX_TOKEN: 'a token for tests', ...env },
    cwd,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  running.add(child)
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', (data: Buffer) => (stdout += data.toString()))
  child.stderr.on('data', (data: Buffer) => (stderr += data.toString()))
  const [code] = (await once(child, 'close')) as [number | null]
  running.delete(child)
  return { code, stdout, lastWords: stderr.trimEnd().split('\n').at(-1) ?? '' }
}
