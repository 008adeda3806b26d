/** Runs a command in one guest, or in two that are joined by a link. */
import { mkdtemp, mkdir, realpath, rm } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { invalidOption, unavailable } from '@kvx/vendor'
import { startGuest, type Guest, type Plan } from './guest/guest.ts'
import { image } from './image/build.ts'
import { whyNot } from './needs.ts'

export interface LabOptions extends Pick<Plan, 'command' | 'stdout' | 'stderr'> {
  /** Where the command runs. Default: the working directory. */
  readonly folder?: string | undefined
  /** Default: the environment of this process. */
  readonly env?: Plan['env'] | undefined
  /** Folders in which the guest's writes are kept; what it writes elsewhere is lost with it. */
  readonly writable?: readonly string[] | undefined
  /** Boot included. Default: 600. */
  readonly limitSeconds?: number | undefined
  /** Default: as many as this machine has, and at least 2. */
  readonly cpus?: number | undefined
  /** Default: 4096. */
  readonly memoryMiB?: number | undefined
  /** Default: nothing to read. Not with a pair. */
  readonly stdin?: Plan['stdin']
  /** Gets the log of each guest's kernel when the guest has ended. */
  readonly onLog?: Plan['onLog']
  /**
   * Two guests, joined by a link on which `netem` is done to every packet (`man tc-netem`; an empty text: nothing). Both run the command;
   * `KVX_RDMA_LAB` is 1 in one and 2 in the other.
   */
  readonly pair?: { readonly netem: string } | undefined
}

/** A command that runs in the lab. */
export interface Run {
  /** As a shell has it; of a pair that of the first guest unless it is 0. See `Guest.code`. */
  readonly code: Promise<number>
  signal(name: NodeJS.Signals): void
}

/**
 * Starts the command; the first time, it fetches a kernel.
 *
 * @throws KvxError `ERR_KVX_BACKEND_UNAVAILABLE` where something is missing, `ERR_KVX_INVALID_OPTION`
 */
export async function startInLab(options: LabOptions): Promise<Run> {
  const missing = whyNot()
  if (missing !== undefined) throw unavailable(missing)
  const plan: Plan = {
    command: options.command,
    folder: options.folder ?? process.cwd(),
    env: options.env ?? process.env,
    writable: await Promise.all((options.writable ?? []).map(folderThatIs)),
    limitSeconds: options.limitSeconds ?? 600,
    cpus: options.cpus ?? Math.max(2, availableParallelism()),
    memoryMiB: options.memoryMiB ?? 4096,
    stdin: options.stdin,
    stdout: options.stdout,
    stderr: options.stderr,
    onLog: options.onLog,
  }
  const made = await image()
  const folder = await mkdtemp(join(tmpdir(), 'kvx-rdma-lab-'))
  const clean = (): Promise<void> => rm(folder, { recursive: true, force: true })
  try {
    const sides = options.pair === undefined ? [undefined] : pair(folder, options.pair.netem)
    const guests: Guest[] = []
    for (const side of sides) {
      const own = join(folder, String(side?.number ?? 1))
      await mkdir(own)
      guests.push(await startGuest(made, plan, own, side))
    }
    const codes = Promise.all(guests.map((guest) => guest.code)).finally(clean)
    return {
      code: codes.then((all) => all.find((code) => code !== 0) ?? 0),
      signal: (name) => guests.forEach((guest) => guest.signal(name)),
    }
  } catch (error) {
    await clean()
    throw error
  }
}

function pair(folder: string, netem: string) {
  const socket = (number: number): string => join(folder, `link${number}`)
  return ([1, 2] as const).map((number) => ({
    number,
    netem,
    ownSocket: socket(number),
    peerSocket: socket(3 - number),
  }))
}

async function folderThatIs(path: string): Promise<string> {
  try {
    return await realpath(path)
  } catch {
    throw invalidOption(`There is no folder ${path} that could be written to.`)
  }
}
