// process.exit closes no engine: its threads run on while the C library destroys what was registered for that.
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const packages = fileURLToPath(new URL('../../', import.meta.url))
const addons = readdirSync(packages)
  .filter((name) => existsSync(`${packages}${name}/native/addon.json`))
  .flatMap((name) => {
    const folder = `${packages}${name}/build/Release/`
    const files = existsSync(folder) ? readdirSync(folder) : []
    return files.filter((file) => file.endsWith('.node')).map((file) => `${folder}${file}`)
  })

test('no addon has anything destroyed while its threads may still use it', () => {
  expect(addons.length).toBeGreaterThan(0)
  expect(addons.filter((file) => readFileSync(file).includes('__cxa_atexit'))).toEqual([])
})
