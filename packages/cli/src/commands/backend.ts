/** `kvx backend`: the transfer backends of this installation, and fetching their vendors' libraries. */
import { isKvxError, type Backend, type Probe } from '@kvx/contract'
import { publishedBackends } from '@kvx/core/backend'
import { findBackend } from '../backends.ts'
import type { Command } from '../command.ts'
import { Flags } from '../flags.ts'
import { runToEnd } from '../lifetime.ts'
import { UsageError } from '../usage.ts'

const installArgs = {
  name: {
    type: 'positional',
    description: 'A backend: mori, mooncake, a package or a path',
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
    return runToEnd((signal) => installLibrary(name, flags, signal))
  },
}

/** @returns 0 once the library is installed, also where it cannot run, as where images are built; else 2 */
async function installLibrary(name: string, flags: Flags, signal: AbortSignal): Promise<number> {
  let backend: Backend
  try {
    backend = await findBackend(name)
    if (backend.library === undefined) {
      process.stdout.write(`${name} needs no library of a vendor: it is ready with its package.\n`)
      return 0
    }
    const installed = await backend.library.install({
      version: flags.string('version'),
      flavour: flags.string('flavour'),
      file: flags.string('wheel'),
      onProgress: libraryProgress(),
      signal,
    })
    const variant = installed.flavour === undefined ? '' : ` (${installed.flavour})`
    process.stdout.write(`${name} ${installed.version}${variant} is in ${installed.folder}\n`)
  } catch (cause) {
    if (signal.aborted || !isKvxError(cause)) throw cause
    throw new UsageError(cause.message, { cause })
  }
  process.stderr.write('trying it\n')
  process.stdout.write(`${verdict(await backend.probe())}\n`)
  return 0
}

/** For `list` and `doctor`. */
export const backendNames = {
  backend: {
    type: 'positional',
    description: 'Backends by name, package or path. Default: those of kvx',
    required: false,
  },
} as const

const listArgs = {
  ...backendNames,
  json: { type: 'boolean', description: 'Print one JSON object instead' },
} as const

const list: Command = {
  meta: {
    name: 'list',
    description: 'List the backends, their versions, and whether they can run here',
  },
  args: listArgs,
  main: async (rawArgs) => {
    const flags = Flags.parse(rawArgs, listArgs, ['backend'])
    return runToEnd(async () => {
      const backends = await examineBackends(flags.positionals)
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
    })
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
  readonly devices?: Probe['devices']
  readonly devicesNote?: Probe['devicesNote']
}

/**
 * What these backends say of themselves, or those of kvx when none is named. Never throws: a backend that cannot
 * be loaded says so.
 */
export async function examineBackends(names: readonly string[]): Promise<BackendReport[]> {
  return Promise.all(
    (names.length > 0 ? names : publishedBackends).map(async (name) => {
      try {
        const found = await findBackend(name)
        const [probe, installed] = await Promise.all([found.probe(), found.library?.installed()])
        const { available, version, library, tried, devices, devicesNote } = probe
        const from = installed?.find(({ folder }) => library?.startsWith(folder))?.from
        return {
          name,
          available,
          version,
          library,
          from,
          tried,
          devices,
          devicesNote,
          reason: available ? '' : whyNot(probe),
        }
      } catch (error) {
        const reason = (error as Error).message
        return { name, available: false, reason, tried: [{ what: name, reason }] }
      }
    }),
  )
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
