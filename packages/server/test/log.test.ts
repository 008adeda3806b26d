/** Can a line of the log be read by what reads JSON: is there each key once? */
import { spawnSync } from 'node:child_process'
import { expect, test } from 'vitest'

/** What a program writes to its log, a line an entry. */
function logOf(program: string): string[] {
  const { stderr, status } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
    ...{ cwd: import.meta.dirname, encoding: 'utf8', timeout: 50_000 },
  })
  expect(status, stderr).toBe(0)
  return stderr.trim().split('\n')
}

/** Of a line without objects in it. */
const keysOf = (line: string) => [...line.matchAll(/[{,]"(\w+)":/g)].map(([, key]) => key)

test('a field that stands on every line and on this one is there once, as this one says', () => {
  const [line = ''] = logOf(`
    import { makeLog } from '@kvx/server'
    const log = makeLog('info', { role: 'router', instance: 'a' })
    log.info({ instance: 'b', pid: 1 }, 'said')
  `)
  expect(keysOf(line)).toEqual([...new Set(keysOf(line))])
  expect(JSON.parse(line)).toMatchObject({ role: 'router', instance: 'b', pid: 1, msg: 'said' })
})

test('a router says of a worker that is not there which one it is, and of itself that it is the router', () => {
  const lines = logOf(`
    import { makeLog, startRouter } from '@kvx/server'
    const nobody = 'http://127.0.0.1:1'
    const log = makeLog('info', { role: 'router' })
    const router = await startRouter({ prefill: [{ url: nobody }], decode: [nobody], log })
    await fetch(router.url + '/health')
    await router.close()
  `)
  const told = lines.map((line) => JSON.parse(line))
  expect(told.map(({ role, msg }) => [role, msg])).toEqual(
    told.map(() => ['router', 'worker.unhealthy']),
  )
  expect(told.map(({ workerRole }) => workerRole).sort()).toEqual(['decode', 'prefill'])
})
