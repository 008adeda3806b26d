import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'

/** A project that has @kvx/core as a link, as pnpm, workspaces and `npm link` install it. */
let project = ''
beforeAll(() => {
  project = mkdtempSync(join(tmpdir(), 'kvx-linked-'))
  mkdirSync(join(project, 'node_modules/@kvx'), { recursive: true })
  const core = realpathSync(join(import.meta.dirname, '..'))
  symlinkSync(core, join(project, 'node_modules/@kvx/core'))
})
afterAll(() => {
  rmSync(project, { recursive: true })
})

test.each([
  ['while a control port is open', ''],
  ['after it was closed', 'await server.close()'],
  [
    'after it could not be opened',
    `await BootstrapServer.open({ ...options, port: server.port }).then(
       () => process.exit(1),
       (error) => { if (error.code !== 'ERR_KVX_ADDRESS_UNAVAILABLE') throw error },
     )`,
  ],
])('a linked package still finds its dependencies %s', (_when, then) => {
  const program = join(project, 'main.mjs')
  writeFileSync(
    program,
    `import { BootstrapServer, silentLog } from '@kvx/core'
     const options = { host: '127.0.0.1', token: 'a token for the tests', log: silentLog }
     const server = await BootstrapServer.open({ ...options, port: 0 })
     ${then}
     await import('@kvx/core/protocol')
     await server.close()
     console.log('imported')`,
  )
  const { stdout, stderr } = spawnSync(process.execPath, [program], { encoding: 'utf8' })
  expect({ stdout, stderr }).toEqual({ stdout: 'imported\n', stderr: '' })
})
