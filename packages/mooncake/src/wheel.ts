import { invalidOption, type WheelSpec } from '@kvx/vendor'

export const flavours = ['non-cuda', 'cuda', 'cuda13', 'rocm'] as const
export type Flavour = (typeof flavours)[number]
export const defaultFlavour: Flavour = 'non-cuda'

interface Published {
  /** Project at the package index; with underscores it is the name of the wheel's folders. */
  readonly project: string
  readonly platform: string
  /** Digest of the wheel for CPython 3.11, by version, the default version first. No Python is loaded. */
  readonly sha256: Readonly<Record<string, string>>
}

const published: Readonly<Record<Flavour, Published>> = {
  'non-cuda': {
    project: 'mooncake-transfer-engine-non-cuda',
    platform: 'manylinux_2_28_x86_64',
    sha256: {
      '0.3.13.post1': 'ca9f668a04ffe648b250fda28b97d0a7da149cb110dec5cf3d166a9e68afc940',
      '0.3.13': '92f59a3d3e3d645ddf37be9ce54259cacb0289d63aa18a077f356742fad25872',
      '0.3.12.post1': '691b4df2a74e32fd9b1877317097d26fd8c5f48692fba920caf5e3a518f36911',
    },
  },
  cuda: {
    project: 'mooncake-transfer-engine',
    platform: 'manylinux_2_28_x86_64',
    sha256: { '0.3.13.post1': '81e6d425a097b4915bdc9efbe2fe89d779dc2bd70e48a5a69c248cc9b250bafe' },
  },
  cuda13: {
    project: 'mooncake-transfer-engine-cuda13',
    platform: 'manylinux_2_28_x86_64',
    sha256: { '0.3.14': '1fc1d8597e5501d6967a3d2835878500460d7dd40999f6f987131126dcba5c8f' },
  },
  rocm: {
    project: 'mooncake-transfer-engine-rocm',
    platform: 'manylinux_2_35_x86_64',
    sha256: { '0.3.13.post1': '2ea80c901c7ef088306349560059f542877b6b74e34693cb498acd7f8891a410' },
  },
}

/** Every version that can be installed, newest first. Not every flavour has every version. */
export const supportedVersions: readonly string[] = [
  '0.3.14',
  '0.3.13.post1',
  '0.3.13',
  '0.3.12.post1',
]

/**
 * The wheel that `kvx backend install mooncake` installs.
 * @throws KvxError `ERR_KVX_INVALID_OPTION` for another flavour, or a version that the flavour lacks
 */
export function wheelSpec(
  options: { version?: string | undefined; flavour?: string | undefined } = {},
): WheelSpec {
  const flavour = flavourOf(options.flavour ?? defaultFlavour)
  const { project, platform, sha256 } = published[flavour]
  const versions = Object.keys(sha256)
  const version = options.version ?? versions[0] ?? ''
  const digest = sha256[version]
  if (digest === undefined) {
    const why = tooOld(version)
    throw invalidOption(
      `Mooncake ${version} of the flavour ${flavour} cannot be installed` +
        `${why === undefined ? '' : `: ${why}`}. Known are: ${versions.join(', ')}.`,
    )
  }
  const name = project.replaceAll('-', '_')
  return {
    name: 'mooncake',
    version,
    flavour,
    project,
    pipArguments: ['--python-version', '3.11', '--platform', platform],
    sha256: { [`${name}-${version}-cp311-cp311-${platform}.whl`]: digest },
    files: [
      'mooncake/engine.so',
      'mooncake/libasio.so',
      'mooncake/transfer_engine_bench',
      `${name}.libs/`,
      `${name}-${version}.dist-info/`,
    ],
  }
}

/** Why a version cannot be used, or undefined. */
export function tooOld(version: string): string | undefined {
  const [major = 0, minor = 0, patch = 0, post = 0] = (version.match(/\d+/g) ?? []).map(Number)
  const number = ((major * 1000 + minor) * 1000 + patch) * 1000 + post
  if (number >= 3_012_001) return undefined
  return (
    `Mooncake ${version} is too old; 0.3.12.post1 is the first that can be used. Older ones report a write ` +
    'as completed before the target has it, and do not check the addresses they write to'
  )
}

function flavourOf(name: string): Flavour {
  const flavour = flavours.find((known) => known === name)
  if (flavour !== undefined) return flavour
  throw invalidOption(`Mooncake has no flavour '${name}'. It has: ${flavours.join(', ')}.`)
}
