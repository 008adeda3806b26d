/** Runs the built command to its end. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { patience } from './cluster.ts'

export const command = fileURLToPath(new URL('../../bin/kvx.js', import.meta.url))

export interface Ended {
  readonly code: number | null
  readonly stdout: string
  /** The last line of stderr. */
  readonly lastWords: string
}

export async function kvx(...args: readonly string[]): Promise<Ended> {
  const child = spawn(process.execPath, [command, ...args], {
    env: { ...process.env, KVX_TOKEN: 'a token for tests' },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: patience,
    killSignal: 'SIGKILL',
  })
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', (data: Buffer) => (stdout += data.toString()))
  child.stderr.on('data', (data: Buffer) => (stderr += data.toString()))
  const [code] = (await once(child, 'close')) as [number | null]
  return { code, stdout, lastWords: stderr.trimEnd().split('\n').at(-1) ?? '' }
}
