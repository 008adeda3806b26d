/** What one guest is to do, in the words of its shell. */
import { readFile } from 'node:fs/promises'
import { cpio, fileMode, folderMode, programMode } from '../image/cpio.ts'
import type { Image } from '../image/build.ts'

/** A guest's place in a pair, whose link is a network of its own. */
export interface Side {
  readonly number: 1 | 2
  /** What `tc … netem` does to the packets that this side sends; empty: nothing. */
  readonly netem: string
  readonly ownSocket: string
  readonly peerSocket: string
}

export interface Job {
  readonly command: readonly string[]
  readonly folder: string
  readonly env: Readonly<Record<string, string | undefined>>
  readonly writable: readonly string[]
  /** Ends the output; nobody can guess it. */
  readonly mark: string
  readonly side: Side | undefined
}

const addressOf = (number: number): string => `198.51.100.${number}`
const alone = '192.0.2.1'

/** The address of the guest's RDMA device, and its peer's. */
export function addresses(side: Side | undefined): { own: string; peer: string } {
  if (side === undefined) return { own: alone, peer: '' }
  return { own: addressOf(side.number), peer: addressOf(3 - side.number) }
}

/** One word of a shell, whatever is in it. */
export function quoted(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`
}

/** A shell script that runs the command of a job as the machine's user would. */
export function script({ command, folder, env, side }: Job): string {
  const { own, peer } = addresses(side)
  const all: Record<string, string | undefined> = {
    ...env,
    KVX_RDMA_LAB: String(side?.number ?? 1),
    KVX_RDMA_LAB_ADDRESS: own,
    ...(side === undefined
      ? {}
      : { KVX_RDMA_LAB_PEER: peer, KVX_RDMA_LAB_LINK: '/run/kvx-rdma-lab/link' }),
  }
  // Others, such as functions that bash exports, have no form in a shell.
  const variables = Object.entries(all).filter(([name]) => /^[A-Za-z_]\w*$/.test(name))
  return [
    'echo $$ >/run/kvx-rdma-lab/pid',
    ...variables.flatMap(([name, value]) =>
      value === undefined ? [] : [`export ${name}=${quoted(value)}`],
    ),
    `cd ${quoted(folder)} || exit 126`,
    `exec ${command.map(quoted).join(' ')}`,
    '',
  ].join('\n')
}

/** The archive with the job, which the kernel unpacks over the image's files. */
export async function jobArchive(job: Job, image: Image): Promise<Buffer> {
  const { own, peer } = addresses(job.side)
  const settings = {
    RELEASE: image.release,
    MODULES: image.modules,
    END: job.mark,
    GUEST: job.side === undefined ? '' : String(job.side.number),
    ADDRESS: own,
    PEER: peer,
    NETEM: job.side?.netem ?? '',
  }
  const text = (content: string): Buffer => Buffer.from(content)
  const lines = Object.entries(settings).map(([name, value]) => `${name}=${quoted(value)}\n`)
  const packed = (name: string): Promise<Buffer> =>
    readFile(new URL(`../../guest/${name}`, import.meta.url))
  return cpio([
    { path: 'init', mode: programMode, content: await packed('init') },
    { path: 'job', mode: folderMode },
    { path: 'job/settings', mode: fileMode, content: text(lines.join('')) },
    { path: 'job/command', mode: fileMode, content: text(script(job)) },
    {
      path: 'job/writable',
      mode: fileMode,
      content: text(job.writable.map((folder) => `${folder}\n`).join('')),
    },
    { path: 'job/link', mode: programMode, content: await packed('link') },
  ])
}
