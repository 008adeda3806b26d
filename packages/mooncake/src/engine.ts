import type { OpenContext, TransferEngine } from '@kvx/contract'
import { openNativeEngine } from '@kvx/native'
import { binding } from './addon.ts'
import type { Library } from './library.ts'
import type { CheckedOptions } from './options.ts'

/** All that decides how an engine is opened. Plain data: it is sent to the helper process as it is. */
export interface Setup {
  readonly options: CheckedOptions
  readonly library: Library
  readonly requestBytes: number
}

/** Opens an engine in this process, without looking first whether that is safe. */
export function openEngine(setup: Setup, context: OpenContext): Promise<TransferEngine> {
  const { options, library, requestBytes } = setup
  return openNativeEngine(binding(), {
    backend: 'mooncake',
    options: {
      library: library.path,
      requestBytes,
      version: library.version ?? 'unknown',
      protocol: options.protocol,
      devices: options.devices?.join(','),
      hostname: options.hostname,
      metadata: options.metadataServer,
      maxBatch: options.maxBatchSegments,
      maxSegmentBytes: options.maxSegmentBytes,
    },
    refusals: { cuda: withoutGpus('cuda'), hip: withoutGpus('hip') },
    context,
  })
}

const gpuFlavours = { cuda: 'cuda13 or cuda', hip: 'rocm' } as const

/** Why a library takes no memory of such GPUs, where it does not. */
export function withoutGpus(kind: keyof typeof gpuFlavours): string {
  return `this Mooncake was built without ${kind === 'cuda' ? 'CUDA' : 'ROCm'}, which its flavour ${gpuFlavours[kind]} has (kvx backend install mooncake --flavour)`
}
