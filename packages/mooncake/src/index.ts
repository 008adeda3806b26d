/**
 * The backend `mooncake`: KV-cache transfer over TCP or RDMA with the Mooncake Transfer Engine. The vendor's library is
 * not part of this package: `kvx backend install mooncake`.
 */
import { readdir } from 'node:fs/promises'
import { isAbsolute } from 'node:path'
import {
  backendSymbol,
  contractVersion,
  type Backend,
  type MemoryKind,
  type OpenContext,
  type Probe,
  type TransferEngine,
} from '@kvx/contract'
import { keepGood, reasons, unavailable, wheelLibrary, type Attempt } from '@kvx/vendor'
import { binding, type GoodVerdict } from './addon.ts'
import { openEngine, withoutGpus, type Setup } from './engine.ts'
import { candidates } from './library.ts'
import { checkOptions, overridden, type CheckedOptions, type MooncakeOptions } from './options.ts'
import { preflight } from './preflight.ts'
import { flavours, supportedVersions, wheelSpec } from './wheel.ts'

export type { MooncakeOptions } from './options.ts'
export { flavours, supportedVersions, wheelSpec } from './wheel.ts'

const install = 'kvx backend install mooncake'

/** The first library that works, and what came before it. */
async function select(
  options: CheckedOptions,
  tried: Attempt[],
  { anew }: { anew: boolean },
): Promise<(Setup & Pick<GoodVerdict, 'face' | 'memoryKinds'>) | undefined> {
  if (options.protocol === 'rdma') {
    const reason = await withoutRdma(options.devices)
    if (reason !== undefined) {
      tried.push({ what: 'RDMA', reason })
      return undefined
    }
  }
  for await (const library of candidates(options, tried)) {
    const verdict = await examined({ options, library }, { anew })
    if (!('reason' in verdict)) {
      for (const soname of verdict.standIns) {
        tried.push({
          what: soname,
          reason: 'it is missing; TCP without a metadata server works without it',
        })
      }
      const { requestBytes, face, memoryKinds } = verdict
      return { options, library, requestBytes, face, memoryKinds }
    }
    tried.push({ what: library.path, reason: verdict.reason })
  }
  return undefined
}

/** A library that worked is not looked at again when an engine is opened with the same options. */
const examined = keepGood(preflight, (verdict) => !('reason' in verdict))

async function withoutRdma(devices: readonly string[] | undefined): Promise<string | undefined> {
  const present = await readdir('/sys/class/infiniband').catch((): string[] => [])
  if (present.length === 0)
    return "this machine has no RDMA device (/sys/class/infiniband); use protocol 'tcp'"
  const missing = (devices ?? []).filter((name) => !present.includes(name))
  if (missing.length === 0) return undefined
  return `there is no device ${missing.join(', ')}; there are ${present.join(', ')}`
}

async function probe(options?: MooncakeOptions): Promise<Probe> {
  const tried: Attempt[] = []
  try {
    binding()
    const checked = checkOptions(options)
    for (const name of overridden()) {
      tried.push({ what: name, reason: 'kvx sets this variable itself; your value is not used' })
    }
    const setup = await select(checked, tried, { anew: true })
    if (setup === undefined) return { available: false, tried, remedy: remedy(tried) }
    const { library, face, memoryKinds } = setup
    const driver = face === 'c' ? 'C functions' : 'C++ symbols'
    const flavour = library.project ?? 'not from a wheel'
    return {
      available: true,
      version: library.version,
      library: `${library.path} (${flavour}, by its ${driver})`,
      tried,
      devicesNote: deviceMemory(memoryKinds),
    }
  } catch (error) {
    const reason = (error as Error).message
    return {
      available: false,
      tried: [...tried, { what: '@kvx/mooncake', reason }],
      remedy: reason,
    }
  }
}

function deviceMemory(kinds: readonly MemoryKind[]): string {
  if (kinds.includes('cuda')) return 'memory of CUDA GPUs, through TCP'
  if (kinds.includes('hip')) return 'memory of AMD GPUs is offered, and was never run'
  return `no memory of GPUs: ${withoutGpus('cuda')}`
}

function remedy(tried: readonly Attempt[]): string {
  const packages = new Set(
    tried.flatMap(({ reason }) => /apt install ([\w.-]+)/.exec(reason)?.[1] ?? []),
  )
  if (packages.size > 0)
    return `Install the missing system libraries (Debian: apt install ${[...packages].join(' ')}).`
  const found = tried.find(({ what }) => what.endsWith('.so') && isAbsolute(what))
  if (found !== undefined) return found.reason
  if (tried.some(({ what }) => what === 'RDMA'))
    return "Use protocol 'tcp', or a machine with an RDMA device."
  return `Install it with: ${install}`
}

async function open(options: MooncakeOptions, context: OpenContext): Promise<TransferEngine> {
  const checked = checkOptions(options)
  binding()
  const tried: Attempt[] = []
  const setup = await select(checked, tried, { anew: false })
  if (setup === undefined) {
    throw unavailable(`Mooncake cannot be used here (${reasons(tried)}). ${remedy(tried)}`)
  }
  for (const name of overridden()) {
    context.log.warn({ variable: name }, `kvx sets ${name} itself; your value is not used`)
  }
  return openEngine(setup, context)
}

const mooncake: Backend<MooncakeOptions> = {
  [backendSymbol]: contractVersion,
  name: 'mooncake',
  probe,
  open,
  library: wheelLibrary({
    name: 'mooncake',
    versions: supportedVersions,
    flavours,
    spec: wheelSpec,
  }),
}

export default mooncake
