import { existsSync } from 'node:fs'
import { isBackend, silentLog } from '@kvx/contract'
import { KVManager } from '@kvx/core'
import { loadBackend } from '@kvx/core/backend'
import { allocate } from '@kvx/native'
import shm from '@kvx/shm'
import { expect, test } from 'vitest'
import { newGeneration, open } from './processes.ts'

const context = () => ({ generation: newGeneration(), log: silentLog })

test('it is found by its name', async () => {
  expect(isBackend(shm)).toBe(true)
  expect((await loadBackend('shm', { from: import.meta.url })).name).toBe('shm')
})

test('its probe says that it can run here', async () => {
  expect(await shm.probe()).toMatchObject({ available: true, tried: [] })
})

test('its identity and capabilities are plain, frozen facts', async () => {
  const given = context()
  const engine = await shm.open({}, given)
  expect(engine.identity).toEqual({ backend: 'shm', version: '1', generation: given.generation })
  expect(engine.capabilities).toMatchObject({
    memoryKinds: existsSync('/dev/nvidiactl') ? ['cpu', 'cuda'] : ['cpu'],
    crossHost: false,
    fence: 'exit',
  })
  expect(Object.isFrozen(engine.capabilities)).toBe(true)
  await engine.close()
})

test('an unknown option is refused by name, with the nearest that exists', async () => {
  await expect(shm.open({ copyThread: 2 } as never, context())).rejects.toMatchObject({
    code: 'ERR_KVX_INVALID_OPTION',
    message: expect.stringMatching(/'copyThread'.*'copyThreads'/) as string,
  })
})

test('a manager that is opened with the backend itself has its options checked by the compiler', async () => {
  const cache = {
    shape: {
      ...{ model: 'm', layers: 1 },
      components: [
        {
          ...{ name: 'kv', addressed: 'tokens' as const },
          tensors: [{ layer: 0, part: 'k', dtype: 'f16', units: 1, unitBytes: 64 }],
        },
      ],
    },
    place: {
      components: { kv: { pageTokens: 1, pages: 4 } },
      tensors: [
        {
          ...{ component: 'kv', layer: 0, part: 'k', region: 0, base: 0, pageBytes: 64 },
          order: 'NHD' as const,
        },
      ],
    },
  }
  const pool = allocate(4 * 64)
  const memory = [pool]
  const common = { ...cache, memory, role: 'decode' as const, token: 'a token for tests' }
  {
    await using manager = await KVManager.open({
      ...{ ...common, backend: shm },
      backendOptions: { copyThreads: 2 },
    })
    expect(manager.engine.backend).toBe('shm')
  }
  await expect(
    // @ts-expect-error: it is called copyThreads
    KVManager.open({ ...common, backend: shm, backendOptions: { copyThread: 2 } }),
  ).rejects.toMatchObject({ code: 'ERR_KVX_INVALID_OPTION' })
  pool.free()
})

test('a number of copy threads that makes no sense is refused', async () => {
  for (const copyThreads of [0, -1, 1.5, 65, NaN, '2', null]) {
    await expect(shm.open({ copyThreads } as never, context())).rejects.toMatchObject({
      code: 'ERR_KVX_INVALID_OPTION',
      message: expect.stringContaining("'copyThreads'") as string,
    })
  }
  await expect(shm.open('fast' as never, context())).rejects.toMatchObject({
    code: 'ERR_KVX_INVALID_OPTION',
  })
})

test('two engines of one generation cannot live side by side', async () => {
  const given = context()
  const engine = await shm.open({}, given)
  await expect(shm.open({}, given)).rejects.toMatchObject({ code: 'ERR_KVX_BACKEND_UNAVAILABLE' })
  await engine.close()
  await (await shm.open({}, given)).close()
})

test('a hundred engines opened and closed leave no descriptor and no thread behind', async () => {
  const { readdirSync } = await import('node:fs')
  await (await open()).close()
  const count = () => ({
    files: readdirSync('/proc/self/fd').length,
    threads: readdirSync('/proc/self/task').length,
  })
  const before = count()
  for (let i = 0; i < 100; i++) await (await open({ copyThreads: 2 })).close()
  expect(count()).toEqual(before)
})
