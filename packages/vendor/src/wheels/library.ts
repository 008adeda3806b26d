import type { VendorLibrary } from '@kvx/contract'
import { installWheel } from './install.ts'
import { listInstalled } from './installed.ts'
import type { WheelSpec } from './spec.ts'

/** The library of a backend whose vendor publishes it in Python wheels. */
export function wheelLibrary(wheels: {
  name: string
  versions: readonly string[]
  flavours: readonly string[]
  /** @throws KvxError `ERR_KVX_INVALID_OPTION` for an unknown version or flavour */
  spec: (options: { version?: string | undefined; flavour?: string | undefined }) => WheelSpec
}): VendorLibrary {
  return {
    versions: wheels.versions,
    flavours: wheels.flavours,
    // An unknown version or flavour rejects, as every other reason does.
    install: async ({ version, flavour, file, onProgress, signal } = {}) =>
      installWheel(wheels.spec({ version, flavour }), { wheelFile: file, onProgress, signal }),
    installed: () => listInstalled(wheels.name),
  }
}
