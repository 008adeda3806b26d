/** Programs in the lab's guest: real verbs, of a software device. */
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { PassThrough } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { startInLab, whyNot, type LabOptions } from '@kvx/rdma-lab'
import { wheelSpec } from '@kvx/mori'
import { installWheel } from '@kvx/vendor'

export const missing = whyNot()

/** MORI insists that a device be on a PCI bus; and emulated, every queue pair takes seconds to make. */
const env = {
  ...process.env,
  SYSFS_PATH: '/run/0000:00:00.0',
  KVX_MORI_QP_PER_TRANSFER: '1',
}

/**
 * Runs a command to its end. Lines of its output go to `onLine` as they come.
 *
 * @throws Error with what it wrote to its standard error when its exit code is not 0
 */
export async function inLab(
  command: readonly string[],
  onLine: (line: string) => void,
  more: Partial<LabOptions> = {},
): Promise<void> {
  await installWheel(wheelSpec())
  const [stdout, stderr] = [new PassThrough(), new PassThrough()]
  let errors = ''
  stderr.on('data', (part: Buffer) => (errors = (errors + part.toString()).slice(-8192)))
  const lines = createInterface({ input: stdout }).on('line', onLine)
  const read = once(lines, 'close')
  // Each engine of MORI spins a thread: with fewer processors two of them starve each other.
  const run = await startInLab({ cpus: 4, env, ...more, command, stdout, stderr })
  const code = await run.code
  stdout.end()
  await read
  if (code !== 0) throw new Error(`${command.join(' ')} ended with ${code}. ${errors}`)
}

/** A program of `rdma/guest/`, which tells what it has found in lines of JSON, and its arguments. */
export type Program = readonly [name: string, ...args: string[]]

/** Runs programs one after the other in one guest. */
export async function tells<Told>(
  programs: readonly Program[],
  more: Partial<LabOptions> = {},
): Promise<Told[]> {
  const told: Told[] = []
  const commands = programs.map(([name, ...args]) => {
    const path = fileURLToPath(new URL(`../rdma/guest/${name}.mjs`, import.meta.url))
    return [process.execPath, path, ...args].map(quoted).join(' ')
  })
  await inLab(
    ['sh', '-c', commands.join(' && ')],
    (line) => told.push(JSON.parse(line) as Told),
    more,
  )
  return told
}

const quoted = (word: string): string => `'${word.replaceAll("'", "'\\''")}'`
