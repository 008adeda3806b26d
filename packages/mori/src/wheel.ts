import { invalidOption, type WheelSpec } from '@kvx/vendor'

/**
 * The versions of MORI whose structures are known (native/abi.h), and the digest of each one's wheel. The wheel
 * for Python 3.10 is taken because its libraries ask for the oldest glibc (2.35); no Python is loaded.
 */
const wheels: Readonly<Record<string, string>> = {
  '1.2.4': 'ba60848d9f10fe2de1848d4d4cd5edbae1f7bb3421c3200b66a3c91f52886e02',
  '1.2.3.post1': '31c1af3601f2f69084b4c1fa344e651827e1f4ccb9d351ae1f4fdd1dfeb61613',
  '1.2.3': 'b2b3b77251af615fc66b94b09649161f4acedc417bfd6fecdfc769ff734274ce',
  '1.2.2': 'c6e87d2a8f3b4c9849f0f22f67d64cb9ad395b10e32664f353ba54b22e84206b',
}

export const supportedVersions: readonly string[] = Object.keys(wheels)
export const defaultVersion = '1.2.4'

/**
 * The wheel that `kvx backend install mori` installs.
 * @throws KvxError `ERR_KVX_INVALID_OPTION` for another version or a flavour
 */
export function wheelSpec(
  options: { version?: string | undefined; flavour?: string | undefined } = {},
): WheelSpec {
  const version = options.version ?? defaultVersion
  const sha256 = wheels[version]
  if (sha256 === undefined) {
    throw invalidOption(
      `MORI ${version} is not supported; supported are ${supportedVersions.join(', ')}.`,
    )
  }
  if (options.flavour !== undefined)
    throw invalidOption(`MORI has no flavours; '${options.flavour}' was asked for.`)
  return {
    name: 'mori',
    version,
    project: 'amd-mori',
    pipArguments: ['--python-version', '3.10', '--platform', 'manylinux_2_35_x86_64'],
    sha256: { [`amd_mori-${version}-cp310-cp310-manylinux_2_35_x86_64.whl`]: sha256 },
    files: [
      'mori/_version.py',
      'mori/libmori_io.so',
      'mori/libmori_application.so',
      `amd_mori-${version}.dist-info/`,
    ],
  }
}
