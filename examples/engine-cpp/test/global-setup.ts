import { execFileSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

/** Builds the addon, as `npx @kvx/native build .` does, where it is older than its sources. */
export function setup(): void {
  const native = dirname(createRequire(import.meta.url).resolve('@kvx/native/package.json'))
  const folder = join(import.meta.dirname, '..')
  execFileSync(process.execPath, [join(native, 'bin/kvx-native.js'), 'build', folder])
}
