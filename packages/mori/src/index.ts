/**
 * The backend `mori`: KV-cache transfer over RDMA with AMD's MORI-IO. The vendor's library is not part of this package:
 * `kvx backend install mori`.
 */
import {
  backendSymbol,
  contractVersion,
  type Backend,
  type OpenContext,
  type Probe,
  type TransferEngine,
} from '@kvx/contract'
import { keepGood, reasons, unavailable, wheelLibrary, type Attempt } from '@kvx/vendor'
import { fakeVerbs } from './addon.ts'
import { openEngine, withoutRocm } from './engine.ts'
import { overrides } from './environment.ts'
import { findLibrary } from './library.ts'
import { checkOptions, type MoriOptions } from './options.ts'
import { preflight, setupOf, type Findings, type Task } from './preflight.ts'
import { supportedVersions, wheelSpec } from './wheel.ts'

export type { MoriOptions } from './options.ts'
export { supportedVersions, wheelSpec } from './wheel.ts'

const install = 'kvx backend install mori'

async function probe(options?: MoriOptions): Promise<Probe> {
  try {
    const checked = checkOptions(options)
    fakeVerbs() // a wrong KVX_MORI_VERBS shows here
    const { library, tried } = await findLibrary(checked.libraryPath)
    for (const { variable, message } of overrides()) tried.push({ what: variable, reason: message })
    if (library === undefined)
      return { available: false, tried, remedy: `Install it with: ${install}` }
    const found = { version: library.version, library: library.path }
    const task = { options: checked, library }
    const { failure, ...findings } = await preflight(task)
    tried.push(...problems(findings))
    if (failure === undefined) {
      const devicesNote = setupOf(task, findings).gpu
        ? 'memory of AMD GPUs is offered as MORI documents it, and was never run'
        : `no memory of GPUs: ${withoutRocm}`
      return { available: true, ...found, tried, devicesNote }
    }
    tried.push({ what: library.path, reason: failure.message })
    return { available: false, ...found, tried, remedy: remedy(findings) ?? failure.message }
  } catch (error) {
    const reason = (error as Error).message
    return { available: false, tried: [{ what: '@kvx/mori', reason }], remedy: reason }
  }
}

/** What is missing; ROCm's libraries have stand-ins. */
function problems(findings: Findings): Attempt[] {
  const rocm = 'a stand-in takes its place: '
  const missing = findings.dependencies
    .filter(({ problem }) => problem !== '')
    .map(({ soname, package: name, problem }) => ({
      what: soname,
      reason: name === '' ? rocm + problem : problem,
    }))
  if (findings.rocmSmi === '' || findings.dependencies.length === 0) return missing
  return [...missing, { what: 'rocm-smi', reason: rocm + findings.rocmSmi }]
}

function remedy(findings: Findings): string | undefined {
  const packages = findings.dependencies
    .filter((dependency) => dependency.package !== '' && dependency.problem !== '')
    .map((dependency) => dependency.package)
  return packages.length === 0
    ? undefined
    : `Install the libraries that MORI needs (Debian, Ubuntu): apt-get install ${packages.join(' ')}`
}

/** What a helper process has found need not be found again for every engine of this process. */
const findings = keepGood(
  (task: Task) => preflight(task),
  ({ failure }) => failure === undefined,
)

/** MORI reads its devices from the environment, so engines are opened one after another. */
let last: Promise<unknown> = Promise.resolve()

async function open(options: MoriOptions, context: OpenContext): Promise<TransferEngine> {
  const checked = checkOptions(options)
  const verbs = fakeVerbs()
  const { library, tried } = await findLibrary(checked.libraryPath)
  if (library === undefined) {
    throw unavailable(`MORI was not found (${reasons(tried)}). Install it with: ${install}`)
  }
  const task = { options: checked, library }
  const found = await findings(task)
  if (found.failure !== undefined) {
    const help = remedy(found)
    throw help === undefined
      ? found.failure
      : unavailable(`${found.failure.message} ${help}`, found.failure)
  }

  for (const { variable, message } of overrides()) context.log.warn({ variable }, message)
  if (verbs !== undefined) {
    context.log.warn(
      { verbs },
      'KVX_MORI_VERBS=fake: MORI runs on a FAKE libibverbs. For development only: it reaches processes of this machine and no other, and its speed says nothing.',
    )
  }
  for (const { what, reason } of problems(found))
    context.log.debug({ what, reason }, 'MORI runs without it')

  const opening = last.then(() => openEngine(setupOf(task, found), context))
  last = opening.catch(() => undefined)
  return opening
}

const mori: Backend<MoriOptions> = {
  [backendSymbol]: contractVersion,
  name: 'mori',
  probe,
  open,
  library: wheelLibrary({
    name: 'mori',
    versions: supportedVersions,
    flavours: [],
    spec: wheelSpec,
  }),
}

export default mori
