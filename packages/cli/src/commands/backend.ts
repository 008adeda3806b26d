/** `kvx backend`: the transfer backends of this installation, and fetching their vendors' libraries. */
import { isKvxError, loadBackend, type Backend, type Probe } from '@kvx/core/backend'
import type { Command } from '../command.ts'
import { Flags } from '../flags.ts'
import { nearest, UsageError } from '../usage.ts'

/** The backends that kvx is released with; others are found by the name of their package. */
export const knownBackends = ['shm', 'mooncake', 'mori'] as const

const installArgs = {
  name: {
    type: 'positional',
    description: 'Name of the backend: mori or mooncake',
    required: true,
  },
  version: {
    type: 'string',
    valueHint: 'V',
    description: 'Version of the library. Default: the newest that kvx knows well',
  },
  flavour: {
    type: 'string',
    valueHint: 'F',
    description: 'Variant of the library, for mooncake: non-cuda (default), cuda, cuda13, rocm',
  },
  wheel: {
    type: 'string',
    valueHint: 'FILE',
    description: 'A wheel that was downloaded elsewhere, for machines without a network',
  },
} as const

const install: Command = {
  meta: {
    name: 'install',
    description:
      "Fetch the vendor's library of a backend, check it, and say whether it can run here",
  },
  args: installArgs,
  main: async (rawArgs) => {
    const flags = Flags.parse(rawArgs, installArgs)
    const [name] = flags.positionals
    if (name === undefined) throw new UsageError('Which backend? mori or mooncake.')
    const backend = await find(name)
    if (backend.library === undefined) {
      process.stdout.write(`${name} needs no library of a vendor: it is ready with its package.\n`)
      return 0
    }
    const installed = await backend.library.install({
      version: flags.string('version'),
      flavour: flags.string('flavour'),
      file: flags.string('wheel'),
      onProgress: libraryProgress(),
    })
    const variant = installed.flavour === undefined ? '' : ` (${installed.flavour})`
    process.stdout.write(`${name} ${installed.version}${variant} is in ${installed.folder}\n`)
    process.stderr.write('trying it\n')
    const probe = await backend.probe()
    process.stdout.write(`${verdict(probe)}\n`)
    return probe.available ? 0 : 1
  },
}

const listArgs = {
  json: { type: 'boolean', description: 'Print one JSON object instead' },
} as const

const list: Command = {
  meta: {
    name: 'list',
    description: 'List the backends, their versions, and whether they can run here',
  },
  args: listArgs,
  main: async (rawArgs) => {
    const flags = Flags.parse(rawArgs, listArgs)
    const backends = await examineBackends()
    if (flags.has('json')) {
      process.stdout.write(`${JSON.stringify({ backends })}\n`)
      return 0
    }
    for (const { name, version, library, from, available, reason } of backends) {
      process.stdout.write(
        `${name.padEnd(10)} ${(version ?? '–').padEnd(14)} ${available ? 'usable' : 'not usable'}\n`,
      )
      if (library !== undefined)
        process.stdout.write(
          `           from ${library}${from === undefined ? '' : ` (${from})`}\n`,
        )
      if (!available) process.stdout.write(`           ${reason}\n`)
    }
    return 0
  },
}

export const backend: Command = {
  meta: { name: 'backend', description: "Transfer backends and their vendors' libraries" },
  args: {},
  subCommands: { install, list },
}

export interface BackendReport {
  readonly name: string
  readonly available: boolean
  readonly version?: string | undefined
  readonly library?: string | undefined
  /** Where the library came from, when kvx installed it. */
  readonly from?: string | undefined
  /** What is wrong, and what to do; empty when it can run. */
  readonly reason: string
  readonly tried: Probe['tried']
}

/** What every known backend says of itself. Never throws: a backend that cannot be loaded says so. */
export async function examineBackends(): Promise<BackendReport[]> {
  return Promise.all(
    knownBackends.map(async (name) => {
      try {
        const found = await loadBackend(name, { from: import.meta.url })
        const [probe, installed] = await Promise.all([found.probe(), found.library?.installed()])
        const { available, version, library, tried } = probe
        const from = installed?.find(({ folder }) => library?.startsWith(folder))?.from
        return {
          name,
          available,
          version,
          library,
          from,
          tried,
          reason: available ? '' : whyNot(probe),
        }
      } catch (error) {
        const reason = (error as Error).message
        return { name, available: false, reason, tried: [{ what: `@kvx/${name}`, reason }] }
      }
    }),
  )
}

async function find(name: string): Promise<Backend> {
  try {
    return await loadBackend(name, { from: import.meta.url })
  } catch (error) {
    const near = nearest(name, knownBackends)
    if (!isKvxError(error) || error.code !== 'ERR_KVX_BACKEND_NOT_INSTALLED' || near === undefined)
      throw error
    throw new UsageError(`There is no backend '${name}': did you mean '${near}'?`)
  }
}

function verdict(probe: Probe): string {
  return probe.available ? 'It can run here.' : `It cannot run here. ${whyNot(probe)}`
}

function whyNot({ tried, remedy }: Probe): string {
  const last = tried.at(-1)
  return remedy ?? (last === undefined ? 'No reason is known.' : `${last.what}: ${last.reason}`)
}

/** How far an installation is, on stderr: one line for each step. */
export function libraryProgress(): (progress: { message: string; share?: number }) => void {
  const terminal = process.stderr.isTTY
  let shown = ''
  return ({ message, share }) => {
    if (message !== shown) {
      if (terminal && shown !== '') process.stderr.write('\n')
      process.stderr.write(terminal ? message : `${message}\n`)
      shown = message
    }
    if (terminal && share !== undefined) {
      process.stderr.write(`\r\x1b[K${message} ${String(Math.floor(share * 100))} %`)
    }
    if (terminal && share === 1) process.stderr.write('\n')
  }
}
