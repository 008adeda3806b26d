import { join } from 'node:path'
import type { OpenContext, TransferEngine } from '@kvx/contract'
import { openNativeEngine } from '@kvx/native'
import { binding, fakeVerbs, standIns } from './addon.ts'
import { defaults, setForMori, usersValue } from './environment.ts'
import type { Library } from './library.ts'
import type { CheckedOptions } from './options.ts'

/** All that decides how an engine is opened. Plain data: it is sent to the helper process as it is. */
export interface Setup {
  readonly options: CheckedOptions
  readonly library: Library
  /** Whether ROCm's management library works; else the stand-in takes its place. */
  readonly rocmSmi: boolean
  /** Whether ROCm's run-time is here and counts a GPU. */
  readonly gpu: boolean
}

/** Opens an engine in this process, without looking first whether that is safe. */
export function openEngine(setup: Setup, context: OpenContext): Promise<TransferEngine> {
  const { options, library } = setup
  setEnvironment(setup)
  return openNativeEngine(binding(), {
    backend: 'mori',
    version: library.version,
    options: {
      library: library.path,
      version: library.version,
      standIns: standIns(),
      verbs: fakeVerbs(),
      host: options.host,
      qpPerTransfer: options.qpPerTransfer,
      postBatchSize: options.postBatchSize,
      numWorkers: options.numWorkers,
      gpu: setup.gpu,
    },
    refusals: { hip: withoutRocm, cuda: 'MORI moves memory of AMD GPUs' },
    context,
  })
}

export const withoutRocm = "ROCm's libraries are not here, or count no GPU"

function setEnvironment({ options, rocmSmi }: Setup): void {
  const addon = binding()
  const values: Record<string, string | undefined> = {
    MORI_RDMA_DEVICES: options.devices?.join(','),
    MORI_ROCM_SMI_PATH: rocmSmi ? undefined : join(standIns(), 'librocm_smi64.so.1'),
  }
  for (const [name, value] of Object.entries(defaults)) {
    if (usersValue(name) === undefined) values[name] = value
  }
  setForMori((name, value) => {
    addon.setEnvironment(name, value)
  }, values)
}
