/** One guest: from its start to the exit code of its command. */
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFile, writeFile } from 'node:fs/promises'
import { constants } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Duplex, Readable, Writable } from 'node:stream'
import { unavailable } from '@kvx/vendor'
import type { Image } from '../image/build.ts'
import { programPath } from '../needs.ts'
import { Ending } from './ending.ts'
import { jobArchive, type Side } from './job.ts'
import { qemuArguments, streams } from './qemu.ts'

/** What a guest runs, and with what. */
export interface Plan {
  readonly command: readonly string[]
  /** Where the command runs. */
  readonly folder: string
  readonly env: Readonly<Record<string, string | undefined>>
  /** Folders in which the guest's writes are kept; what it writes elsewhere is lost with it. */
  readonly writable: readonly string[]
  /** Boot included. */
  readonly limitSeconds: number
  readonly cpus: number
  readonly memoryMiB: number
  readonly stdin: Readable | undefined
  readonly stdout: Writable
  readonly stderr: Writable
  /** Gets the log of the guest's kernel when the guest has ended. */
  readonly onLog: ((text: string) => void) | undefined
}

export interface Guest {
  /**
   * The exit code as a shell has it: that of the command, 128 and the number of a signal, 124 when time was up, 141 when
   * nobody reads the output any more. Rejects with `ERR_KVX_BACKEND_UNAVAILABLE` when the guest ended without one.
   */
  readonly code: Promise<number>
  /** Sends a signal to the command. The guest is ended instead before the command runs, and by a second signal. */
  signal(name: NodeJS.Signals): void
}

/** `folder` is the guest's own, and outlives it. */
export async function startGuest(
  image: Image,
  plan: Plan,
  folder: string,
  side?: Side,
): Promise<Guest> {
  const mark = randomBytes(16).toString('hex')
  const initramfs = join(folder, 'initramfs')
  const job = await jobArchive({ ...plan, mark, side }, image)
  await writeFile(initramfs, Buffer.concat([await readFile(image.files), job]), { mode: 0o600 })

  const log = join(folder, 'log')
  const qemu = spawn(
    programPath('qemu-system-x86_64') ?? 'qemu-system-x86_64',
    qemuArguments({ ...plan, image, initramfs, console: log, side }),
    // A group of its own: what a terminal sends to ours is passed on to the command, and QEMU goes on.
    { detached: true, stdio: ['ignore', 'pipe', 'pipe', ...streams.map(() => 'pipe' as const)] },
  )
  const [out, err, input, control] = qemu.stdio.slice(3) as [Duplex, Duplex, Duplex, Duplex]
  // QEMU may be gone before them.
  for (const stream of [out, err, input, control]) stream.on('error', () => undefined)
  let complaints = ''
  for (const stream of [qemu.stdout, qemu.stderr]) {
    stream?.on('data', (part: Buffer) => (complaints = (complaints + part.toString()).slice(-4096)))
  }
  if (plan.stdin === undefined) input.end()
  else plan.stdin.pipe(input)

  let end: (code: number) => void = () => undefined
  const ended = new Promise<number>((resolve) => (end = resolve))
  let ready = false
  let signalled = false
  const exitCode = (async () => {
    for await (const line of createInterface({ input: control })) {
      const [word, number] = line.split(' ')
      if (word === 'ready') ready = true
      if (word === 'end') return Number(number)
    }
    return undefined
  })()
  const finished = Promise.all([
    exitCode,
    copy(out, plan.stdout, mark),
    copy(err, plan.stderr, mark),
  ]).then(([code]) => code)
  const died = once(qemu, 'close').then(
    () => undefined,
    (error: unknown) => void (complaints += String(error)),
  )

  async function follow(): Promise<number> {
    const timer = setTimeout(() => end(124), plan.limitSeconds * 1000)
    const unread = (): void => end(141)
    for (const stream of [plan.stdout, plan.stderr]) stream.once('error', unread)
    try {
      const code = await Promise.race([ended, finished, died])
      if (code !== undefined) return code
    } finally {
      clearTimeout(timer)
      for (const stream of [plan.stdout, plan.stderr]) stream.off('error', unread)
      plan.stdin?.unpipe(input)
      qemu.kill('SIGKILL')
      await died
      plan.onLog?.(await readFile(log, 'utf8').catch(() => ''))
    }
    const last = (await readFile(log, 'utf8').catch(() => '')).slice(-2000)
    throw unavailable(`The guest ended without an answer. ${complaints}${last}`.trimEnd())
  }

  return {
    code: follow(),
    signal(name) {
      if (!ready || signalled) end(128 + constants.signals[name])
      else control.write(`${name.replace('SIG', '')}\n`)
      signalled = true
    },
  }
}

/** Until the mark comes; at the pace of who reads. */
async function copy(from: Readable, to: Writable, mark: string): Promise<void> {
  const ending = new Ending(mark)
  for await (const part of from) {
    const { bytes, ended } = ending.take(part as Buffer)
    if (bytes.length > 0 && !to.write(bytes)) await once(to, 'drain')
    if (ended) return
  }
}
