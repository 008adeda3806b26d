import { tmpdir } from 'node:os'
import { expect, test } from 'vitest'
import { startWorker } from '../src/index.ts'

test.each(['0.0.0.0', '::'])(
  'a prefill worker that would tell decode %s as its host says what to do instead',
  async (host) => {
    const start = startWorker({
      mode: 'prefill',
      model: tmpdir(),
      host,
      token: 'a token for tests',
    })
    await expect(start).rejects.toMatchObject({
      code: 'ERR_KVX_INVALID_OPTION',
      message: expect.stringMatching(
        `${host} is no address to connect to: give .* --host`,
      ) as string,
    })
  },
)
