import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'

const build = fileURLToPath(new URL('../../../tools/native/gyp.mjs', import.meta.url))

/** Builds what the binding.gyp of a folder names, where it is older than its sources. Who comes second waits. */
export async function buildAddon(folder: URL): Promise<void> {
  const path = fileURLToPath(folder)
  const command = [join(path, 'binding.gyp'), process.execPath, build, path]
  const child = spawn('flock', command, { stdio: ['ignore', 'pipe', 'pipe'] })
  const [[status], stdout, stderr] = await Promise.all([
    once(child, 'close'),
    text(child.stdout),
    text(child.stderr),
  ])
  if (status !== 0) throw new Error(`${path} could not be built.\n${stdout}${stderr}`)
}
